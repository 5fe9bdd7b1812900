package main

import (
	"bytes"
	"fmt"
	"strings"
)

// program is the text of assembly and of the Go declarations that go with it.
type program struct {
	text, stubs bytes.Buffer
	params      []string // of the function at hand
	taken       int      // of its registers of vectors
}

// gp is a general register.
type gp int

func (r gp) String() string { return fmt.Sprintf("R%d", int(r)) }

// vec is a register of 16 bytes.
type vec int

func (v vec) String() string { return fmt.Sprintf("V%d.B16", int(v)) }

// vecs takes n neighbouring registers.
func (p *program) vecs(n int) []vec {
	v := make([]vec, n)
	for i := range v {
		v[i] = vec(p.taken + i)
	}
	if p.taken += n; p.taken > 32 {
		panic(fmt.Sprintf("%d registers of vectors", p.taken))
	}
	return v
}

// list is how instructions of several registers name them.
func list(v []vec) string {
	var names []string
	for _, r := range v {
		names = append(names, r.String())
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func imm(n int) string { return fmt.Sprintf("$%d", n) }

// mem is the memory disp behind an address; with a name in .P, after that the register
// grows by disp.
func mem(disp int, base gp) string { return fmt.Sprintf("%d(%v)", disp, base) }

// function begins a function; all its parameters are of eight bytes.
func (p *program) function(name, doc string, params ...string) {
	p.params, p.taken = params, 0
	signature := fmt.Sprintf("func %s(%s)", name, strings.Join(params, ", "))
	fmt.Fprintf(&p.text, "\n// %s\nTEXT ·%s(SB), NOSPLIT, $0-%d\n", signature, name, 8*len(params))
	fmt.Fprintf(&p.stubs, "\n// %s %s\n//\n//go:noescape\n%s\n", name, doc, signature)
}

// param is where a parameter of the function is.
func (p *program) param(name string) string {
	for i, param := range p.params {
		if strings.HasPrefix(param, name+" ") {
			return fmt.Sprintf("%s+%d(FP)", name, 8*i)
		}
	}
	panic("no parameter " + name)
}

func (p *program) label(name string) { fmt.Fprintf(&p.text, "\n%s:\n", name) }

func (p *program) op(name string, operands ...any) {
	var text []string
	for _, o := range operands {
		text = append(text, fmt.Sprint(o))
	}
	line := fmt.Sprintf("\t%-7s %s", name, strings.Join(text, ", "))
	p.text.WriteString(strings.TrimRight(line, " ") + "\n")
}

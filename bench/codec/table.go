package codec

import (
	"fmt"
	"slices"
	"strings"
)

// Table returns the report as Markdown.
func (r *Report) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, last-level cache %d MiB, kernel %s, %s of %v\n\n", r.CPU, r.LLC>>20, r.Default, rounds(r.Rounds), r.Window)
	r.schemes(&b)
	r.kernels(&b)
	r.stock(&b)
	r.headers(&b)
	return b.String()
}

func rounds(n int) string {
	if n == 1 {
		return "one round"
	}
	return fmt.Sprintf("medians of %d rounds", n)
}

// at returns the row of an engine in the case of another row, or nil.
func (r *Report) at(like Row, engine string) *Row {
	like.Engine = engine
	return r.find(like)
}

func (r *Report) find(want Row) *Row {
	for i, row := range r.Rows {
		if row.Type == want.Type && row.K == want.K && row.M == want.M && row.Segment == want.Segment &&
			row.Loss == want.Loss && row.Stream == want.Stream && row.Engine == want.Engine {
			return &r.Rows[i]
		}
	}
	return nil
}

func segmentName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}

// segments returns the segment sizes that were measured, the largest first.
func (r *Report) segments() []int {
	var out []int
	for _, row := range r.Rows {
		if !slices.Contains(out, row.Segment) {
			out = append(out, row.Segment)
		}
	}
	slices.SortFunc(out, func(a, b int) int { return b - a })
	return out
}

func (r *Report) schemes(b *strings.Builder) {
	fmt.Fprintf(b, "GB/s of survivors, and how many times that of the exclusive or and of the copy of the same survivors:\n\n| scheme | lost |")
	for _, s := range r.segments() {
		fmt.Fprintf(b, " %s, in cache | streaming |", segmentName(s))
	}
	fmt.Fprintf(b, "\n|---|---|%s\n", strings.Repeat("---|---|", len(r.segments())))
	last := ""
	for _, row := range r.Rows {
		if row.Engine != r.Default || row.Stream || row.Segment != r.segments()[0] {
			continue
		}
		name := fmt.Sprintf("%s %d+%d", row.Type, row.K, row.M)
		show := name
		if name == last {
			show = ""
		}
		last = name
		fmt.Fprintf(b, "| %s | %s |", show, row.Loss)
		for _, s := range r.segments() {
			for _, stream := range []bool{false, true} {
				row.Segment, row.Stream = s, stream
				fmt.Fprintf(b, " %s |", cell(r.at(row, r.Default)))
			}
		}
		b.WriteByte('\n')
	}
}

func cell(row *Row) string {
	if row == nil {
		return "-"
	}
	return fmt.Sprintf("%.1f (%.2f, %.2f)", row.GBps, row.ToXOR, row.ToMemcpy)
}

// kernels compares them on 10 data fragments and the largest segments.
func (r *Report) kernels(b *strings.Builder) {
	type column struct {
		head string
		row  Row
	}
	var columns []column
	for _, c := range []struct{ field, typ, loss string }{
		{"XOR", "isa_l_rs_vand", "d0"}, {"GF(2^8)", "isa_l_rs_vand", "P1"}, {"GF(2^8), two outputs", "isa_l_rs_vand", "d0 d1"},
		{"GF(2^16)", "liberasurecode_rs_vand", "P1"}, {"GF(2^16), two outputs", "liberasurecode_rs_vand", "d0 d1"},
		{"packets", "jerasure_rs_cauchy", "d0"},
	} {
		row := Row{Type: c.typ, K: 10, M: 4, Segment: r.segments()[0], Loss: c.loss, Engine: r.Default}
		if r.find(row) != nil {
			columns = append(columns, column{c.field, row})
		}
	}
	if len(columns) == 0 {
		return
	}
	fmt.Fprintf(b, "\nThe same by kernel, 10+4, %s, in cache / streaming:\n\n| kernel |", segmentName(r.segments()[0]))
	for _, c := range columns {
		fmt.Fprintf(b, " %s |", c.head)
	}
	fmt.Fprintf(b, "\n|---|%s\n", strings.Repeat("---|", len(columns)))
	for _, engine := range append(slices.Clone(r.Kernels), Liberasurecode, XOR, Memcpy) {
		fmt.Fprintf(b, "| %s |", engine)
		for _, c := range columns {
			cache := r.at(c.row, engine)
			streaming := c.row
			streaming.Stream = true
			stream := r.at(streaming, engine)
			if cache == nil || stream == nil {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(b, " %.1f / %.1f |", cache.GBps, stream.GBps)
		}
		b.WriteByte('\n')
	}
}

// stock compares with liberasurecode on the largest segments.
func (r *Report) stock(b *strings.Builder) {
	head := false
	for _, row := range r.Rows {
		if row.Engine != Liberasurecode || row.Stream || row.Segment != r.segments()[0] {
			continue
		}
		if !head {
			head = true
			fmt.Fprintf(b, "\nliberasurecode's own API, %s: GB/s of survivors, and how many times as fast %s is:\n\n", segmentName(row.Segment), r.Default)
			b.WriteString("| scheme | lost | in cache | streaming |\n|---|---|---|---|\n")
		}
		fmt.Fprintf(b, "| %s %d+%d | %s |", row.Type, row.K, row.M, row.Loss)
		for _, stream := range []bool{false, true} {
			row.Stream = stream
			theirs, ours := r.at(row, Liberasurecode), r.at(row, r.Default)
			if theirs == nil || ours == nil {
				b.WriteString(" - |")
				continue
			}
			fmt.Fprintf(b, " %.2f (%.1f) |", theirs.GBps, theirs.NanosPerSegment/ours.NanosPerSegment)
		}
		b.WriteByte('\n')
	}
}

// headers says what reading and writing headers adds to a segment.
func (r *Report) headers(b *strings.Builder) {
	head := false
	for _, row := range r.Rows {
		if row.Engine != Headers {
			continue
		}
		if !head {
			head = true
			b.WriteString("\nHeaders of one segment (the survivors' read and checked, the lost one's written), and their part of its payloads' time in cache:\n\n| scheme | segment | ns | part |\n|---|---|---|---|\n")
		}
		fmt.Fprintf(b, "| %s %d+%d | %s | %.0f | %.1f %% |\n", row.Type, row.K, row.M, segmentName(row.Segment),
			row.NanosPerSegment, 100*row.NanosPerSegment/r.at(row, r.Default).NanosPerSegment)
	}
}

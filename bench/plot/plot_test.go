package plot

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
)

// Every point, mark and name is there, in XML that can be parsed, and inside the picture.
func TestAPlotShowsItsPoints(t *testing.T) {
	p := Plot{Title: "a < b", X: "size", Y: "GB/s", Mark: func(x float64) string { return fmt.Sprintf("%gK", x) }, Lines: []Line{
		{Name: "one", Points: []Point{{X: 64, Y: 1}, {X: 16, Y: 3, Least: 2, Most: 4.2}}}, {Name: "two & three", Points: []Point{{X: 64, Y: 0}}}}}
	var b strings.Builder
	if n, err := p.WriteTo(&b); err != nil || n != int64(b.Len()) {
		t.Fatal(n, err)
	}
	d := xml.NewDecoder(strings.NewReader(b.String()))
	count, texts := map[string]int{}, ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, b.String())
		}
		switch e := token.(type) {
		case xml.StartElement:
			count[e.Name.Local]++
			for _, a := range e.Attr {
				var at float64
				if _, err := fmt.Sscan(a.Value, &at); err == nil && strings.Contains("cx cy x1 x2 y1 y2", a.Name.Local) && (at < 0 || at > width) {
					t.Errorf("%s %s=%s lies outside", e.Name.Local, a.Name.Local, a.Value)
				}
			}
		case xml.CharData:
			texts += string(e)
		}
	}
	if count["circle"] != 3 || count["polyline"] != 2 {
		t.Errorf("%v", count)
	}
	for _, want := range []string{"a < b", "two & three", "64K", "16K", "GB/s", "size"} {
		if !strings.Contains(texts, want) {
			t.Errorf("no %q in %q", want, texts)
		}
	}
}

func TestWhatCanNotBeDrawnIsAnError(t *testing.T) {
	for _, q := range []Point{{X: 0, Y: 1}, {X: 1, Y: math.NaN()}, {X: 1, Y: math.Inf(1)}, {X: 1, Y: -1}, {X: 1, Y: 0}} {
		p := Plot{Mark: func(float64) string { return "" }, Lines: []Line{{Points: []Point{q}}}}
		if n, err := p.WriteTo(io.Discard); err == nil {
			t.Errorf("%v: %d bytes", q, n)
		}
	}
}

func TestRound(t *testing.T) {
	for v, want := range map[float64]float64{1: 1, 1.1: 2, 0.03: 0.05, 600: 1000, 20: 20} {
		if got := round(v); math.Abs(got-want) > 1e-9*want {
			t.Errorf("round(%g) = %g, not %g", v, got, want)
		}
	}
}

// Package plot draws lines into an SVG file: enough for BENCHMARKS.md, no more.
package plot

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"slices"
	"strings"
)

// Point is a place of a line. Least and Most, if they differ, are drawn as a bar.
type Point struct{ X, Y, Least, Most float64 }

// Line is a series of points, from left to right.
type Line struct {
	Name   string
	Points []Point
}

// Plot is what is drawn. The x axis is logarithmic to base 2, and has a mark for each X of a point; the y axis begins at 0.
type Plot struct {
	Title, X, Y string
	Mark        func(x float64) string // names a place of the x axis
	Lines       []Line
}

const (
	width, height             = 720, 400
	left, right, top, bottom  = 60, 170, 40, 50
	innerWidth, innerHeight   = width - left - right, height - top - bottom
	marksOnY                  = 5
	axis, grid, font, caption = "#444", "#ddd", "font-family='sans-serif' font-size='12'", "fill='#222'"
)

// colors are told apart by people who see few colors, too.
var colors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

// WriteTo writes the SVG.
func (p *Plot) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	var xs []float64
	most := 0.0
	for _, l := range p.Lines {
		for _, q := range l.Points {
			if !(q.X > 0) || q.Y < 0 || math.IsInf(q.X, 0) || math.IsInf(max(q.Y, q.Most), 0) || math.IsNaN(max(q.Y, q.Most)) {
				return 0, fmt.Errorf("cannot draw the point %v of %s", q, l.Name)
			}
			xs = append(xs, q.X)
			most = max(most, q.Y, q.Most)
		}
	}
	if len(xs) == 0 || most == 0 {
		return 0, fmt.Errorf("%s: nothing to draw", p.Title)
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	step := round(most / marksOnY)
	least, span := math.Log2(xs[0]), max(math.Log2(xs[len(xs)-1])-math.Log2(xs[0]), 1)
	x := func(v float64) float64 { return left + (math.Log2(v)-least)/span*innerWidth }
	y := func(v float64) float64 { return top + innerHeight*(1-v/(step*math.Ceil(most/step))) }
	text := func(atX, atY float64, anchor, s string) {
		fmt.Fprintf(&b, "<text x='%.1f' y='%.1f' text-anchor='%s' %s %s>%s</text>\n", atX, atY, anchor, font, caption, html.EscapeString(s))
	}
	stroke := func(x1, y1, x2, y2 float64, color string, wide float64) {
		fmt.Fprintf(&b, "<line x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f' stroke='%s' stroke-width='%.1f'/>\n", x1, y1, x2, y2, color, wide)
	}
	fmt.Fprintf(&b, "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %d %d' width='%d' height='%d'>\n<rect width='100%%' height='100%%' fill='white'/>\n", width, height, width, height)
	text(left, top-18, "start", p.Title)
	for i := 0; float64(i)*step <= step*math.Ceil(most/step)*1.001; i++ {
		v := float64(i) * step
		stroke(left, y(v), left+innerWidth, y(v), grid, 1)
		text(left-8, y(v)+4, "end", fmt.Sprintf("%.4g", v))
	}
	for _, v := range xs {
		stroke(x(v), top+innerHeight, x(v), top+innerHeight+5, axis, 1)
		text(x(v), top+innerHeight+20, "middle", p.Mark(v))
	}
	stroke(left, top+innerHeight, left+innerWidth, top+innerHeight, axis, 1)
	stroke(left, top, left, top+innerHeight, axis, 1)
	text(left+innerWidth/2, height-10, "middle", p.X)
	fmt.Fprintf(&b, "<text x='16' y='%d' transform='rotate(-90 16 %d)' text-anchor='middle' %s %s>%s</text>\n", top+innerHeight/2, top+innerHeight/2, font, caption, html.EscapeString(p.Y))
	for i, l := range p.Lines {
		color := colors[i%len(colors)]
		points := slices.SortedFunc(slices.Values(l.Points), func(a, b Point) int { return cmp.Compare(a.X, b.X) })
		var path []string
		for _, q := range points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(q.X), y(q.Y)))
			fmt.Fprintf(&b, "<circle cx='%.1f' cy='%.1f' r='3' fill='%s'/>\n", x(q.X), y(q.Y), color)
			if q.Least < q.Most {
				stroke(x(q.X), y(q.Least), x(q.X), y(q.Most), color, 1)
			}
		}
		fmt.Fprintf(&b, "<polyline points='%s' fill='none' stroke='%s' stroke-width='2'/>\n", strings.Join(path, " "), color)
		stroke(left+innerWidth+15, top+10+20*float64(i), left+innerWidth+35, top+10+20*float64(i), color, 2)
		text(left+innerWidth+40, top+14+20*float64(i), "start", l.Name)
	}
	b.WriteString("</svg>\n")
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// round is 1, 2 or 5 times a power of ten, at least v.
func round(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, f := range []float64{1, 2, 5} {
		if v <= f*power*1.0001 {
			return f * power
		}
	}
	return 10 * power
}

package rebuild

import (
	"fmt"

	"imping/bench/plot"
)

// bySize shows rates against the size of objects.
func bySize(cases [][]*Row) *plot.Plot {
	p := &plot.Plot{Title: fmt.Sprintf("%s: rate by size of objects", cases[0][0].Load.Scheme), X: "size of an object", Y: "GB/s of survivors",
		Mark: func(x float64) string { return Size(int64(x)) }}
	for i, r := range cases[0] {
		line := plot.Line{Name: lineName(r)}
		for _, rows := range cases {
			r := rows[i]
			rate, least, most := r.spread(func(round int) float64 { return float64(r.Read) / r.Samples[round].Wall / 1e9 })
			line.Points = append(line.Points, plot.Point{X: float64(r.Load.Size), Y: rate, Least: least, Most: most})
		}
		p.Lines = append(p.Lines, line)
	}
	return p
}

func lineName(r *Row) string {
	if r.Engine.Name == EngineLimit {
		return "limit"
	}
	return "verify " + r.Engine.String()
}

// byFlight shows the limit's rate against the objects in flight, of each size as a part of the best; imping decides itself how many it
// has in flight, and is shown across.
func byFlight(cases [][]*Row) *plot.Plot {
	p := &plot.Plot{Title: fmt.Sprintf("%s: rate by objects in flight", cases[0][0].Load.Scheme), X: "objects in flight", Y: "of the limit's best rate",
		Mark: func(x float64) string { return fmt.Sprintf("%.0f", x) }}
	for _, rows := range cases {
		if size := rows[0].Load.Size; size != 64<<10 && size != 16*mib {
			continue
		}
		best := 0.0
		for _, t := range rows[0].Tried {
			best = max(best, 1/t.Wall)
		}
		for _, r := range rows {
			line := plot.Line{Name: fmt.Sprintf("%s, %s", lineName(r), Size(r.Load.Size))}
			for _, t := range rows[0].Tried {
				rate := 1 / r.median(wall)
				if r == rows[0] {
					rate = 1 / t.Wall
				}
				line.Points = append(line.Points, plot.Point{X: float64(t.Depth), Y: rate / best})
			}
			p.Lines = append(p.Lines, line)
		}
	}
	return p
}

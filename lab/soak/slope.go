package soak

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// Sample is what the process had at one moment, when nothing was under way.
type Sample struct {
	Seconds     float64 `json:"seconds"` // since the process began to soak
	RSS         float64 `json:"rss"`     // bytes
	Heap        float64 `json:"heap"`    // live bytes, after a collection
	Goroutines  float64 `json:"goroutines"`
	Descriptors float64 `json:"descriptors"`
}

// TakeSample looks at this process, after a collection.
func TakeSample(since time.Time) (Sample, error) {
	runtime.GC()
	runtime.GC() // what finalizers and pools held is gone with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := Sample{Seconds: time.Since(since).Seconds(), Heap: float64(m.HeapAlloc), Goroutines: float64(runtime.NumGoroutine())}
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return s, err
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(b))[1], 64)
	if err != nil {
		return s, fmt.Errorf("cannot read /proc/self/statm: %w", err)
	}
	s.RSS = pages * float64(os.Getpagesize())
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return s, err
	}
	s.Descriptors = float64(len(fds) - 1) // without the one that reads the folder
	return s, nil
}

// Slope is how a figure moved over a soak: a line through the samples, least squares, the
// first third of them left out as warm-up.
type Slope struct {
	Name    string  `json:"name"`
	PerHour float64 `json:"per_hour"`
	Growth  float64 `json:"growth"` // over the time of the samples that count
	Noise   float64 `json:"noise"`  // standard error of Growth
	Last    float64 `json:"last"`
	Grows   bool    `json:"grows"` // beyond noise, and beyond what is of no matter
}

func (s Slope) String() string {
	verdict := "steady"
	if s.Grows {
		verdict = "GROWS"
	}
	return fmt.Sprintf("%s %.0f, %+.1f (± %.1f) over the soak, %+.1f an hour: %s", s.Name, s.Last, s.Growth, s.Noise, s.PerHour, verdict)
}

// minSamples below which nothing is said to grow: a line through a few points is chance.
const minSamples = 12

// certainty is how many standard errors a growth must be above nothing: chance alone
// gets there once in 30000 soaks.
const certainty = 4

// Slopes looks at each figure. Of no matter are one goroutine or descriptor, a megabyte of
// heap, and of resident memory, which the kernel and the collector move about, 8 MiB or a
// tenth.
func Slopes(samples []Sample) []Slope {
	samples = samples[len(samples)/3:]
	var list []Slope
	for _, f := range []struct {
		name   string
		least  float64
		tenths float64
		of     func(Sample) float64
	}{
		{"goroutines", 1, 0, func(s Sample) float64 { return s.Goroutines }},
		{"descriptors", 1, 0, func(s Sample) float64 { return s.Descriptors }},
		{"heap bytes", 1 << 20, 0, func(s Sample) float64 { return s.Heap }},
		{"resident bytes", 8 << 20, 1, func(s Sample) float64 { return s.RSS }},
	} {
		s := Slope{Name: f.name}
		if n := len(samples); n > 0 {
			s.Last = f.of(samples[n-1])
		}
		if len(samples) >= minSamples {
			s.PerHour, s.Growth, s.Noise = line(samples, f.of)
			s.Grows = s.Growth > max(f.least, f.tenths/10*s.Last) && s.Growth > certainty*s.Noise
		}
		list = append(list, s)
	}
	return list
}

func line(samples []Sample, of func(Sample) float64) (perHour, growth, noise float64) {
	n := float64(len(samples))
	var mx, my float64
	for _, s := range samples {
		mx += s.Seconds / n
		my += of(s) / n
	}
	var xx, xy float64
	for _, s := range samples {
		xx += (s.Seconds - mx) * (s.Seconds - mx)
		xy += (s.Seconds - mx) * (of(s) - my)
	}
	if xx == 0 {
		return 0, 0, 0
	}
	slope := xy / xx
	var rest float64
	for _, s := range samples {
		d := of(s) - my - slope*(s.Seconds-mx)
		rest += d * d
	}
	span := samples[len(samples)-1].Seconds - samples[0].Seconds
	return slope * 3600, slope * span, math.Sqrt(rest/(n-2)/xx) * span
}

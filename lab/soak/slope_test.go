package soak

import (
	"math/rand/v2"
	"testing"
)

func soaked(n int, at func(i int) Sample) map[string]Slope {
	var samples []Sample
	for i := range n {
		s := at(i)
		s.Seconds = float64(i) * 10
		samples = append(samples, s)
	}
	found := map[string]Slope{}
	for _, s := range Slopes(samples) {
		found[s.Name] = s
	}
	return found
}

func TestWhatIsSteadyOrWarmsUpDoesNotGrow(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for name, s := range soaked(200, func(i int) Sample {
		warm := float64(min(i, 50)) // it fills its pools in the first quarter
		return Sample{Goroutines: 20 + float64(random.IntN(3)), Descriptors: 30 + warm, Heap: 8e6 + random.Float64()*4e6, RSS: 60e6 + warm*1e6 + random.Float64()*10e6}
	}) {
		if s.Grows {
			t.Errorf("%s: %v", name, s)
		}
	}
}

func TestWhatGrowsIsSaidTo(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for name, s := range soaked(200, func(i int) Sample {
		up := float64(i)
		return Sample{Goroutines: 20 + up/20 + float64(random.IntN(3)), Descriptors: 30 + float64(i/25), Heap: 8e6 + up*3e4 + random.Float64()*4e6, RSS: 60e6 + up*2e5 + random.Float64()*10e6}
	}) {
		if !s.Grows {
			t.Errorf("%s: %v", name, s)
		}
	}
}

func TestAFewSamplesSayNothing(t *testing.T) {
	for name, s := range soaked(12, func(i int) Sample { return Sample{Goroutines: float64(i), Descriptors: float64(i)} }) {
		if s.Grows {
			t.Errorf("%s: %v", name, s)
		}
	}
	soaked(0, nil)
}

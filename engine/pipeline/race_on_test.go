//go:build race

package pipeline

// raceEnabled: the race detector makes sync.Pool forget at random, so allocations can not be counted.
const raceEnabled = true

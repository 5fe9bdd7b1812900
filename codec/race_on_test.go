//go:build race

package codec

// raceEnabled: under the race detector a sync.Pool loses what is given to it.
const raceEnabled = true

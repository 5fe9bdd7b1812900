//go:build race

package native_test

// raceEnabled shortens what the race detector makes slow.
const raceEnabled = true

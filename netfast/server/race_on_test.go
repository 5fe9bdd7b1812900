//go:build race

package server

// raceDetector tells that memory is not what it is otherwise.
const raceDetector = true

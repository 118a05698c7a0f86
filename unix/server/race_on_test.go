//go:build race

package server

// storm is how many refusals a test sends: the race detector makes each twenty times
// dearer.
const storm = 36_000

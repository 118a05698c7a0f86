//go:build !race

package server

// storm is how many refusals a test sends.
const storm = 1_000_000

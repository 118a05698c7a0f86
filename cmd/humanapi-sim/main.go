// Command humanapi-sim is the Human API simulator as a program: package
// exchange/humanapitest behind a loopback address, for trying things out and
// for measuring. It is no part of the product, never belongs near real data,
// and takes test secrets only.
package main

import "github.com/tokenvault/tokenvault/cmd/internal/run"

func main() { run.Main(simulate) }

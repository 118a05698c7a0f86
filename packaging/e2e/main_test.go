package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// binary is the product, built once for all tests; binaries is where it is.
var binary, binaries string

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "packaging/e2e: these tests become other users, and need root")
		return 1
	}
	dir, err := os.MkdirTemp("", "tv-bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // other users run it
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary, binaries = filepath.Join(dir, "tokenvault"), dir
	if mutant := os.Getenv(mutantBinary); mutant != "" {
		binary = mutant
		return m.Run()
	}
	if err := build(binary); err != nil {
		fmt.Fprintln(os.Stderr, "building the product:", err)
		return 1
	}
	return m.Run()
}

func build(out string, flags ...string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", out}, flags...), "../../cmd/tokenvault")...)
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

// switched is the product with the test switch: its clock can be set, and it can
// be made to die at a step of an exchange.
var switched = sync.OnceValues(func() (string, error) {
	out := filepath.Join(binaries, "tokenvault-testswitch")
	return out, build(out, "-tags", "testswitch")
})

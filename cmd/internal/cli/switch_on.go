//go:build testswitch

package cli

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// testSwitch reads two variables, in binaries that tests build with the tag
// testswitch:
//
//	TOKENVAULT_TEST_STEP=NAME[:N]  kill -9 at the Nth time (default 1) that an
//	                               exchange comes to that step (broker.Config.Step)
//	TOKENVAULT_TEST_PANIC=NAME[:N] a panic instead: "answering" is in the handler, the
//	                               others are in a goroutine that nobody recovers
//	TOKENVAULT_TEST_CLOCK=FILE     the clock is ahead by the duration in FILE, which
//	                               is read again each time somebody asks for the time
//	TOKENVAULT_TEST_OLDKERNEL=1    callers are told as before Linux 6.5
func testSwitch(env func(string) string) (switched, error) {
	var s switched
	s.peers.WithoutPeerPIDFD = env("TOKENVAULT_TEST_OLDKERNEL") != ""
	if file := env("TOKENVAULT_TEST_CLOCK"); file != "" {
		s.now = func() time.Time { return time.Now().Add(offset(file)) }
	}
	for variable, end := range map[string]func(){"TOKENVAULT_TEST_STEP": kill, "TOKENVAULT_TEST_PANIC": raise} {
		where := env(variable)
		if where == "" {
			continue
		}
		name, times, counted := strings.Cut(where, ":")
		n := 1
		if counted {
			var err error
			if n, err = strconv.Atoi(times); err != nil || n < 1 {
				return s, fmt.Errorf("%s=%q: wants NAME or NAME:N", variable, where)
			}
		}
		s.step = endAt(name, int64(n), end)
	}
	return s, nil
}

func offset(file string) time.Duration {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0 // not written yet
	}
	d, _ := time.ParseDuration(strings.TrimSpace(string(text)))
	return d
}

func endAt(name string, n int64, end func()) func(string) {
	var count atomic.Int64
	return func(step string) {
		if step == name && count.Add(1) == n {
			end()
		}
	}
}

func kill() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // nothing more happens in this goroutine
}

func raise() { panic("a test wants it") }

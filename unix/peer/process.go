package peer

import (
	"fmt"
	"net"
	"sync"
)

// Process is the process at the other end of a connection. The zero Process is
// nobody, uid 0 and contained, and is taken to be alive. All methods may be
// called concurrently.
type Process struct {
	mu         sync.Mutex
	caller     Caller
	identified bool
	hold       hold // of this operating system
}

// hold keeps a process from being mistaken for another one.
func (r Reader) hold(c *net.UnixConn) (*Process, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("reach the descriptor of a connection: %w", err)
	}
	p := &Process{}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = p.take(int(fd), r) }); err != nil {
		return nil, fmt.Errorf("hold the descriptor of a connection: %w", err)
	}
	if inner != nil {
		return nil, fmt.Errorf("ask the kernel for the credentials of a connection: %w", inner)
	}
	p.caller.Contained = true // until Identify knows better
	return p, nil
}

// Caller is what is known so far: before Identify the socket's credentials, no
// unit, and contained.
func (p *Process) Caller() Caller {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.caller
}

// Identify finds unit and containment, once; later calls return the same. What
// cannot be read, or not be trusted, is as it was before.
func (p *Process) Identify() Caller {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.identified {
		p.identified = true
		p.identify()
	}
	return p.caller
}

// Alive reports whether the process is still there: not exited, and not waiting
// to be reaped. Where no pidfd exists (macOS; before Linux 6.5 a caller from
// outside of our pid namespace) that cannot be told, and it is taken to be. A
// closed Process, and nil, are not alive.
func (p *Process) Alive() bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hold.alive()
}

// Close lets the process go. Closing twice, or nil, does no harm.
func (p *Process) Close() error {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.hold.close()
}

// label makes what a security module says fit for a record: printable ASCII, at
// most 128 bytes. The kernel's ends with a zero byte or a newline.
func label(b []byte) string {
	const most = 128
	out := make([]byte, 0, min(len(b), most))
	for _, c := range b {
		if c == 0 || c == '\n' || len(out) == most {
			break
		}
		if c < ' ' || c > '~' {
			c = '?'
		}
		out = append(out, c)
	}
	return string(out)
}

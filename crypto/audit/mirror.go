package audit

import (
	"bytes"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	mirrorLines = 4096
	mirrorBytes = 1 << 20
	// mirrorPatience is how long Close waits for who takes the lines.
	mirrorPatience = time.Second
)

// mirror hands lines to Config.Mirror. A nil one does nothing.
type mirror struct {
	path   string
	logger *slog.Logger
	queue  chan []byte
	bytes  atomic.Int64 // in the queue
	lost   atomic.Uint64
	closed chan struct{} // the goroutine may end
	done   chan struct{} // it has
}

func newMirror(path string, logger *slog.Logger) *mirror {
	return &mirror{
		path: path, logger: logger, queue: make(chan []byte, mirrorLines),
		closed: make(chan struct{}), done: make(chan struct{}),
	}
}

// start begins to hand over what is in the queue.
func (m *mirror) start(take func(line []byte)) {
	if m != nil {
		go m.run(take)
	}
}

// add queues a copy of a line, LF included, or counts it as lost. Calls come one
// after the other: the caller holds the log's mu.
func (m *mirror) add(line []byte) {
	if m == nil {
		return
	}
	n := int64(len(line))
	if m.bytes.Load()+n > mirrorBytes {
		m.lost.Add(1)
		return
	}
	m.bytes.Add(n)
	select {
	case m.queue <- bytes.Clone(line[:n-1]):
	default:
		m.bytes.Add(-n)
		m.lost.Add(1)
	}
}

func (m *mirror) missed() uint64 {
	if m == nil {
		return 0
	}
	return m.lost.Load()
}

// run ends when the mirror is closed and its queue is empty.
func (m *mirror) run(take func(line []byte)) {
	defer close(m.done)
	told := uint64(0)
	for closed := m.closed; ; {
		select {
		case line := <-m.queue:
			m.bytes.Add(-int64(len(line) + 1))
			take(line)
		case <-closed:
			closed = nil // nothing is added any more
		}
		if lost := m.lost.Load(); lost > told && len(m.queue) == 0 {
			m.logger.Warn("audit log: its mirror was too slow", "path", m.path, "lines_missed", lost-told)
			told = lost
		}
		if closed == nil && len(m.queue) == 0 {
			return
		}
	}
}

// close waits until the last line was taken, or is given up.
func (m *mirror) close() {
	if m == nil {
		return
	}
	close(m.closed)
	patience := time.NewTimer(mirrorPatience)
	defer patience.Stop()
	select {
	case <-m.done:
	case <-patience.C:
		m.logger.Warn("audit log: its mirror does not take the last lines", "path", m.path, "lines_missed", len(m.queue))
	}
}

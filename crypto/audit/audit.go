// Package audit keeps a log that shows when it was changed: JSON lines in a hash
// chain, signed about once a second (format.go has the format).
//
// It trusts its caller for what an event says, the kernel for the file, and the
// clock for nothing but the times it prints. Whoever can write the file can cut
// off what follows the last checkpoint that somebody else has seen, and can
// remove the log; only a copy of sequence and head elsewhere shows that. What they
// append while it is not open is kept, and marked for good as found unsigned.
//
// It never writes an event twice, never drops one silently, never prints a user's
// id (see [Log.Subject]), and never overwrites a segment.
//
// On a full disk it goes on in blocks that were allocated before (Config.Reserve).
// When those are used up Write fails with [ErrFull], and works again by itself as
// soon as there is room: a line that was not wholly written is cut off first.
//
// BUG: to cut a torn line off gives the whole reserve back to the file system for a
// moment, and another program may be quicker to take it.
package audit

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

// The kinds of [Event].
const (
	Attempt = "attempt" // something is about to be done upstream or in the store
	Outcome = "outcome" // how a request ended
	Note    = "note"    // what has no caller: aggregates, repairs, starts and stops
)

// What [Event].AppFrom says; "": the request named App, or is about no app. Whoever
// replays the log under other rules has to know: they may settle on another app.
const (
	FromRights  = "rights"  // the request named none, and App is the only one that its caller has, "" where that is none or several
	FromNowhere = "nowhere" // the request named an app that is not configured
)

// Event is one thing that happened. Empty fields are left out of the line. Pid
// and Contained are written whenever UID is there.
type Event struct {
	Kind      string // Attempt, Outcome or Note
	RequestID string
	Listener  string
	UID, GID  *uint32 // nil: no caller
	// Groups are the caller's supplementary groups. Only the first 16 are written;
	// GroupsCut then says that there were more.
	Groups     []uint32
	GroupsCut  bool
	PID        int32
	Unit       string
	Invocation string // of the unit, as systemd writes it: 32 hex digits
	Unproven   bool   // Unit was read without a proof that it is the caller's
	Label      string // of the Linux security module; for the record only
	Contained  bool
	Rule       string
	Grant      string
	App        string
	AppFrom    string // how App came about: "", [FromRights] or [FromNowhere]
	Route      string // the pattern, never the path
	Subject    string // from Log.Subject
	Status     int    // HTTP
	Error      string // a code of a closed set, never a message
	Outcome    string
	Count      int // how many an aggregated note stands for

	// Refusal is not written. It says that the line tells of something that its
	// caller gets for nothing: a refusal, or an aggregate of such. On a full disk
	// those leave the last third of the reserve to the others; see [ErrSpared].
	Refusal bool
}

// ErrUnavailable is wrapped by every error of Write and WriteDurable.
var ErrUnavailable = errors.New("audit log unavailable")

// ErrBroken is wrapped, beside ErrUnavailable, once a sync has failed, because the
// kernel may have thrown the lines away, or a line that was not wholly written
// could not be cut off. The process has to end and start again. A disk that is full
// never breaks the log.
var ErrBroken = errors.New("the audit log is broken")

// ErrFull is wrapped, beside ErrUnavailable, while there is no room for the log:
// the disk or the quota is full (ENOSPC, EDQUOT), and the reserve is used up.
// Nothing has to be done but to make room.
var ErrFull = errors.New("no room for the audit log")

// ErrSpared is wrapped, beside ErrFull, where an event with Refusal is not written
// because less than a third of Config.Reserve is left. Nobody may be refused so often
// that what is granted finds no room: count it, and write an aggregate later.
var ErrSpared = errors.New("what is left of the reserve is for granted requests")

// Config says where the log is and whose it is.
type Config struct {
	Path        string // required; the active segment. Its directory must exist.
	Instance    string // required; at most 255 bytes
	Incarnation uint64 // required; of the store, from 1. A higher one starts a segment.
	// Signer signs checkpoints. Required. The log keeps it until it is closed.
	Signer ed25519.PrivateKey
	// SubjectKey is the HMAC key for subjects. Required, 32 bytes. The caller
	// owns it and may wipe it once Open has returned.
	SubjectKey secret.Text
	// RotateSize is the size in bytes from which a segment is closed. Default
	// 256 MiB.
	RotateSize int64
	// Reserve is how many bytes of disk are kept allocated behind the end of the
	// active segment, where nobody else can take them. Default 0: none. It is topped
	// up in steps while lines are written, and kept by Close: who starts again on a
	// full disk finds it. See [Log.Low].
	Reserve int64
	// Mirror, unless nil, is called with every line (LF excluded, checkpoints and
	// headers included) after it is in the file, in their order, by one goroutine.
	// The log never waits for it: when more than 1 MiB or 4096 lines wait to be
	// mirrored the next ones are left out, counted in Status.Unmirrored and logged.
	// The slice is Mirror's to keep. Close waits for it, at most a second.
	Mirror func(line []byte)
	Now    func() time.Time
	Logger *slog.Logger
}

// Log is an open log. Its methods may be called concurrently.
type Log struct {
	path       string
	instance   string
	rotateSize int64
	publicKey  ed25519.PublicKey
	sign       func(message []byte) []byte // a func field: the key cannot be printed
	subject    secret.MAC
	now        func() time.Time
	logger     *slog.Logger
	syncFile   func(*os.File) error

	mu          sync.Mutex
	f           *os.File // opened O_APPEND, and locked against other processes
	size        int64    // of what is in the chain; what is behind it is cut
	dirty       bool     // there may be something behind size
	closed      bool
	incarnation uint64
	segment     uint64
	seq         uint64   // of the last line
	head        [32]byte // its hash
	signed      bool     // the last line is a checkpoint
	rotateAt    int64
	buf         []byte
	reserve     reserve
	refused     error // why the last line could not be written; nil when it was

	group  group
	mirror *mirror // nil: none

	wake chan struct{} // there are lines to sign; capacity 1
	stop chan struct{}
	done sync.WaitGroup
}

// Status is a snapshot of a [Log].
type Status struct {
	Path      string
	Segment   uint64 // number of the active segment, from 1
	Sequence  uint64 // of the last line, checkpoints and headers included
	Head      [32]byte
	Durable   uint64 // every line up to this sequence has been synced
	Syncs     uint64 // sync calls since Open
	Reserve   int64  // bytes that can still be written on a full disk
	PublicKey ed25519.PublicKey
	// Unmirrored is how many lines Config.Mirror was not called with since Open,
	// because it was too slow.
	Unmirrored uint64
}

// Position names one line: number Sequence in the whole log, whose hash is Head, in
// segment number Segment. The zero Position names nothing.
type Position struct {
	Segment, Sequence uint64
	Head              [32]byte
}

// Write appends e. The line is in the file when it returns (it survives the
// process), and on the disk about a second later. Errors wrap [ErrUnavailable], and
// [ErrFull] or [ErrBroken] where that is why; then nothing of the line is in the
// chain.
func (l *Log) Write(e Event) error {
	_, err := l.write(e)
	return err
}

// WriteDurable appends e and returns when the line is synced to disk. Callers who
// come meanwhile share the next sync. When ctx ends first, or the sync finds no room
// ([ErrFull]), the line is in the file but not known to be on the disk.
func (l *Log) WriteDurable(ctx context.Context, e Event) error {
	seq, err := l.write(e)
	if err != nil {
		return err
	}
	return l.syncTo(ctx, seq)
}

func (l *Log) write(e Event) (uint64, error) {
	if e.Kind != Attempt && e.Kind != Outcome && e.Kind != Note {
		return 0, fmt.Errorf("%w: an event of an unknown kind", ErrUnavailable)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Refusal {
		if err := l.spare(); err != nil {
			return 0, err
		}
	}
	b := appendStart(l.buf[:0], l.seq+1, l.now(), e.Kind)
	if err := l.append(appendEvent(b, &e)); err != nil {
		return 0, err
	}
	seq := l.seq
	if l.signed {
		l.unsigned()
	}
	if l.size >= l.rotateAt && l.reserve.low == nil {
		l.tryRotate()
	}
	return seq, nil
}

// append seals b as the next line and writes it. The caller holds mu, and has
// made b out of l.buf. On an error neither file nor chain has changed, or the
// remains are cut off before the next line.
func (l *Log) append(b []byte) error {
	b, hash := seal(b, l.head)
	l.buf = b
	if len(b) > maxLine {
		l.buf = nil
		return fmt.Errorf("%w: a line of %d bytes, at most %d are taken", ErrUnavailable, len(b), maxLine)
	}
	if err := l.usable(); err != nil {
		return err
	}
	if n, err := l.f.Write(b); err != nil {
		return l.unwritten(n, err)
	}
	l.refused = nil
	l.size += int64(len(b))
	l.seq++
	l.head = hash
	l.mirror.add(b)
	if l.reserve.end-l.size < l.reserve.want {
		l.topUp()
	}
	return nil
}

// unwritten cuts off the n bytes of a line that were written before err. The caller
// holds mu.
func (l *Log) unwritten(n int, err error) error {
	if st, serr := l.f.Stat(); n > 0 || serr != nil || st.Size() != l.size {
		l.dirty = true
	}
	if cerr := l.clean(); cerr != nil {
		return cerr
	}
	l.refused = fmt.Errorf("%w: write: %w", ErrUnavailable, asFull(err))
	return l.refused
}

// usable reports why no line can be written. The caller holds mu.
func (l *Log) usable() error {
	if l.closed {
		return fmt.Errorf("%w: it is closed", ErrUnavailable)
	}
	if err := l.group.failed(); err != nil {
		return err
	}
	return l.clean()
}

// clean cuts off what a failed write has left behind: nothing may ever stand behind
// it. When that fails the log is broken. What was allocated behind the end goes with
// it, and is taken again at once. The caller holds mu.
func (l *Log) clean() error {
	if !l.dirty {
		return nil
	}
	if err := l.f.Truncate(l.size); err != nil {
		return l.group.fail(fmt.Errorf("cut off a line that was not wholly written: %w", err))
	}
	l.dirty = false
	l.reserve.end = l.size
	l.topUp()
	return nil
}

// Status says where the log stands.
func (l *Log) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{Path: l.path, Segment: l.segment, Sequence: l.seq, Head: l.head, PublicKey: l.publicKey}
	s.Reserve = l.reserve.left(l.size)
	durable, syncs := l.group.counts()
	s.Durable, s.Syncs = durable.Sequence, syncs
	s.Unmirrored = l.mirror.missed()
	return s
}

// Durable names the last line that is known to be on the disk: the log holds it
// ([Holds]) whatever happens to this machine's power, so it may be named elsewhere.
func (l *Log) Durable() Position {
	durable, _ := l.group.counts()
	return durable.Position
}

// Broken is closed when the log is broken ([ErrBroken]): the process must end.
func (l *Log) Broken() <-chan struct{} { return l.group.broken }

// Close signs and syncs what there is, and closes the file. It waits for the
// goroutine that writes checkpoints. Later writes fail. The reserve stays with the
// file, so that there is one when the log is opened again on a full disk; it shows
// in the blocks of the file, not in its size, and truncate(1) to that size drops it.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	err := l.checkpoint()
	l.closed = true
	seq := l.seq
	l.mu.Unlock()
	close(l.stop)
	l.done.Wait()
	err = errors.Join(err, l.syncTo(context.Background(), seq))
	l.mirror.close()
	if cerr := l.f.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("close the audit log: %w", cerr))
	}
	return err
}

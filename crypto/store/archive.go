package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
)

// OpenKeyring opens the keyring of a backup. The Blob holds it for as long as the
// call and the Keyring live; the keys must come from it alone. The Keyring is
// closed by who asked for it.
type OpenKeyring = func(ctx context.Context, b keyring.Blob) (*keyring.Keyring, error)

// ReadBackup proves that a backup is whole, unaltered and opens: its sum, its
// keys, its HMAC, and then everything that [Store.Check] looks at in a live
// store. It needs no other store and writes nothing.
//
// What refers to what is looked up in the backup itself, which is sorted: so r
// must be readable at any place (a file), and ReadBackup reads it twice over.
// Memory is bounded by some 8 MiB however long it is. Who has a stream only puts
// it into a file first.
//
// The error matches [ErrBackup] when it is damaged, or is open's: nothing is
// known then of what it holds. What is wrong between rows is in the Report.
//
// BUG: an old backup put in the place of a new one is whole and authentic too.
// MadeAt, Incarnation and Position, which the HMAC covers, say which it is.
func ReadBackup(ctx context.Context, r io.ReaderAt, open OpenKeyring) (Backup, Report, error) {
	a := newArchive(r)
	tail, err := a.load(ctx)
	if err != nil {
		return Backup{}, Report{}, fmt.Errorf("verify a backup: %w", err)
	}
	keys, err := open(ctx, a)
	if err != nil {
		return a.b, Report{}, fmt.Errorf("verify a backup: open its keyring: %w", err)
	}
	defer keys.Close()
	if err := tail.authentic(keys); err != nil {
		return a.b, Report{}, fmt.Errorf("verify a backup: %w", err)
	}
	s := &Store{driver: a, keys: keys, now: time.Now, window: DefaultReplayWindow}
	report, err := s.Check(ctx)
	return a.b, report, err
}

const (
	// maxBlocks bounds the places that an archive remembers: 6 MiB of them.
	maxBlocks = 1 << 17
	// minStride is how far apart they are at first, in bytes; far less is read
	// by the way.
	minStride = 16 << 10
)

// archive is a backup as a Driver that is only read.
type archive struct {
	r       io.ReaderAt
	blob    []byte
	b       Backup
	blocks  []block
	most    int       // blocks
	stride  int64     // bytes from one to the next
	end     int64     // where the rows end
	readers sync.Pool // of *bufio.Reader
}

// block is a row that is found without reading what stands before it.
type block struct {
	code byte
	key  [32]byte
	at   int64
}

func newArchive(r io.ReaderAt) *archive {
	a := &archive{r: r, most: maxBlocks, stride: minStride}
	a.readers.New = func() any { return bufio.NewReaderSize(nil, 32<<10) }
	return a
}

// load reads the backup once, checks its form and its sum, and remembers where to
// look for rows.
func (a *archive) load(ctx context.Context) (tail backupTail, err error) {
	in := newBackupReader(io.NewSectionReader(a.r, 0, math.MaxInt64))
	if a.b, _, a.blob, err = in.header(ctx); err != nil {
		return backupTail{}, err
	}
	for {
		h, _, ok, err := in.next()
		if err = errors.Join(err, ctx.Err()); err != nil {
			return backupTail{}, err
		}
		if !ok {
			a.end = in.at
			return in.end(&a.b)
		}
		a.remember(h, in.at)
	}
}

// remember keeps the place of a row, unless it is near the one before.
func (a *archive) remember(h rowHead, at int64) {
	if n := len(a.blocks); n > 0 && at-a.blocks[n-1].at < a.stride {
		return
	}
	if len(a.blocks) == a.most {
		for i := range a.most / 2 {
			a.blocks[i] = a.blocks[2*i]
		}
		a.blocks, a.stride = a.blocks[:a.most/2], 2*a.stride
	}
	a.blocks = append(a.blocks, block{code: h.code, key: h.key, at: at})
}

// each calls visit for rows of the table in order, from one at or before the key
// on, until it says that it has enough. value may be called once.
func (a *archive) each(t Table, key [32]byte, visit func(h rowHead, value func() ([]byte, error)) (more bool, err error)) error {
	if len(a.blocks) == 0 {
		return nil
	}
	code := byte(slices.Index(backupTables[:], t) + 1)
	i, found := slices.BinarySearchFunc(a.blocks, key, func(b block, key [32]byte) int {
		return rowHead{code: b.code, key: b.key}.compare(code, key)
	})
	if !found {
		i = max(i-1, 0)
	}
	r := a.readers.Get().(*bufio.Reader)
	defer a.readers.Put(r)
	r.Reset(io.NewSectionReader(a.r, a.blocks[i].at, a.end-a.blocks[i].at))
	for {
		h, err := readRowHead(r)
		if errors.Is(err, io.EOF) || (err == nil && h.code > code) {
			return nil
		}
		if err != nil {
			return err
		}
		left := h.size
		value := func() ([]byte, error) { left = 0; return readValue(r, h.size) }
		if h.code == code {
			if more, err := visit(h, value); err != nil || !more {
				return err
			}
		}
		if _, err := r.Discard(left); err != nil {
			return fmt.Errorf("read a backup: %w", err)
		}
	}
}

// readRowHead gives io.EOF where the rows end.
func readRowHead(r io.Reader) (rowHead, error) {
	var b [rowHeadSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return rowHead{}, err
	}
	return parseRowHead(b)
}

func readValue(r io.Reader, size int) ([]byte, error) {
	value := make([]byte, size)
	if _, err := io.ReadFull(r, value); err != nil {
		return nil, fmt.Errorf("read a backup: %w", err)
	}
	return value, nil
}

// Get implements Driver.
func (a *archive) Get(ctx context.Context, t Table, key [32]byte) (row Row, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return Row{}, false, err
	}
	err = a.each(t, key, func(h rowHead, value func() ([]byte, error)) (bool, error) {
		order := h.compare(h.code, key)
		if order == 0 {
			found, row = true, Row{Key: h.key, Revision: h.revision}
			row.Value, err = value()
		}
		return order < 0, err
	})
	return row, found, err
}

// Scan implements Driver.
func (a *archive) Scan(ctx context.Context, t Table, after *[32]byte, limit int) (rows []Row, err error) {
	if err := ctx.Err(); err != nil || limit <= 0 {
		return nil, err
	}
	var from [32]byte
	if after != nil {
		from = *after
	}
	err = a.each(t, from, func(h rowHead, value func() ([]byte, error)) (bool, error) {
		if after != nil && h.compare(h.code, from) <= 0 {
			return true, nil
		}
		v, err := value()
		rows = append(rows, Row{Key: h.key, Revision: h.revision, Value: v})
		return len(rows) < limit, err
	})
	return rows, err
}

// LoadKeyring implements keyring.Blob.
func (a *archive) LoadKeyring(context.Context) (blob []byte, version uint64, err error) {
	return slices.Clone(a.blob), 1, nil
}

// Position implements Driver.
func (a *archive) Position(context.Context) (uint64, error) { return a.b.Position, nil }

// Size implements Driver.
func (a *archive) Size() (int64, error) { return a.b.Bytes, nil }

var errArchive = errors.New("a backup is only read")

// SwapKeyring, Apply, Load, Low and Snapshot implement Driver, and refuse.
func (a *archive) SwapKeyring(context.Context, uint64, []byte) (uint64, error) { return 0, errArchive }
func (a *archive) Apply(context.Context, Batch) error                          { return errArchive }
func (a *archive) Load(context.Context, Image) error                           { return errArchive }
func (a *archive) Low() error                                                  { return errArchive }
func (a *archive) Snapshot(context.Context, func(Snapshot) error) error        { return errArchive }

// Close implements Driver. The file is its opener's.
func (a *archive) Close() error { return nil }

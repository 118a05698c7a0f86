package store

import (
	"context"
	"errors"

	"github.com/tokenvault/tokenvault/crypto/keyring"
)

// Table is one of the tables that a driver keeps. The numbers stand in no file.
type Table uint8

// The closed set of tables. Every key is blind (an HMAC); every value is sealed,
// except those of Marks, which say nothing but a state.
const (
	Users    Table = iota // row id → both boxes of a user
	Index                 // blind clientUserId → row ids
	Sessions              // session id → outcome of a finished exchange
	Intents               // session id → exchange that has no outcome yet
	Marks                 // row id → the user's state is not active
)

// Tables lists the closed set, in the order of its numbers.
var Tables = []Table{Users, Index, Sessions, Intents, Marks}

// String is the table's name in reports and in drivers that name tables.
func (t Table) String() string {
	names := [...]string{"users", "index", "sessions", "intents", "marks"}
	if int(t) < len(names) {
		return names[t]
	}
	return "unknown table"
}

// Row is one opaque row.
type Row struct {
	Key      [32]byte
	Revision uint64 // ≥ 1; the compare-and-swap value
	Value    []byte
}

// Op writes, deletes or only checks one row.
type Op struct {
	Table Table
	Key   [32]byte
	// Expect is the revision that must be there when the batch is applied;
	// 0: the row must be absent.
	Expect uint64
	// Revision of the row that is written, ≥ 1. Ignored by a delete or a check.
	Revision uint64
	// Value to write; nil deletes the row.
	Value []byte
	// Check: Expect is checked and nothing is written.
	Check bool
}

// Batch is what is applied as a whole or not at all.
type Batch struct {
	// Fence is the version of the keyring's blob that the values were sealed
	// under. When another one is there now, the batch fails with ErrFenced.
	Fence uint64
	// Ops name each row at most once.
	Ops []Op
	// Arrive, when it is not nil, is called in the transaction with the next
	// arrival number, after every other condition held, and gives one more op. Its
	// error is the batch's error. It may be called again when a driver repeats the
	// transaction; the number of the last call is the one that counts. It must not
	// call the driver.
	Arrive func(n uint64) (Op, error)
	// Spare: the batch keeps what was received already, and may use the disk that
	// is held in reserve. Without it a batch fails with ErrFull while Low says so,
	// also one that would only free room. The keyring's swaps may use the reserve.
	Spare bool
}

// Snapshot is a store as it was at one moment. It is valid until the call of visit
// that it was handed to returns, and is not to be used concurrently.
type Snapshot interface {
	// Keyring is the blob and its version. The caller owns the bytes.
	Keyring() (blob []byte, version uint64)
	// Arrival is the last arrival number that was given; 0: none was.
	Arrival() uint64
	// Position is what Driver.Position was.
	Position() uint64
	// Rows calls visit for every row of a table, in key order, until it returns an
	// error, which is then returned. A row's Value is valid until visit returns.
	Rows(t Table, visit func(Row) error) error
}

// Image is the content of a whole store.
type Image struct {
	Blob    []byte // the keyring's; not empty
	Arrival uint64 // last arrival number that was given
	// Next returns one row after the other, table by table and in key order; ok is
	// false after the last. What it returns is valid until it is called again.
	Next func() (t Table, r Row, ok bool, err error)
}

// Driver keeps opaque rows in tables, and the keyring's blob. It knows no key,
// no plaintext and no format above Row. All methods may be called concurrently.
type Driver interface {
	// The keyring's blob stands beside the rows, because every batch is fenced
	// by its version.
	keyring.Blob
	// Get returns a row as of some moment between call and return; false when
	// there is none. The caller owns the result.
	Get(ctx context.Context, t Table, key [32]byte) (Row, bool, error)
	// Scan returns up to limit rows in key order, strictly after the given key
	// (nil: from the first). Fewer than limit means that the end was reached. The
	// rows of one call are of one moment; the caller owns them.
	Scan(ctx context.Context, t Table, after *[32]byte, limit int) ([]Row, error)
	// Apply applies b atomically; it is durable on return. Concurrent callers
	// share a commit. Arrival numbers grow in the order in which batches take
	// effect, and none is ever given to two batches that took effect.
	//
	// ErrConflict, ErrFenced and ErrFull mean that nothing was written. Any other
	// error means that the batch may or may not have taken effect; one that matches
	// ErrBroken means besides that the driver takes no more writes. A ctx that
	// ends while the batch waits for its turn withdraws it; later it has no effect.
	Apply(ctx context.Context, b Batch) error
	// Position grows with every transaction that changed something, and says as
	// of when a store is: a copy put back has an older one. What it counts from is
	// the driver's business. It never names more than is durable.
	Position(ctx context.Context) (uint64, error)
	// Low is nil, or why nothing new should begin: the reserve, which keeps room
	// for what was received already, is not whole. It does not wait for the disk;
	// asking makes the driver look again soon, at most once a second, so that Low
	// is nil by itself after room has returned.
	Low() error
	// Snapshot calls visit once with the store as of one moment between call and
	// return, while writes go on. It is not held back by them, but what is removed
	// or replaced meanwhile keeps its room until visit has returned. Its error, and
	// that of ctx, end it. Writes may end a snapshot that would fill the disk:
	// ErrFull.
	Snapshot(ctx context.Context, visit func(Snapshot) error) error
	// Load fills a store that has no row and no keyring (else: an error, and
	// nothing is written), in transactions of bounded size. The keyring comes
	// last: a Load that failed, or was cut short, leaves no keyring and cannot be
	// opened as a store nor loaded again. Nothing else writes meanwhile.
	Load(ctx context.Context, i Image) error
	// Size is what the store's content occupies, in bytes, without the reserve.
	Size() (int64, error)
	// Close waits for the calls in flight. Calls after it fail.
	Close() error
}

var (
	// ErrConflict is returned by Driver.Apply when a row had not the expected
	// revision.
	ErrConflict = errors.New("a row was changed meanwhile")
	// ErrFenced is returned by Driver.Apply when the keyring was changed since
	// the batch was sealed.
	ErrFenced = errors.New("the keyring was changed meanwhile")
	// ErrFull is matched when the disk takes no more: there is no room for the
	// batch, or none beyond the reserve, a quota is used up, or the file system
	// became read-only. Nothing was written, and a later batch may succeed.
	ErrFull = errors.New("the disk takes no more")
	// ErrBroken is matched by every write after one whose sync failed: what is
	// on disk is not known, and only opening anew finds out. Reads go on.
	ErrBroken = errors.New("an earlier write failed, and the store takes no more until it is opened anew")
)

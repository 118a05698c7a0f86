package secret_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/seal"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/exchange/user"
)

// What a child of this test is told.
const (
	childStore  = "TOKENVAULT_TEST_STORE"  // it works with this store
	childHidden = "TOKENVAULT_TEST_HIDDEN" // "no": as on a kernel without memfd_secret
)

// masked wraps a key so that its bytes stand nowhere but in the Text: xor with a mask
// that differs for each context.
type masked struct{}

func mask(b, context []byte) {
	m := sha256.Sum256(context)
	for i := range b {
		b[i] ^= m[i%len(m)]
	}
}

func (masked) Wrap(_ context.Context, key secret.Text, context []byte) (string, error) {
	b := bytes.Clone(key.Reveal())
	mask(b, context)
	return hex.EncodeToString(b), nil
}

func (masked) Unwrap(_ context.Context, wrapped string, context []byte) (secret.Text, error) {
	b, err := hex.DecodeString(wrapped)
	if err != nil {
		return secret.Text{}, errors.New("unwrap: malformed")
	}
	defer clear(b)
	mask(b, context)
	return secret.New(b), nil
}

// world is a real store over a real file.
type world struct {
	db    *boltstore.DB
	keys  *keyring.Keyring
	store *store.Store
}

func openWorld(t testing.TB, path string) world {
	t.Helper()
	var w world
	var err error
	if w.db, err = boltstore.Open(t.Context(), boltstore.Config{Path: path}); err != nil {
		t.Fatal(err)
	}
	if w.keys, err = keyring.Open(t.Context(), keyring.Config{Blob: w.db, Wrapper: masked{}}); err != nil {
		t.Fatal(err)
	}
	if w.store, err = store.Open(t.Context(), store.Config{Driver: w.db, Keys: w.keys}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w world) close(t testing.TB) {
	t.Helper()
	err := w.store.Close()
	w.keys.Close()
	if err := errors.Join(err, w.db.Close()); err != nil {
		t.Fatal(err)
	}
}

// sought is what is looked for in a child's memory.
type sought struct {
	name    string
	bytes   []byte
	inside  int // copies in the region
	ceiling int // copies outside of it; anything more is a leak
}

// everything names all that the keyring holds, raw and derived.
func (w world) everything(t testing.TB) []sought {
	t.Helper()
	id := w.keys.StoreID()
	derive := func(name string, key []byte, label, what string) sought {
		out, err := hkdf.Key(sha256.New, key, id[:], string(seal.Enc([]byte(label), []byte(what))), 32)
		must(t, err)
		return sought{name: name, bytes: out}
	}
	var all []sought
	for _, k := range w.keys.Memory().Keys {
		raw := bytes.Clone(k.Key.Reveal())
		extracted, err := hkdf.Extract(sha256.New, raw, id[:])
		must(t, err)
		all = append(all, sought{name: string(k.Class) + " key", bytes: raw, inside: 1},
			sought{name: string(k.Class) + " key, extracted", bytes: extracted})
		switch k.Class {
		case keyring.Index:
			rows := derive("key of row ids", raw, "tokenvault/index/1", "rows")
			all = append(all, rows, derive("key of session ids", raw, "tokenvault/index/1", "sessions"), derive("key of the keyring's MAC", raw, "tokenvault/keyring/1", "mac"))
			all = append(all, prepared(t, "row ids' MAC", rows.bytes)...)
		case keyring.Audit:
		default:
			all = append(all, prepared(t, string(k.Class)+" key, prepared", extracted)...)
		}
	}
	return append(all,
		sought{name: "audit subject key", bytes: bytes.Clone(w.keys.Subject().Reveal()), inside: 1},
		sought{name: "audit seed", bytes: w.keys.Signer().Seed(), inside: 1, ceiling: seedCopies})
}

// prepared is what is made of an HMAC key of 32 bytes: SHA-256 after key⊕ipad, as it
// is marshaled, and as a digest at work holds it.
func prepared(t testing.TB, name string, key []byte) []sought {
	t.Helper()
	h := sha256.New()
	block := bytes.Repeat([]byte{0x36}, sha256.BlockSize)
	for i, b := range key {
		block[i] ^= b
	}
	h.Write(block)
	state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	must(t, err)
	marshaled := state[4 : 4+sha256.Size]
	working := make([]byte, 0, sha256.Size)
	for word := range slices.Chunk(marshaled, 4) {
		working = binary.NativeEndian.AppendUint32(working, binary.BigEndian.Uint32(word))
	}
	return []sought{{name: name, bytes: marshaled, inside: 1}, {name: name + ", at work", bytes: working}}
}

// seedCopies is how often crypto/ed25519 may have the seed: the Signer that the log
// holds, what is prepared of it, and what making and using them left on stacks.
const seedCopies = 6

// TestKeysAreInTheRegionAlone reads the memory of a process that works with a store,
// as root or its own user can, and counts what it finds of every key.
func TestKeysAreInTheRegionAlone(t *testing.T) {
	if path := os.Getenv(childStore); path != "" {
		work(t, path)
		return
	}
	path := filepath.Join(t.TempDir(), "store.db")
	w := openWorld(t, path)
	keys := w.everything(t)
	w.close(t)
	for _, hidden := range []string{"yes", "no"} {
		t.Run("memfd_secret="+hidden, func(t *testing.T) {
			c := startChild(t, path, hidden)
			for _, moment := range []string{"opened", "worked"} {
				c.reaches(t, moment)
				c.compare(t, keys, hidden == "yes")
				c.goOn(t)
			}
		})
	}
}

// compare counts, and prints what it counted.
func (c *child) compare(t *testing.T, keys []sought, hidden bool) {
	t.Helper()
	found, region := c.scan(t, keys)
	for i, k := range keys {
		f := found[i]
		t.Logf("%-30s outside the region %d (at most %d), inside %d %s", k.name, f.outside, k.ceiling, f.inside, strings.Join(f.where, ", "))
		if f.outside > k.ceiling {
			t.Errorf("%s: %d copies outside the region", k.name, f.outside)
		}
		if !hidden && f.inside != k.inside {
			t.Errorf("%s: %d copies in the region, want %d", k.name, f.inside, k.inside)
		}
	}
	if found[len(keys)].outside == 0 {
		t.Error("what is on the heap was not found: the search is blind")
	}
	if t.Logf("reading the region: %v", region); (region != nil) != hidden {
		t.Error("a hidden region cannot be read from outside, and another can")
	}
}

// child is a process that stands still, at one moment of its work or the next.
type child struct {
	pid         int
	first, last int64 // the region
	in          io.Writer
	out         *bufio.Reader
}

func startChild(t *testing.T, path, hidden string) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKeysAreInTheRegionAlone$")
	cmd.Env = append(os.Environ(), childStore+"="+path, childHidden+"="+hidden)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	must(t, err)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = stdin.Close()
		_, _ = io.Copy(io.Discard, stdout)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the child: %v", err)
		}
	})
	return &child{pid: cmd.Process.Pid, in: stdin, out: bufio.NewReader(stdout)}
}

// reaches waits until the child stands still at that moment.
func (c *child) reaches(t *testing.T, moment string) {
	t.Helper()
	line, err := c.out.ReadString('\n')
	if _, serr := fmt.Sscanf(line, moment+" %x %x", &c.first, &c.last); err != nil || serr != nil {
		t.Fatalf("the child says %q: %v", line, errors.Join(err, serr))
	}
	t.Logf("the child has %s", moment)
}

func (c *child) goOn(t *testing.T) {
	t.Helper()
	_, err := io.WriteString(c.in, "\n")
	must(t, err)
}

// hits is where one thing was found.
type hits struct {
	outside, inside int
	where           []string // mappings, outside
}

// scan looks for all keys, and the decoy after them, in every page that the process
// has. The error is why the region itself cannot be read.
func (c *child) scan(t *testing.T, keys []sought) (found []hits, region error) {
	t.Helper()
	keys = append(slices.Clone(keys), sought{name: "decoy", bytes: decoy()})
	found = make([]hits, len(keys))
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", c.pid))
	must(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", c.pid))
	must(t, err)
	defer mem.Close()
	pages, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", c.pid))
	must(t, err)
	defer pages.Close()
	for line := range strings.Lines(string(maps)) {
		if f := strings.Fields(line); f[1][0] != 'r' {
			continue
		}
		var from, to int64
		if _, err := fmt.Sscanf(line, "%x-%x", &from, &to); err != nil {
			t.Fatal(err)
		}
		inside := from >= c.first && to <= c.last
		counts := make([]int, len(keys))
		if err := count(mem, pages, from, to, keys, counts); inside {
			region = err // elsewhere: behind the end of a file that is mapped
		}
		for i, n := range counts {
			if inside {
				found[i].inside += n
			} else if n > 0 {
				found[i].outside += n
				found[i].where = append(found[i].where, fmt.Sprintf("%d in %s", n, strings.Join(strings.Fields(line)[:2], " ")+" "+lastField(line)))
			}
		}
	}
	return found, region
}

// count goes over the pages between from and to that are there, in pieces that overlap
// by less than a key.
func count(mem, pages io.ReaderAt, from, to int64, keys []sought, counts []int) error {
	const piece, overlap = 1 << 20, 31
	page := int64(os.Getpagesize())
	b, entries := make([]byte, overlap+piece), make([]byte, 8*piece/page)
	tail := 0 // bytes of the piece before
	for at := from; at < to; at += piece {
		size := min(piece, to-at)
		if _, err := pages.ReadAt(entries[:8*size/page], at/page*8); err != nil {
			return err
		}
		if !there(entries[:8*size/page]) {
			tail = 0
			continue
		}
		if n, err := mem.ReadAt(b[tail:tail+int(size)], at); err != nil && n == 0 {
			return err
		}
		whole := b[:tail+int(size)]
		for i, k := range keys {
			counts[i] += bytes.Count(whole, k.bytes)
		}
		tail = copy(b, whole[len(whole)-overlap:])
	}
	return nil
}

// there reports whether any page is in memory or in swap (proc_pid_pagemap(5)).
func there(entries []byte) bool {
	for e := range slices.Chunk(entries, 8) {
		if binary.NativeEndian.Uint64(e)>>62 != 0 {
			return true
		}
	}
	return false
}

func lastField(line string) string {
	f := strings.Fields(line)
	if len(f) < 6 {
		return "anonymous"
	}
	return f[5]
}

// decoy is put on the heap by the child, to be found.
func decoy() []byte {
	b := []byte("a decoy that has 32 bytes, masked")
	mask(b, []byte("decoy"))
	return b
}

// work is the child: a store's whole life, one collection, and then nothing.
func work(t *testing.T, path string) {
	if os.Getenv(childHidden) == "no" {
		secret.WithoutMemfdSecret()
	}
	in := bufio.NewReader(os.Stdin)
	onHeap := decoy()
	w := openWorld(t, path)
	moment(in, "opened")
	signer := w.keys.Signer()
	exchanges(t, w)
	for range 3 {
		w.keys.Wipe(keyring.Private)
		must(t, w.keys.Reload(t.Context()))
		_, err := w.keys.Confirm(t.Context())
		must(t, err)
		w.keys.Memory().Wipe()
		w.keys.Subject().Wipe()
		w.keys.MAC("backup").Wipe()
		ed25519.Sign(signer, []byte("checkpoint"))
	}
	moment(in, "worked")
	runtime.KeepAlive(onHeap)
	w.close(t)
}

// moment says where the region is, and waits for a word.
func moment(in *bufio.Reader, name string) {
	runtime.GC()
	region := secret.RegionBytes()
	first := uintptr(unsafe.Pointer(&region[0]))
	fmt.Printf("%s %x %x\n", name, first, first+uintptr(len(region)))
	_, _ = in.ReadString('\n')
}

func exchanges(t *testing.T, w world) {
	t.Helper()
	const app = user.ClientID("marker-app")
	for i := range 100 {
		human, session := user.HumanID(fmt.Sprintf("human-%d", i)), secret.FromString(fmt.Sprintf("marker-session-%s-%d", os.Getenv(childHidden), i))
		in, err := w.store.Begin(t.Context(), user.Intent{RequestID: "request", ClientID: app, HumanID: human, SessionToken: session, ReceivedAt: time.Now()})
		must(t, err)
		_, err = w.store.Commit(t.Context(), in, user.Record{
			Public:  user.Public{ClientID: app, HumanID: human, ClientUserID: "marker-user", PublicToken: "marker-public"},
			Private: user.Private{AccessToken: secret.FromString("marker-access")},
		})
		must(t, err)
		rec, err := w.store.Private(t.Context(), app, human)
		must(t, err)
		rec.AccessToken.Wipe()
		must(t, w.store.Ready())
	}
	report, err := w.store.Check(t.Context())
	must(t, err)
	if len(report.Problems) != 0 {
		t.Fatal(report.Problems)
	}
	_, err = w.store.Backup(t.Context(), io.Discard)
	must(t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

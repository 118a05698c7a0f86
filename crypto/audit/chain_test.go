package audit

import (
	"crypto/ed25519"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// forge writes lines as only the holder of the key could, right or wrong.
type forge struct {
	lines [][]byte
	seq   uint64
	head  [32]byte
	h     header
}

func newForge() *forge {
	return &forge{h: header{instance: "main", incarnation: 2, publicKey: publicKey()}}
}

func (f *forge) add(kind string, fields func(b []byte) []byte) {
	f.seq++
	b, head := seal(fields(appendStart(nil, f.seq, time.Unix(0, 0), kind)), f.head)
	f.lines, f.head = append(f.lines, b), head
}

func (f *forge) header(edit func(h *header)) {
	f.h.segment++
	h := f.h
	h.previous = f.head
	edit(&h)
	f.add(kindSegment, func(b []byte) []byte { return appendHeader(b, h) })
}

func (f *forge) note() {
	f.add(Note, func(b []byte) []byte { return appendEvent(b, &Event{Outcome: "x"}) })
}

func (f *forge) checkpoint(incarnation uint64) {
	message := signedBytes("main", incarnation, f.h.segment, f.seq, f.head)
	signature := ed25519.Sign(signer, message)
	f.add(kindCheckpoint, func(b []byte) []byte { return appendSignature(b, signature) })
}

// check reads the lines, of which those at starts begin a file.
func (f *forge) check(starts ...int) error {
	c := chain{key: publicKey()}
	for i, line := range f.lines {
		if err := c.next(line, slices.Contains(starts, i)); err != nil {
			return err
		}
	}
	return nil
}

// Every rule of the chain, broken alone under hashes and signatures that are right.
func TestEveryRuleOfTheChain(t *testing.T) {
	same := func(*header) {}
	for name, c := range map[string]struct {
		second  func(h *header)
		between func(f *forge)
		want    string // "" is right
	}{
		"right":             {same, func(f *forge) { f.checkpoint(2) }, ""},
		"next incarnation":  {func(h *header) { h.incarnation = 3 }, func(f *forge) { f.checkpoint(2) }, ""},
		"instance":          {func(h *header) { h.instance = "other" }, func(f *forge) { f.checkpoint(2) }, "another instance"},
		"key":               {func(h *header) { h.publicKey = make([]byte, 32) }, func(f *forge) { f.checkpoint(2) }, "another key"},
		"segment":           {func(h *header) { h.segment = 3 }, func(f *forge) { f.checkpoint(2) }, "number 3 and 2"},
		"previous":          {func(h *header) { h.previous = [32]byte{} }, func(f *forge) { f.checkpoint(2) }, "not continue"},
		"incarnation":       {func(h *header) { h.incarnation = 1 }, func(f *forge) { f.checkpoint(2) }, "incarnation 1"},
		"no end":            {same, func(*forge) {}, "does not end in a checkpoint"},
		"number":            {same, func(f *forge) { f.seq++; f.note(); f.checkpoint(2) }, "number 4 and 3"},
		"other incarnation": {same, func(f *forge) { f.checkpoint(1) }, "signature"},
		"header in between": {same, func(f *forge) { f.header(same); f.h.segment--; f.checkpoint(2) }, "stands nowhere else"},
	} {
		f := newForge()
		f.header(same)
		f.note()
		c.between(f)
		second := len(f.lines)
		f.header(c.second)
		err := f.check(0, second)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f := newForge()
	f.note()
	if f.check(0) == nil {
		t.Error("a log without a header was accepted")
	}
}

// Before a segment is closed, it is synced, and so is the new one's header.
func TestRotationSyncs(t *testing.T) {
	path := logPath(t)
	c := testConfig(path)
	c.RotateSize = minRotateSize
	l := mustOpen(t, c)
	var synced []string
	l.syncFile = func(f *os.File) error {
		synced = append(synced, f.Name())
		return syncData(f)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.rotate(1); err != nil {
		t.Fatal(err)
	}
	if want := []string{path + newSuffix, path}; !slices.Equal(synced, want) {
		t.Fatalf("synced %v", synced)
	}
	if d, _ := l.group.counts(); d.Sequence != l.seq {
		t.Fatalf("durable to %d of %d", d, l.seq)
	}
}

package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/store"
)

// parts cuts a backup as the format says: what stands before the rows, each row,
// what stands behind them.
func parts(t *testing.T, data []byte) (head []byte, rows [][]byte, tail []byte) {
	t.Helper()
	n := 33 + int(binary.BigEndian.Uint32(data[29:]))
	head, data = data[:n:n], data[n:]
	for data[0] != 0 {
		n := 45 + int(binary.BigEndian.Uint32(data[41:]))
		rows, data = append(rows, data[:n:n]), data[n:]
	}
	if len(data) != 1+5*8+32+32 || len(rows) == 0 {
		t.Fatalf("%d rows and an end of %d bytes", len(rows), len(data))
	}
	return head, rows, data
}

// TestBackupForm: what is not in the one form that a backup has is refused before
// any key is asked for.
func TestBackupForm(t *testing.T) {
	f, _ := peopled(t)
	data, _ := f.backup()
	for name, alter := range map[string]func(head []byte, rows [][]byte, tail []byte) [][]byte{
		"rows out of order":      func(_ []byte, r [][]byte, _ []byte) [][]byte { r[0], r[1] = r[1], r[0]; return r },
		"tables out of order":    func(_ []byte, r [][]byte, _ []byte) [][]byte { return append(r[2:], r[0], r[1]) },
		"a row twice":            func(_ []byte, r [][]byte, tail []byte) [][]byte { tail[8]++; return append(r[:1], r...) },
		"a row too few":          func(_ []byte, r [][]byte, _ []byte) [][]byte { return r[1:] },
		"another count":          func(_ []byte, r [][]byte, tail []byte) [][]byte { tail[8]++; return r },
		"no such table":          func(_ []byte, r [][]byte, _ []byte) [][]byte { r[len(r)-1][0] = 6; return r },
		"no revision":            func(_ []byte, r [][]byte, _ []byte) [][]byte { clear(r[0][33:41]); return r },
		"a value that is long":   func(_ []byte, r [][]byte, _ []byte) [][]byte { r[0][41] = 0xFF; return r },
		"another format version": func(head []byte, r [][]byte, _ []byte) [][]byte { head[4]++; return r },
		"made after 9999":        func(head []byte, r [][]byte, _ []byte) [][]byte { head[5] = 1; return r },
		"no keyring":             func(head []byte, r [][]byte, _ []byte) [][]byte { clear(head[29:33]); return r },
		"a huge keyring":         func(head []byte, r [][]byte, _ []byte) [][]byte { head[29] = 0xFF; return r },
		"half a keyring":         func(head []byte, r [][]byte, _ []byte) [][]byte { head[32]--; return r },
	} {
		head, rows, tail := parts(t, bytes.Clone(data))
		bad := append(head, bytes.Join(alter(head, rows, tail), nil)...)
		bad = append(bad, tail...)
		store.Resum(bad)
		if err := store.Reencode(f.ctx(), bytes.NewReader(bad), io.Discard); !errors.Is(err, store.ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
	head, rows, tail := parts(t, data)
	whole := append(append(bytes.Clone(head), bytes.Join(rows, nil)...), tail...)
	if err := store.Reencode(f.ctx(), bytes.NewReader(whole), io.Discard); err != nil {
		t.Errorf("unaltered: %v", err)
	}
}

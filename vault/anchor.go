package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// Anchor is what a store, its keyring and its audit log have reached, kept where
// who can put them back to an older state cannot put it back with them. It holds
// no secret.
//
// In Vault it is the entry <state_path>/<instance> of KV version 2, with exactly
// the fields below, named as the Go fields but for a small first letter: strings
// and whole numbers, the time as in RFC 3339. An entry with a field more, less or
// of another form is no anchor.
type Anchor struct {
	StoreID       string // 1 to 128 letters, digits, '-', '_'
	Incarnation   uint64
	Generation    uint64 // of the keyring
	KeyringDigest string // SHA-256, 64 small hexadecimal digits, like the following
	StorePosition uint64
	AuditSegment  uint64
	AuditSequence uint64
	AuditHead     string    // SHA-256; "" = none yet
	AuditKey      string    // Ed25519 public key; "" = none yet
	Time          time.Time // of writing, by the daemon's clock; kept in UTC
	Host          string    // for people alone: at most 255 printable ASCII characters
}

// fields is where each field of an entry is in a.
func (a *Anchor) fields() map[string]any {
	return map[string]any{
		"storeId": &a.StoreID, "incarnation": &a.Incarnation, "generation": &a.Generation, "keyringDigest": &a.KeyringDigest,
		"storePosition": &a.StorePosition, "auditSegment": &a.AuditSegment, "auditSequence": &a.AuditSequence,
		"auditHead": &a.AuditHead, "auditKey": &a.AuditKey, "time": &a.Time, "host": &a.Host,
	}
}

var (
	storeIDForm = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	digestForm  = regexp.MustCompile(`^[0-9a-f]{64}$`)
	hostForm    = regexp.MustCompile(`^[ -~]{0,255}$`)
)

// maxExact is the greatest whole number up to which a JSON number in Vault is exact:
// it stores an IEEE 754 double.
const maxExact = 1 << 53

// check reports what a must not hold, in our words.
func (a Anchor) check() error {
	for name, fits := range map[string]bool{
		"storeId":       storeIDForm.MatchString(a.StoreID),
		"keyringDigest": digestForm.MatchString(a.KeyringDigest),
		"auditHead":     a.AuditHead == "" || digestForm.MatchString(a.AuditHead),
		"auditKey":      a.AuditKey == "" || digestForm.MatchString(a.AuditKey),
		"time":          a.Time.Year() >= 2000 && a.Time.Year() <= 9999,
		"host":          hostForm.MatchString(a.Host),
		"incarnation":   a.Incarnation <= maxExact, "generation": a.Generation <= maxExact, "storePosition": a.StorePosition <= maxExact,
		"auditSegment": a.AuditSegment <= maxExact, "auditSequence": a.AuditSequence <= maxExact,
	} {
		if !fits {
			return fmt.Errorf("%w: the anchor's field %s", ErrMalformed, name)
		}
	}
	return nil
}

// parseAnchor decodes the fields of an entry.
func parseAnchor(data map[string][]byte) (Anchor, error) {
	var a Anchor
	fields := a.fields()
	for name, into := range fields {
		raw, ok := data[name]
		if !ok || string(raw) == "null" || json.Unmarshal(raw, into) != nil {
			return Anchor{}, fmt.Errorf("%w: the anchor's field %s", ErrMalformed, name)
		}
	}
	if len(data) != len(fields) {
		return Anchor{}, fmt.Errorf("%w: the anchor has a field that this version does not know", ErrMalformed)
	}
	a.Time = a.Time.UTC()
	return a, a.check()
}

// encodeAnchor is the body of a write over version cas.
func encodeAnchor(a Anchor, cas int) ([]byte, error) {
	a.Time = a.Time.UTC().Round(0)
	if err := a.check(); err != nil {
		return nil, err
	}
	return json.Marshal(map[string]any{"data": a.fields(), "options": map[string]int{"cas": cas}})
}

func (c *Client) anchorPath(instance string) (string, error) {
	if err := checkPath("instance", instance); err != nil {
		return "", err
	}
	if len(instance) > 128 || strings.Contains(instance, "/") {
		return "", errors.New("vault instance: at most 128 characters, and no '/'")
	}
	return c.paths.KVMount + "/data/" + c.paths.StatePath + "/" + instance, nil
}

// ReadAnchor returns the anchor of an instance, and the version of its entry, for
// WriteAnchor. ErrNotFound: there is none, and the version is still what a write
// must name (0 when there never was one, that of the deleted one else). Errors
// match ErrMalformed (the entry is no anchor, or nothing is mounted where it should
// be), ErrDenied, ErrUnconfirmed or ErrUnreachable, or are about instance.
func (c *Client) ReadAnchor(ctx context.Context, instance string) (Anchor, int, error) {
	path, err := c.anchorPath(instance)
	if err != nil {
		return Anchor{}, 0, err
	}
	got, version, err := c.readAnchor(ctx, path)
	if err != nil {
		return Anchor{}, version, fmt.Errorf("read the anchor %q: %w", path, err)
	}
	return got, version, nil
}

func (c *Client) readAnchor(ctx context.Context, path string) (Anchor, int, error) {
	a, err := c.do(ctx, request{path: path, capability: "read"})
	if err != nil {
		return Anchor{}, 0, err
	}
	defer a.forget()
	if a.unmounted() {
		return Anchor{}, 0, fmt.Errorf("%w: nothing is mounted there", ErrMalformed)
	}
	e, err := parseEntry(a)
	switch {
	case err != nil:
		return Anchor{}, 0, err
	case e.gone():
		return Anchor{}, e.Metadata.Version, fmt.Errorf("%w: version %d was deleted", ErrNotFound, e.Metadata.Version)
	}
	got, err := parseAnchor(e.Data)
	return got, e.Metadata.Version, err
}

// WriteAnchor writes an anchor over version cas of its entry (0: there never was
// one), and returns the new version. ErrAnchorMoved: another version is there, and
// nothing was written. That other version may be one of WriteAnchor's own, of which
// the answer was lost: after ErrUnreachable it is not known whether the anchor was
// written. ErrMalformed: the anchor does not fit its description, or nothing is
// mounted where it should be. Other errors are as with ReadAnchor.
func (c *Client) WriteAnchor(ctx context.Context, instance string, a Anchor, cas int) (version int, err error) {
	path, err := c.anchorPath(instance)
	if err != nil {
		return 0, err
	}
	if version, err = c.writeAnchor(ctx, path, a, cas); err != nil {
		return 0, fmt.Errorf("write the anchor %q: %w", path, err)
	}
	return version, nil
}

func (c *Client) writeAnchor(ctx context.Context, path string, content Anchor, cas int) (int, error) {
	body, err := encodeAnchor(content, cas)
	if err != nil {
		return 0, err
	}
	a, err := c.do(ctx, request{path: path, body: body, capability: "update"})
	switch {
	case err != nil:
		return 0, err
	case a.status == http.StatusBadRequest && a.says("check-and-set"):
		return 0, fmt.Errorf("%w: it is not at version %d", ErrAnchorMoved, cas)
	case a.status == http.StatusNotFound:
		return 0, fmt.Errorf("%w: nothing is mounted there", ErrMalformed)
	case !a.ok():
		return 0, a.unexpected()
	}
	var written struct {
		Version int `json:"version"`
	}
	if err := a.data(&written); err != nil || written.Version < 1 {
		return 0, fmt.Errorf("%w: it answered no version", ErrMalformed)
	}
	return written.Version, nil
}

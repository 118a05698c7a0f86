package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/crypto/secret"
)

const marker = "marker-for-a-secret"

type holder struct {
	Public  secret.Text
	private secret.Text
	ptr     *secret.Text
	list    []secret.Text
	byName  map[string]secret.Text
	any     any
}

func newHolder() holder {
	s := secret.FromString(marker)
	return holder{s, s, &s, []secret.Text{s}, map[string]secret.Text{"k": s}, s}
}

func clean(t *testing.T, how, got string) {
	t.Helper()
	for _, form := range []string{marker, hex.EncodeToString([]byte(marker)), fmt.Sprint([]byte(marker))} {
		if strings.Contains(strings.ToLower(got), form) {
			t.Errorf("%s shows the secret", how)
		}
	}
}

func TestNoVerbPrintsIt(t *testing.T) {
	h := newHolder()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o", "%c", "%U", "%t", "%e"} {
		for name, v := range map[string]any{"value": h.Public, "pointer": &h.Public, "struct": h, "struct pointer": &h, "slice": h.list, "map": h.byName, "error": fmt.Errorf("wrap %v: %w", h.private, errors.New("cause"))} {
			clean(t, verb+" of "+name, fmt.Sprintf(verb, v))
		}
	}
}

func TestNoEncoderShowsIt(t *testing.T) {
	h := newHolder()
	j, err := json.Marshal(map[string]any{"h": h, "p": &h.Public})
	if err != nil {
		t.Fatal(err)
	}
	clean(t, "json", string(j))
	if !strings.Contains(string(j), "[secret]") {
		t.Errorf("json shows no placeholder: %s", j)
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(struct{ S secret.Text }{h.Public}); err != nil {
		t.Fatal(err)
	}
	clean(t, "gob", b.String())
	if x, err := xml.Marshal(struct{ S secret.Text }{h.Public}); err == nil {
		clean(t, "xml", string(x))
	} else {
		clean(t, "xml's error", err.Error())
	}
	for _, handler := range []func(*bytes.Buffer) slog.Handler{
		func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
		func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
	} {
		var out bytes.Buffer
		slog.New(handler(&out)).Info("x", "text", h.Public, "pointer", &h.Public, "holder", h, "any", h.any)
		clean(t, "slog", out.String())
	}
}

func TestNothingDecodesIntoIt(t *testing.T) {
	var v struct{ S secret.Text }
	if err := json.Unmarshal([]byte(`{"S":"x"}`), &v); !errors.Is(err, secret.ErrUnmarshal) {
		t.Fatalf("got %v", err)
	}
}

func TestBytes(t *testing.T) {
	in := []byte(marker)
	s := secret.New(in)
	clear(in)
	if string(s.Reveal()) != marker || s.Len() != len(marker) || s.IsZero() {
		t.Fatal("New does not own a copy")
	}
	if !s.Equal(secret.FromString(marker)) || s.Equal(secret.FromString("other")) || s.Equal(secret.Text{}) {
		t.Fatal("Equal is wrong")
	}
	again := s
	s.Wipe()
	if !bytes.Equal(again.Reveal(), make([]byte, len(marker))) {
		t.Fatal("Wipe left bytes behind in a copy")
	}
	var zero secret.Text
	zero.Wipe()
	if zero.Reveal() != nil || !zero.IsZero() || !zero.Equal(secret.New(nil)) {
		t.Fatal("the zero Text is not empty")
	}
}

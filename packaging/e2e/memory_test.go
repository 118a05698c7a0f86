package e2e

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/crypto/keyring"
	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/vault/vaulttest"
)

// memoryUsers is how many users of each app exchange before memory is read.
const memoryUsers = 20

// memoryCeilings are how many copies of each kind of secret the daemon's memory may
// have a minute after use, read as root, of all secrets of that kind together; what is
// not named, and so every key, has none. One is what a signal may have caught in the
// processor's registers. An access token stays in the two buffers through which net/http
// writes an answer, until the next one (unix/server: BUG): that bounds it by the
// connections that were served at the same time.
var memoryCeilings = map[string]int{"access tokens": 4, "session tokens": 1, "clientSecret": 1, "Vault token": 1, "secret id": 1}

// How many copies of each secret the daemon's memory has one minute after it was
// used, over plain HTTP and over TLS to both sides.
func TestMemoryAtRest(t *testing.T) {
	for _, over := range []string{"plain HTTP", "TLS"} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			restWell(t, over)
		})
	}
}

func restWell(t *testing.T, over string) {
	w := prepareWorld(t, options{settings: "[sandbox]\nmode = \"require\""})
	w.setUpVault()
	var certificate *vaulttest.TLS
	if over == "TLS" {
		authority := vaulttest.NewAuthority(t)
		c := authority.Server("vault.test")
		certificate = &c
		w.humanFront(authority.Server("localhost"))
	}
	front := newFront(w, certificate)
	w.start()
	w.awaitReady()
	needles := w.use(t)
	for _, token := range front.tokens(t) {
		needles.add("Vault token", token)
	}
	secretID := strings.TrimSpace(w.read("secret-id"))
	needles.add("secret id", secretID)
	needles.add("clientSecret", shopSecret)
	needles.add("clientSecret", clubSecret)
	w.dataKeys(t, needles)

	time.Sleep(atRest) // real time is what is measured
	found, read, hidden := w.memory(t, needles)
	t.Logf("figure: %d KiB of memory read, %d KiB hidden from root", read>>10, hidden>>10)
	for _, kind := range needles.kinds() {
		total := 0
		for _, n := range found[kind] {
			total += n
		}
		t.Logf("figure: %s: %d %s a minute after use: %d copies %s", over, len(needles[kind]), kind, total, places(found[kind]))
		ceiling := memoryCeilings[kind]
		if hidden < 1<<20 && !strings.HasSuffix(kind, "tokens") { // without memfd_secret(2) the locked region is seen
			ceiling += 4 * len(needles[kind])
		}
		if total > ceiling {
			t.Errorf("%s: %d copies, at most %d are known", kind, total, ceiling)
		}
	}
}

// atRest is how long after use memory is read.
const atRest = time.Minute

// needles are secrets by their kind.
type needles map[string][][]byte

func (n needles) add(kind, text string) { n[kind] = append(n[kind], []byte(text)) }

func (n needles) kinds() (out []string) {
	for kind := range n {
		out = append(out, kind)
	}
	slices.Sort(out)
	return out
}

// use exchanges, reads, looks up and administrates.
func (w *world) use(t *testing.T) needles {
	out := needles{}
	root := w.root("private")
	defer root.http.CloseIdleConnections()
	for i := range memoryUsers {
		human := w.sim.NewHumanID()
		for _, clientID := range []string{shop, club} {
			s := sto{clientID, human, w.sim.NewSession(clientID, human, fmt.Sprintf("rest-%d@example.test", i))}
			root.do("POST", tokens, s.json(), jsonType).want(t, 200, "")
			root.do("POST", tokens, s.json(), jsonType).want(t, 200, "")
			root.do("POST", "/v1/connect/publictokens", fmt.Sprintf(`{"humanId":%q,"clientId":%q}`, human, clientID), jsonType).want(t, 200, "")
			access, _ := w.sim.Current(clientID, human)
			if got := root.do("GET", "/v1/users/"+human+"/access-token?clientId="+clientID, "").field(t, "accessToken"); got != access {
				t.Fatal("another access token")
			}
			out.add("session tokens", s.sessionToken)
			out.add("access tokens", access)
		}
	}
	human := w.sim.NewHumanID()
	s := w.finishEvent(human, "form@example.test")
	w.web("public").do("POST", tokens, s.form()).want(t, 200, "")
	access, _ := w.sim.Current(shop, human)
	w.worker("private").do("GET", "/v1/users/"+human+"/access-token?clientId="+shop, "").want(t, 200, "")
	out.add("session tokens", s.sessionToken)
	out.add("access tokens", access)
	w.must("", "secret", "check")
	w.must("", "store", "check")
	w.must("", "store", "backup", "--output", w.path("rest.backup"))
	w.must("", "reload")
	return out
}

// humanFront puts TLS before Human API.
func (w *world) humanFront(certificate vaulttest.TLS) {
	w.t.Helper()
	target, err := url.Parse(w.sim.URL)
	must(w.t, err)
	f := &vaultFront{pass: httputil.NewSingleHostReverseProxy(target)}
	f.present(w.t, certificate)
	f.server = httptest.NewUnstartedServer(f)
	f.startTLS()
	w.t.Cleanup(f.server.Close)
	_, port, _ := strings.Cut(strings.TrimPrefix(f.server.URL, "https://"), ":")
	ca, err := os.ReadFile(certificate.CAFile)
	must(w.t, err)
	w.write("human-ca.pem", string(ca), 0, 0o644)
	w.edit(`user_url = "[^"]*"`, "user_url = \"https://localhost:"+port+"\"\nca_file = \""+w.path("human-ca.pem")+"\"")
}

// dataKeys adds every key of the keyring, as Vault unwraps it, as it is used, and as
// it came over the wire.
func (w *world) dataKeys(t *testing.T, n needles) {
	t.Helper()
	copied := w.path("copy.db")
	b, err := os.ReadFile(w.path("state/store.db")) // the daemon is at rest
	must(t, err)
	must(t, os.WriteFile(copied, b, 0o600))
	db, err := boltstore.Open(t.Context(), boltstore.Config{Path: copied, ReadOnly: true})
	must(t, err)
	defer db.Close()
	spy := &unwrapper{w: w}
	ring, err := keyring.Open(t.Context(), keyring.Config{Blob: db, Wrapper: spy})
	must(t, err)
	id := ring.StoreID()
	must(t, os.Remove(copied))
	for _, key := range spy.keys {
		used, err := hkdf.Extract(sha256.New, key, id[:])
		must(t, err)
		n.add("data keys", string(key))
		n.add("data keys as they are used", string(used))
		n.add("data keys in base64", base64.StdEncoding.EncodeToString(key))
		n.add("data keys in hex", hex.EncodeToString(key))
	}
	if len(spy.keys) < 5 {
		t.Fatalf("only %d keys were unwrapped", len(spy.keys))
	}
}

// unwrapper asks Vault as its root, and keeps what it says.
type unwrapper struct {
	w    *world
	keys [][]byte
}

func (u *unwrapper) Wrap(context.Context, secret.Text, []byte) (string, error) {
	return "", fmt.Errorf("this test wraps nothing")
}

func (u *unwrapper) Unwrap(_ context.Context, wrapped string, context []byte) (secret.Text, error) {
	said := u.w.vault.Must("POST", "transit/decrypt/tokenvault", map[string]any{"ciphertext": wrapped, "context": base64.StdEncoding.EncodeToString(context)})
	text, _ := said["plaintext"].(string)
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) == 0 {
		return secret.Text{}, fmt.Errorf("vault gave no key")
	}
	u.keys = append(u.keys, key)
	return secret.New(key), nil
}

// memory counts needles in all memory of the daemon that root can read, by the kind
// of mapping; hidden is how much could not be read.
func (w *world) memory(t *testing.T, n needles) (found map[string]map[string]int, read, hidden int64) {
	t.Helper()
	pid := w.daemon.cmd.Process.Pid
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer mem.Close()
	found = map[string]map[string]int{}
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || mode[0] != 'r' {
			continue
		}
		name := strings.Join(strings.Fields(line)[5:], " ")
		if info, err := os.Stat(name); err == nil {
			to = min(to, from+info.Size()) // a store maps more than its file has
		}
		n.look(mem, from, to, func(kind, path string, c int) {
			if found[kind] == nil {
				found[kind] = map[string]int{}
			}
			found[kind][path+", in "+mapping(name, mode)] += c
		}, &read, &hidden)
	}
	if read < 1<<20 {
		t.Fatalf("only %d bytes of memory could be read", read)
	}
	return found, read, hidden
}

// look reads one mapping in pieces, which overlap by more than a needle has.
func (n needles) look(mem *os.File, from, to int64, found func(kind, path string, copies int), read, hidden *int64) {
	const overlap = 1 << 10
	b := make([]byte, overlap, 1<<20+overlap)
	for at := from; at < to; {
		piece := b[overlap : overlap+int(min(to-at, 1<<20))]
		m, err := mem.ReadAt(piece, at)
		*read += int64(m)
		whole := b[:overlap+m]
		for kind, texts := range n {
			for _, text := range texts {
				before := copiesOf(whole[:overlap], text) // they are counted
				for path, c := range copiesOf(whole, text) {
					if c -= before[path]; c > 0 {
						found(kind, path, c)
					}
				}
			}
		}
		copy(b[:overlap], whole[m:])
		if at += int64(m); err != nil { // behind what cannot be read
			at += int64(os.Getpagesize())
			*hidden += int64(os.Getpagesize())
			clear(b[:overlap])
		}
	}
}

// copiesOf says where whole copies stand, by what stands before them, and counts what
// is left of a secret that was overwritten by half.
func copiesOf(b, text []byte) map[string]int {
	found := map[string]int{}
	for at := 0; ; {
		i := bytes.Index(b[at:], text)
		if i < 0 {
			break
		}
		at += i
		found[standing(b[max(0, at-40):at])]++
		at += len(text)
	}
	// The simulator's tokens have a half in common.
	if half := len(text) / 2; half >= 16 && !bytes.HasPrefix(text, []byte("sim-")) {
		if n := max(bytes.Count(b, text[:half]), bytes.Count(b, text[half:])) - bytes.Count(b, text); n > 0 {
			found["half of it"] += n
		}
	}
	return found
}

func standing(before []byte) string {
	for end, what := range map[string]string{
		`"sessionToken":"`: "a JSON body", "sessionToken=": "a form", `"accessToken":"`: "an answer", `"clientSecret":"`: "a request to Human API",
		"X-Vault-Token: ": "a request to Vault", `"client_token":"`: "an answer of Vault's", `"plaintext":"`: "an answer of Vault's",
	} {
		if bytes.HasSuffix(before, []byte(end)) {
			return what
		}
	}
	return "alone"
}

// mapping says what a mapping is. Go names its own where the kernel lets it
// (PR_SET_VMA).
func mapping(name, mode string) string {
	switch {
	case strings.Contains(name, "secretmem"), name == "" && mode == "rw-s":
		return "locked region"
	case strings.Contains(name, "memfd:"):
		return "restart memory"
	case strings.HasSuffix(name, ".db"):
		return "store file"
	case name == "":
		return "anonymous"
	}
	return name
}

func places(found map[string]int) string {
	if len(found) == 0 {
		return ""
	}
	text, _ := json.Marshal(found) // strings and numbers
	return string(text)
}

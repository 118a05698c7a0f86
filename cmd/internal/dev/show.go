package dev

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/tokenvault/tokenvault/crypto/secret"
	"github.com/tokenvault/tokenvault/exchange/humanapitest"
	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
)

// clientUserID is how the app of the try-out knows its user.
const clientUserID = "alice@example.com"

// show performs one exchange and tells what each side saw. What is shown is
// checked: it fails when it would have to show something else.
func (w *world) show(ctx context.Context) error {
	fmt.Fprintf(w.Out, "Human API is the simulator at %s\nVault is %s\nEverything is in %s\n", w.sim.URL, w.vault, w.dir)
	public, err := client.New(client.Config{Socket: w.socket("public")})
	if err != nil {
		return err
	}
	defer public.Close()
	private, err := client.New(client.Config{Socket: w.socket("private")})
	if err != nil {
		return err
	}
	defer private.Close()
	human := user.HumanID(w.sim.NewHumanID())
	tokens, err := w.exchange(ctx, public, human)
	if err != nil {
		return err
	}
	if err := w.showDisk(human, tokens); err != nil {
		return err
	}
	if err := w.showWorker(ctx, private, human); err != nil {
		return err
	}
	return w.showRefused(ctx, public, human)
}

func (w *world) socket(name string) string {
	for _, l := range w.cfg.Listeners {
		if l.Name == name {
			return l.Path
		}
	}
	return ""
}

func (w *world) step(who, format string, args ...any) {
	fmt.Fprintf(w.Out, "\n%s\n", who)
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		fmt.Fprintf(w.Out, "  %s\n", line)
	}
}

// exchange is the browser's and the app's part.
func (w *world) exchange(ctx context.Context, public *client.Client, human user.HumanID) (api.Tokens, error) {
	session := w.sim.NewSession(string(w.app), string(human), clientUserID)
	w.step("The browser got a sessionTokenObject from the popup:",
		`{"humanId":%q,"clientId":%q,"sessionToken":%q}`, human, w.app, session)
	tokens, err := public.Exchange(ctx, client.SessionTokenObject{
		HumanID: human, ClientID: w.app, SessionToken: secret.FromString(session), Expected: clientUserID,
	})
	if err != nil {
		return tokens, fmt.Errorf("exchange the session token: %w", err)
	}
	w.step("The app sent it to "+w.socket("public")+" and got, without holding any secret:",
		`{"humanId":%q,"publicToken":%q,"clientId":%q,"clientUserId":%q}`,
		tokens.HumanID, tokens.PublicToken, tokens.ClientID, tokens.ClientUserID)
	w.step("Human API was asked by the daemon, which added the clientSecret:",
		"%d request to %s", w.sim.Count(humanapitest.TokensPath), humanapitest.TokensPath)
	return tokens, nil
}

// showDisk looks for everything that must not be in the files.
func (w *world) showDisk(human user.HumanID, tokens api.Tokens) error {
	access, _ := w.sim.Current(string(w.app), string(human))
	total := 0
	var dump string
	for _, path := range []string{w.cfg.Store.Path, w.cfg.Audit.Path} {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("look at the disk: %w", err)
		}
		total += len(content)
		for what, word := range map[string]string{"accessToken": access, "publicToken": tokens.PublicToken, "humanId": string(human),
			"clientUserId": clientUserID, "clientSecret": w.secret} {
			if bytes.Contains(content, []byte(word)) {
				return fmt.Errorf("the %s stands in clear in %s", what, path)
			}
		}
		if i := bytes.Index(content, []byte("TV\x01")); dump == "" && i >= 0 {
			dump = strings.TrimRight(hex.Dump(content[i:min(i+96, len(content))]), "\n")
		}
	}
	if dump == "" {
		return errors.New("there is no sealed row on the disk")
	}
	w.step("The disk has it sealed; a row begins like this:",
		"%s\naccessToken, publicToken, humanId, clientUserId and clientSecret: none is in these %d bytes (%s, %s)",
		dump, total, w.cfg.Store.Path, w.cfg.Audit.Path)
	return nil
}

func (w *world) showWorker(ctx context.Context, private *client.Client, human user.HumanID) error {
	got, err := private.AccessToken(ctx, w.app, human)
	if err != nil {
		return fmt.Errorf("fetch the access token as the worker: %w", err)
	}
	access, _ := w.sim.Current(string(w.app), string(human))
	if !got.Token.Equal(secret.FromString(access)) {
		return errors.New("the worker got another access token than Human API gave")
	}
	w.step("A data worker asked at "+w.socket("private")+", whose ceiling has \"access-token\":",
		"an accessToken of %d characters, the one that Human API gave; the audit log has it", got.Token.Len())
	return nil
}

func (w *world) showRefused(ctx context.Context, public *client.Client, human user.HumanID) error {
	_, err := public.AccessToken(ctx, w.app, human)
	if client.CodeOf(err) != api.NotGranted {
		return fmt.Errorf("the public socket should have refused the access token with not_granted: %w", err)
	}
	w.step("The same user asked for it at the public socket, and was refused:", "%v", err)
	return nil
}

// invite prints what can be pasted.
func (w *world) invite() {
	human := w.sim.NewHumanID()
	session := w.sim.NewSession(string(w.app), human, "bob@example.com")
	body := fmt.Sprintf(`{"humanId":%q,"clientId":%q,"sessionToken":%q}`, human, w.app, session)
	program := programName()
	curl := "curl -sS --unix-socket "
	w.step("Try it in another terminal:", "%s", strings.Join([]string{
		"# another user comes back from the popup",
		curl + w.socket("public") + " -H 'Content-Type: application/json' -d '" + body + "' http://localhost/v1/connect/tokens",
		"# who does the daemon think you are?",
		curl + w.socket("public") + " http://localhost/v1/whoami",
		"# the accessToken, where the ceiling allows it, and where it does not",
		curl + w.socket("private") + " http://localhost/v1/users/" + human + "/access-token",
		curl + w.socket("public") + " http://localhost/v1/users/" + human + "/access-token",
		"# the daemon's own view, and the audit log",
		program + " status --socket " + w.socket("admin"),
		program + " audit verify " + w.cfg.Audit.Path,
		"# a new finish event in the popup",
		fmt.Sprintf(`curl -sS -d '{"clientId":%q,"humanId":%q,"clientUserId":"bob@example.com"}' %s/sim/sessions`, w.app, human, w.sim.URL),
	}, "\n"))
	fmt.Fprintln(w.Out, "\nServing until Ctrl-C.")
}

// plainPath needs no quotes in a shell.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9/._+-]+$`)

// programName is how this program is called in another terminal: by its name
// when that finds it on the PATH, else (after go run, say) by its path.
func programName() string {
	const name = "tokenvault"
	self, err := os.Executable()
	if err != nil {
		return name
	}
	if found, err := exec.LookPath(name); err == nil && sameFile(found, self) {
		return name
	}
	if plainPath.MatchString(self) {
		return self
	}
	return "'" + strings.ReplaceAll(self, "'", `'\''`) + "'"
}

func sameFile(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

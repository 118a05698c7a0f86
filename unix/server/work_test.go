package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/exchange/user"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client/clienttest"
	"github.com/tokenvault/tokenvault/unix/policy"
	"github.com/tokenvault/tokenvault/unix/server"
)

// worker is an admin that does what a test says, and remembers what it was asked.
type worker struct {
	f      *faulty
	err    error
	backup func(ctx context.Context, w io.Writer) error
}

func (worker) Status(context.Context) api.Status                  { return api.Status{} }
func (worker) CheckSecrets(context.Context) api.SecretCheck       { return api.SecretCheck{} }
func (worker) CheckStore(context.Context) (api.StoreCheck, error) { return api.StoreCheck{}, nil }

func (w worker) Reload(context.Context) error {
	w.f.step("reload")
	return w.err
}

func (w worker) Accept(_ context.Context, seen string) error {
	w.f.step("accept " + seen)
	return w.err
}

func (w worker) Backup(ctx context.Context, to io.Writer) error { return w.backup(ctx, to) }

func (w worker) Candidates(_ context.Context, app user.ClientID, id user.ClientUserID) ([]user.Public, int, error) {
	w.f.step(fmt.Sprintf("candidates %s %s", app, id))
	return []user.Public{{HumanID: "h1"}, {HumanID: "h2"}}, 1, w.err
}

func (w worker) Prefer(_ context.Context, app user.ClientID, id user.ClientUserID, human user.HumanID) (user.Public, error) {
	w.f.step(fmt.Sprintf("prefer %s %s %s", app, id, human))
	return user.Public{HumanID: human}, w.err
}

// startWorker runs a server whose one rule gives its caller all rights of an
// administrator, for those apps; nil: all.
func startWorker(t *testing.T, w *worker, apps []policy.App) *bare {
	t.Helper()
	w.f = &faulty{}
	b := startBare(t, func(s *server.Config) {
		s.Admin, s.Apps = w, adminApps
		rule := policy.Rule{Name: "ops", Users: []uint32{me()}, Contained: true, Apps: apps, Grants: []api.Grant{api.GrantAdminRead, api.GrantAdmin}}
		p, err := policy.New(policy.Config{Rules: []policy.Rule{rule}, Apps: adminApps, Ceilings: map[string][]api.Grant{"private": clienttest.Ceilings()[policy.AdminListener]}})
		if err != nil {
			t.Fatal(err)
		}
		s.Policy = p
	})
	b.f = w.f
	return b
}

func (b *bare) postTo(t testing.TB, path, body string, headers ...string) answer {
	return raw(t, b.socket, request("POST", path, body, headers...))
}

func TestVerdicts(t *testing.T) {
	w := &worker{}
	b := startWorker(t, w, nil)
	b.open()
	for path, c := range map[string]struct{ body, step string }{
		"/v1/admin/reload":       {"", "reload"},
		"/v1/admin/store/accept": {`{"seen":"word"}`, "accept word"},
	} {
		for _, v := range []struct {
			err  error
			want api.Verdict
			log  string
		}{
			{nil, api.Verdict{OK: true, Refused: []string{}}, "done"},
			{errors.New("store.path needs a restart\nlistener \"x\" needs a restart"), api.Verdict{Refused: []string{"store.path needs a restart", "listener \"x\" needs a restart"}}, "refused"},
		} {
			b.f.set(func() { w.err = v.err })
			a := b.postTo(t, path, c.body)
			var got api.Verdict
			if err := json.Unmarshal(a.body, &got); err != nil || a.status != 200 || got.Refused == nil || fmt.Sprint(got) != fmt.Sprint(v.want) {
				t.Errorf("%s: got %d %s", path, a.status, a.body)
			}
			if got := strings.Join(b.f.steps, ", "); got != "durable attempt, "+c.step+", durable outcome" {
				t.Errorf("%s: %s", path, got)
			}
			if e := b.f.events[1]; e.Rule != "ops" || e.Outcome != v.log || e.Status != 200 || e.Route != "POST "+path {
				t.Errorf("%s: on record is rule %q, outcome %q, route %q", path, e.Rule, e.Outcome, e.Route)
			}
		}
		b.f.set(func() { w.err = user.Fail(user.Draining, "marker-of-a-cause") })
		a := b.postTo(t, path, c.body)
		if a.wantCode(t, api.Draining); strings.Contains(string(a.body), "marker") || b.f.events[1].Outcome != "" {
			t.Errorf("%s: a known failure shows its cause, or an outcome", path)
		}
	}
	b.f.set(func() { b.f.durable = errors.New("full") })
	b.postTo(t, "/v1/admin/reload", "").wantCode(t, api.AuditUnavailable)
	if strings.Contains(strings.Join(b.f.steps, ","), "reload") {
		t.Error("something is done that is not on record")
	}
}

// TestWorkWhileStarting: what makes a start possible is served before it, and is
// on record when the log opens.
func TestWorkWhileStarting(t *testing.T) {
	w := &worker{}
	b := startWorker(t, w, nil)
	if a := b.postTo(t, "/v1/admin/reload", ""); a.status != 200 {
		t.Fatalf("reload: got %d", a.status)
	}
	w.err = errors.New("not what was shown")
	if a := b.postTo(t, "/v1/admin/store/accept", `{"seen":"word"}`); a.status != 200 {
		t.Fatalf("accept: got %d", a.status)
	}
	w.err = nil
	for _, c := range [][2]string{{"store/backup", ""}, {"users/prefer", `{"clientUserId":"u","humanId":"h"}`}, {"store/check", ""}} {
		b.postTo(t, "/v1/admin/"+c[0], c[1]).wantCode(t, api.Starting)
	}
	b.get(t, "/v1/admin/users/candidates").wantCode(t, api.Starting)
	if got := strings.Join(b.f.steps, ", "); got != "reload, accept word" {
		t.Fatalf("done was: %s", got)
	}
	b.open()
	notes := map[string]string{}
	for _, e := range b.f.events {
		if notes[e.Route] = e.Outcome; e.Kind != "note" || e.UID == nil || *e.UID != me() {
			t.Errorf("on record: %s of %s", e.Kind, e.Route)
		}
	}
	if notes["POST /v1/admin/reload"] != "starting, done" || notes["POST /v1/admin/store/accept"] != "starting, refused" {
		t.Errorf("on record: %v", notes)
	}
	b.stop()
	<-b.done
	if got := b.log.String(); strings.Count(got, "administrator acts while the daemon starts") != 2 {
		t.Errorf("the daemon's log lacks them: %s", got)
	}
}

// TestAllApps: an administrator of some apps acts on those, and on nothing that is
// everybody's.
func TestAllApps(t *testing.T) {
	const prefer = `{"clientId":"%s","clientUserId":"u","humanId":"h"}`
	w := &worker{backup: func(_ context.Context, w io.Writer) error { _, err := io.WriteString(w, "x"); return err }}
	for name, c := range map[string]struct {
		apps []policy.App
		all  bool
	}{"one": {adminApps[:1], false}, "all by name": {adminApps, true}, "all": {nil, true}} {
		b := startWorker(t, w, c.apps)
		b.open()
		for path, body := range map[string]string{"reload": "", "store/backup": "", "store/accept": `{"seen":"word"}`} {
			a := b.postTo(t, "/v1/admin/"+path, body)
			if c.all && a.status != 200 {
				t.Errorf("%s: %s: got %d", name, path, a.status)
			}
			if !c.all {
				a.wantCode(t, api.NotGranted)
			}
		}
		own, other := fmt.Sprintf(prefer, "id-of-shop"), fmt.Sprintf(prefer, "id-of-gym")
		b.f.set(func() {})
		if a := b.postTo(t, "/v1/admin/users/prefer", own); a.status != 200 || b.f.events[0].App != "shop" || b.f.events[0].Subject == "" {
			t.Errorf("%s: prefer: got %d", name, a.status)
		}
		if got := strings.Join(b.f.steps, ", "); got != "durable attempt, prefer id-of-shop u h, durable outcome" {
			t.Errorf("%s: %s", name, got)
		}
		if a := b.postTo(t, "/v1/admin/users/prefer", other); !c.all {
			a.wantCode(t, api.NotGranted)
		}
		a := raw(t, b.socket, request("GET", "/v1/admin/users/candidates", "", "X-Client-User-Id: u%40x"))
		if c.all {
			a.wantCode(t, api.ClientIDRequired)
			a = raw(t, b.socket, request("GET", "/v1/admin/users/candidates?clientId=id-of-shop", "", "X-Client-User-Id: u%40x"))
		}
		var got api.Candidates
		if json.Unmarshal(a.body, &got) != nil || len(got.Users) != 2 || got.Preferred != "h2" || b.f.steps[len(b.f.steps)-2] != "candidates id-of-shop u@x" {
			t.Errorf("%s: candidates: got %d", name, a.status)
		}
		raw(t, b.socket, request("GET", "/v1/admin/users/candidates?clientId=id-of-nobody", "", "X-Client-User-Id: u")).wantCode(t, api.NotGranted)
	}
}

// TestStrangersWork: who administers nothing is told no more than that.
func TestStrangersWork(t *testing.T) {
	b := startBare(t, nil) // its rule is for apps
	b.open()
	for path, body := range map[string]string{"reload": "", "store/backup": "", "store/accept": `{"seen":"word"}`, "users/prefer": `{"clientUserId":"u","humanId":"h"}`} {
		if a := b.postTo(t, "/v1/admin/"+path, body); a.err.Message == "" || strings.Contains(a.err.Message, "all apps") {
			t.Errorf("%s: %q", path, a.err.Message)
		} else {
			a.wantCode(t, api.NotGranted)
		}
	}
}

func TestWorkBodies(t *testing.T) {
	w := &worker{}
	b := startWorker(t, w, adminApps[:1])
	b.open()
	for _, c := range []struct {
		body string
		code api.Code // "" : taken
	}{
		{`{"clientUserId":"u","humanId":"h"}`, ""},
		{`{"clientUserId":"u","humanId":"h","clientId":"id-of-shop","more":[1,{"x":2}]}`, ""},
		{`{"clientUserId":"u","humanId":"h","Seen":"not read here"}`, ""},
		{"", api.BadRequest}, {"[]", api.BadRequest}, {"{}", api.BadRequest},
		{`{"clientUserId":"u"}`, api.BadRequest}, {`{"humanId":"h"}`, api.BadRequest},
		{`{"clientUserId":"","humanId":"h"}`, api.BadRequest}, {`{"clientUserId":"u","humanId":7}`, api.BadRequest},
		{`{"clientUserId":"u","humanId":"h"} x`, api.BadRequest}, {`{"clientUserId":"u","clientUserId":"v","humanId":"h"}`, api.BadRequest},
		{`{"clientUserId":"u","ClientUserID":"v","humanId":"h"}`, api.BadRequest}, {`{"clientUserId":"u","humanID":"h"}`, api.BadRequest},
		{`{"sessionTokenObject":{"clientUserId":"u","humanId":"h"}}`, api.BadRequest},
		{`{"clientUserId":"u\u0000","humanId":"h"}`, api.BadRequest},
		{`{"clientUserId":"u","humanId":"h","clientSecret":"x"}`, api.SecretNotAccepted},
		{`{"clientUserId":"u","humanId":"h","x":{"y":{"z":{"a":{}}}}}`, api.BadRequest},
		{`{"clientUserId":"` + strings.Repeat("u", 64<<10) + `","humanId":"h"}`, api.TooLarge},
	} {
		b.f.set(func() {})
		a := b.postTo(t, "/v1/admin/users/prefer", c.body)
		if c.code == "" {
			if a.status != 200 {
				t.Errorf("%.60s: got %d", c.body, a.status)
			}
			continue
		}
		if a.err.Code != c.code || strings.Contains(strings.Join(b.f.steps, ","), "prefer") {
			t.Errorf("%.60s: got %d %s", c.body, a.status, a.err.Code)
		}
	}
	b.postTo(t, "/v1/admin/users/prefer", `{"clientUserId":"u","humanId":"h"}`, "X-Client-User-Id: v").wantCode(t, api.BadRequest)
	b.postTo(t, "/v1/admin/users/prefer", `x`, "Content-Type: text/plain").wantCode(t, api.UnsupportedMediaType)
	b.get(t, "/v1/admin/users/prefer").wantCode(t, api.MethodNotAllowed)
	b.get(t, "/v1/admin/users/candidates").wantCode(t, api.BadRequest)
}

func TestAcceptBodies(t *testing.T) {
	w := &worker{}
	b := startWorker(t, w, nil)
	for _, body := range []string{
		"", "{}", `{"seen":""}`, `{"Seen":"word"}`, `{"seen":1}`, `{"seen":"a","seen":"b"}`, `{"seen":"a"}{}`, `{"sessionTokenObject":{"seen":"a"}}`,
		`{"seen":"a","clientId":"id-of-shop"}`, `{"seen":"` + strings.Repeat("a", 2000) + `"}`,
	} {
		b.postTo(t, "/v1/admin/store/accept", body).wantCode(t, api.BadRequest)
	}
	b.postTo(t, "/v1/admin/store/accept?clientId=id-of-shop", `{"seen":"a"}`).wantCode(t, api.BadRequest)
	b.postTo(t, "/v1/admin/reload?clientId=id-of-shop", "").wantCode(t, api.BadRequest)
	b.postTo(t, "/v1/admin/reload", "{}").wantCode(t, api.BadRequest)
	b.postTo(t, "/v1/admin/store/accept", `{"seen":"a","access_token":"x"}`).wantCode(t, api.SecretNotAccepted)
	if len(b.f.steps) != 0 {
		t.Errorf("done was: %v", b.f.steps)
	}
}

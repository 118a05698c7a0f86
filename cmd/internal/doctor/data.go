package doctor

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/daemon"
	"github.com/tokenvault/tokenvault/crypto/audit"
	"github.com/tokenvault/tokenvault/crypto/store/boltstore"
	"github.com/tokenvault/tokenvault/unix/api"
	"github.com/tokenvault/tokenvault/unix/client"
	"github.com/tokenvault/tokenvault/vault"
)

// backupWarn is how old the newest backup may be.
const backupWarn = 8 * 24 * time.Hour

func absent(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// store opens every row: the daemon does it, or when none runs this process.
func (e *exam) store(ctx context.Context) Finding {
	const cure = "tokenvault store check"
	if e.status == nil && absent(e.cfg.Store.Path) {
		return good("there is none yet: the first start makes it")
	}
	if e.status == nil && (!e.admitted() || e.states["Transit"] == Fail) {
		return unknown("it needs Transit")
	}
	check, err := e.checkStore(ctx)
	switch {
	case errors.Is(err, boltstore.ErrHeld):
		return unknown("a daemon holds it, and does not answer")
	case client.CodeOf(err) == api.StoreUnavailable, client.CodeOf(err) == api.Starting:
		return unknown("the daemon has not opened it yet")
	case err != nil:
		return late(ctx, cure, "check the store", err)
	case !check.OK:
		return bad(cure, "%s, the first: %s", count(len(check.Problems)+check.Omitted, "problem"), check.Problems[0])
	}
	return good("%s, every row opens", count(check.Counts["users"], "user"))
}

func (e *exam) checkStore(ctx context.Context) (api.StoreCheck, error) {
	if e.status == nil {
		return daemon.CheckOffline(ctx, daemon.Config{Config: e.cfg, Now: e.Now})
	}
	cl, err := client.New(client.Config{Socket: e.adminSocket(), Timeout: longLimit})
	if err != nil {
		return api.StoreCheck{}, err
	}
	defer cl.Close()
	return cl.AdminStoreCheck(ctx)
}

// auditLog proves the chain and its signatures, and holds log and store against what
// Vault remembers.
func (e *exam) auditLog(ctx context.Context) Finding {
	const cure = "tokenvault audit verify --anchor"
	if e.status != nil && e.status.Rollback != nil {
		return bad("tokenvault store accept", "what is here is not what Vault remembers: %s", strings.Join(e.status.Rollback.Reasons, "; "))
	}
	var anchor vault.Anchor
	if e.admitted() {
		var err error
		anchor, _, err = e.client.ReadAnchor(ctx, e.cfg.Instance)
		if err != nil && !errors.Is(err, vault.ErrNotFound) {
			return late(ctx, cure, "read the anchor", err)
		}
		if f, ok := e.behind(ctx, anchor, err == nil); ok {
			return f
		}
	}
	if absent(e.cfg.Audit.Path) {
		return good("there is none yet: the first start makes it")
	}
	return e.chain(ctx, anchor, cure)
}

// chain proves what can be proved with the key that Vault, or else the daemon, names.
func (e *exam) chain(ctx context.Context, anchor vault.Anchor, cure string) Finding {
	c := audit.VerifyConfig{Path: e.cfg.Audit.Path}
	if line, key, err := daemon.AuditOf(anchor); err == nil {
		c.Anchor, c.PublicKey = &line, key
	} else if e.status != nil {
		if key, err := hex.DecodeString(e.status.Audit.PublicKey); err == nil && len(key) == ed25519.PublicKeySize {
			c.PublicKey = key
		}
	}
	r, err := audit.Verify(ctx, c)
	switch {
	case err != nil:
		return late(ctx, cure, "verify the audit log", err)
	case !r.Consistent:
		return bad(cure, "%s: line %d: %s", filepath.Base(r.File), r.Line, r.Problem)
	case c.PublicKey == nil:
		return unknown("%d lines follow from each other; who signed them only Vault or the running daemon can say", r.Lines)
	case r.AuthenticTo == 0:
		return bad(cure, "nothing in it is signed with the key that Vault remembers")
	case c.Anchor == nil:
		return good("%d lines, authentic to %d; not held against Vault", r.Lines, r.AuthenticTo)
	}
	return good("%d lines, authentic to %d, whole to %d", r.Lines, r.AuthenticTo, r.CompleteTo)
}

// behind compares a store that no daemon holds; one that runs has compared itself.
func (e *exam) behind(ctx context.Context, anchor vault.Anchor, found bool) (Finding, bool) {
	const cure = "systemctl start tokenvault, then tokenvault status and tokenvault store accept"
	if e.status != nil {
		return Finding{}, false
	}
	reasons, err := daemon.Behind(ctx, e.cfg, anchor, found)
	switch {
	case errors.Is(err, boltstore.ErrHeld):
		return Finding{}, false
	case err != nil:
		return late(ctx, cure, "compare with the anchor", err), true
	case len(reasons) > 0:
		return bad(cure, "what is here is not what Vault remembers: %s", strings.Join(reasons, "; ")), true
	}
	return Finding{}, false
}

// backup opens the newest one, as a restore would.
func (e *exam) backup(ctx context.Context) Finding {
	if e.status == nil && absent(e.cfg.Store.Path) {
		return good("there is no store yet")
	}
	path := e.newest()
	if path == "" {
		return warn("tokenvault store backup --output "+e.Backups+"/tokenvault-$(date +%F).backup", "there is no tokenvault*.backup in %s", e.Backups)
	}
	f, err := os.Open(path)
	if err != nil {
		return unknown("%v", err)
	}
	defer func() { _ = f.Close() }()
	cure := "tokenvault store verify " + path
	r, err := daemon.VerifyBackup(ctx, daemon.Config{Config: e.cfg, Now: e.Now}, f)
	switch {
	case errors.Is(err, daemon.ErrWrapped):
		return Finding{State: Unknown, Text: err.Error(), Cures: []string{cure + " --token-file FILE"}}
	case err != nil:
		return late(ctx, cure, path, err)
	case !r.Check.OK:
		return bad(cure, "%s: %s, the first: %s", path, count(len(r.Check.Problems)+r.Check.Omitted, "problem"), r.Check.Problems[0])
	}
	again := "tokenvault store backup --output " + e.Backups + "/tokenvault-$(date +%F).backup"
	switch age := e.Now().Sub(r.Backup.MadeAt); {
	case r.Anchored && r.Backup.StoreID != r.Anchor.StoreID:
		return warn(again, "%s is of another store", path)
	case age > backupWarn:
		return warn(again, "the newest, %s, is %d days old", path, int(age.Hours()/24))
	}
	return good("%s of %s opens, every row of it", path, r.Backup.MadeAt.UTC().Format(time.RFC3339))
}

// newest is the backup that was written last; "" when there is none.
func (e *exam) newest() (path string) {
	var at time.Time
	paths, _ := filepath.Glob(filepath.Join(e.Backups, "tokenvault*.backup")) // the pattern is well-formed
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.ModTime().After(at) {
			path, at = p, info.ModTime()
		}
	}
	return path
}

// daemon says how the daemon is, as far as no other line has said why.
func (e *exam) daemon(context.Context) Finding {
	s := e.status
	if s == nil {
		switch {
		case e.stopped():
			return warn("systemctl start --no-block tokenvault", "it does not run")
		case errors.Is(e.statusErr, fs.ErrPermission), client.CodeOf(e.statusErr) == api.NotGranted, client.CodeOf(e.statusErr) == api.UnknownCaller:
			return unknown("%v: be root", e.statusErr)
		}
		return bad(restart, "it does not answer: %v", e.statusErr)
	}
	said := false
	for _, state := range e.states {
		said = said || state == Fail
	}
	reasons := strings.Join(s.Health.Reasons, "; ")
	switch h := s.Health; {
	case h.Ready && !h.Degraded:
		return good("ready, version %s", s.Version)
	case said:
		return unknown("%s: see the lines above", reasons)
	case strings.Contains(reasons, "rules on disk"):
		return bad(restart, "%s", reasons)
	case !h.Ready:
		return bad("tokenvault status", "not ready: %s", reasons)
	}
	return warn("tokenvault status", "degraded: %s", reasons)
}

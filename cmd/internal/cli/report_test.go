package cli

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/client"
)

// Who may not ask the admin socket hears what to ask for.
func TestHintForNoAdministrator(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "tvh-") // t.TempDir is too long for a socket's address
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for code, want := range map[string]bool{"not_granted": true, "unknown_caller": true, "starting": false} {
		l, err := net.Listen("unix", filepath.Join(dir, code))
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"statusCode":403,"error":"`+code+`","message":"no","requestId":"r"}`)
		})}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(func() { _ = s.Close() })
		r := invoke(t, nil, "", "status", "--socket", l.Addr().String())
		if got := strings.Contains(r.stderr, "hint: be root, or ask for a [[rule]] with the grant admin-read"); got != want || r.status != exitDenied {
			t.Errorf("%s: exit %d, stderr %q", code, r.status, r.stderr)
		}
		if r := invoke(t, nil, "", "whoami", "--socket", l.Addr().String()); strings.Contains(r.stderr, "admin-read") {
			t.Errorf("%s, to an app: %q", code, r.stderr)
		}
	}
	err = &adminError{fmt.Errorf("%w: %w", client.ErrUnavailable, fs.ErrPermission)}
	if got := strings.Join(hints(err), ""); !strings.Contains(got, "admin-read") || status(err) != exitDenied {
		t.Errorf("a socket that may not be opened: exit %d, %q", status(err), got)
	}
}

package doctor

import (
	"strings"
	"testing"
	"time"

	"github.com/tokenvault/tokenvault/cmd/internal/config"
	"github.com/tokenvault/tokenvault/vault"
)

// A certificate is spoken of in the last tenth of its life, and of a long one in the
// last two weeks.
func TestCertificateEnds(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		life, left time.Duration
		want       State
	}{
		{time.Hour, 30 * time.Minute, OK}, {time.Hour, 5 * time.Minute, Warn},
		{365 * 24 * time.Hour, 20 * 24 * time.Hour, OK}, {365 * 24 * time.Hour, 10 * 24 * time.Hour, Warn},
	} {
		until := now.Add(c.left)
		e := &exam{
			Config: Config{Now: func() time.Time { return now }}, cfg: &config.Config{Vault: config.Vault{Address: "https://vault.test"}}, probed: true,
			contact: vault.Contact{Dialled: true, Secured: true, Serves: true, Encrypted: true, Since: until.Add(-c.life), Until: until},
		}
		if f := e.vaultTLS(t.Context()); f.State != c.want || c.want == Warn && !strings.Contains(f.Cures[0], "openssl s_client") {
			t.Errorf("%v of %v left: %+v", c.left, c.life, f)
		}
	}
}

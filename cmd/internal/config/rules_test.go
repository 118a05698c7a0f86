package config

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tokenvault/tokenvault/unix/api"
)

// Notes name exactly the grants that the server has no endpoint for.
func TestGrantsWithoutEndpoint(t *testing.T) {
	spec, err := os.ReadFile("../../../unix/api/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range api.Grants {
		served := strings.Contains(string(spec), "x-grant: "+string(g)+"\n")
		cfg, err := loadOne(t, minimal+"[[rule]]\nname='a'\nusers=[33]\napps=['shop']\ngrants=['"+string(g)+"']\nrate={per_second=5}\n"+
			map[bool]string{true: "paths=['/**']\n"}[g == api.GrantProxy])
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"rule a: grant " + string(g) + " does nothing in this version"}
		if served {
			want = nil
		}
		if got := cfg.Notes(); !slices.Equal(got, want) {
			t.Errorf("%s: notes %q, want %q", g, got, want)
		}
	}
}

// TestRulesWithoutRate: those by which an app can ask without end are named.
func TestRulesWithoutRate(t *testing.T) {
	for rule, noted := range map[string]bool{
		"apps=['shop']\ngrants=['lookup']": true, "apps=['shop']\ngrants=['access-token','admin-read']": true,
		"apps=['shop']\ngrants=['lookup']\nrate={per_second=5}": false, "grants=['admin','admin-read']": false,
		"apps=['shop']\ngrants=['webhook']": false,
	} {
		cfg, err := loadOne(t, minimal+"[[rule]]\nname='a'\nusers=[33]\n"+rule+"\n")
		if err != nil {
			t.Fatal(err)
		}
		got := slices.ContainsFunc(cfg.Notes(), func(n string) bool { return strings.HasPrefix(n, "rule a: it has no rate") })
		if got != noted {
			t.Errorf("%s: notes %q", rule, cfg.Notes())
		}
	}
}

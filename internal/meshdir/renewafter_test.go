package meshdir_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/registry"
)

// How long a key alone renews is said by kind, and is nothing for a kind that nobody
// knows.
func TestRenewAfterExpiry(t *testing.T) {
	m := newMesh(t)
	const day = 24 * time.Hour
	for kind, want := range map[registry.Kind]time.Duration{
		registry.Person: 30 * day, registry.Job: 30 * day, registry.Service: 0, "other": 0, "": 0,
	} {
		if got := m.Config.Certificate.RenewAfterExpiry.Of(kind); got != want {
			t.Errorf("%q: got %s by default, want %s", kind, got, want)
		}
	}
	file := m.Dir + "/" + meshdir.ConfigFile
	set := func(kind, from, to string) {
		edit(t, file, func(s string) string {
			if !strings.Contains(s, "    "+kind+": "+from+"\n") {
				t.Fatalf("no %s: %s in %s", kind, from, s)
			}
			return strings.Replace(s, "    "+kind+": "+from+"\n", "    "+kind+": "+to+"\n", 1)
		})
	}
	set("person", "720h", "48h")
	set("job", "720h", "0s")
	set("service", "0s", "1h")
	m, err := meshdir.Load(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Config.Certificate.RenewAfterExpiry, (meshdir.RenewAfterExpiry{Person: 2 * day, Service: time.Hour}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []string{"-1s", "8761h"} {
		set("service", "1h", bad)
		if _, err := meshdir.Load(m.Dir); err == nil || !strings.Contains(err.Error(), "certificate.renew_after_expiry.service") {
			t.Errorf("%s: got %v", bad, err)
		}
		set("service", bad, "1h")
	}
}

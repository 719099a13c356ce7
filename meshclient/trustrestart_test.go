package meshclient_test

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// A client that took a trust document and was started again refuses the one before,
// though that is the first that a broker serves it.
func TestOlderTrustAfterRestart(t *testing.T) {
	t.Parallel()
	m := mesh(t, devmesh.Options{})
	dir := enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")})
	_, served, err := m.Dir.Trust()
	if err != nil {
		t.Fatal(err)
	}
	infra, err := served.InfraRoots()
	if err != nil {
		t.Fatal(err)
	}
	agents, err := served.AgentRoots()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pki.ReadSecret(filepath.Join(m.Dir.Dir, "root", "authority.nk"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	if err != nil {
		t.Fatal(err)
	}
	newer, err := capability.SignTrust(root, m.Dir.Config.TrustDomain, served.Version+5, infra, agents, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	kept := func() uint64 {
		d, err := agentdir.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		floors, err := d.Floors()
		if err != nil {
			t.Fatal(err)
		}
		return floors.Trust()
	}

	var refused atomic.Int64
	log := meshclient.Log(zerolog.New(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, text string) {
		if strings.HasPrefix(text, "trust document refused") {
			refused.Add(1)
		}
	})))
	first := connected(t, m, dir, log)
	if got := refused.Load(); got != 0 {
		t.Fatalf("%d documents were refused before there was a newer one", got)
	}
	// The feed brings it, and the registry goes on serving the one before.
	if err := service(t, m).Publish(feedAgents+registry.TrustKey, []byte(newer)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the newer document", func() bool { return kept() == served.Version+5 })
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	connected(t, m, dir, log)
	if refused.Load() == 0 {
		t.Error("the older document was not refused")
	}
	if got := kept(); got != served.Version+5 {
		t.Errorf("version %d is kept, want %d", got, served.Version+5)
	}
}

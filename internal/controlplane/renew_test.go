package controlplane_test

import (
	"errors"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Certificates end while everybody sleeps. People and jobs come back by their
// key alone, a service needs somebody to look at it, and nobody who was cut
// comes back at all.
func TestSleepersRenew(t *testing.T) {
	t.Parallel()
	const life = 5 * time.Second
	m, ctx := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) { o.Certificate.TTL = life }})
	dirs := map[string]string{}
	for name, kind := range map[string]registry.Kind{"person": registry.Person, "job": registry.Job, "service": registry.Service, "culprit": registry.Person} {
		dirs[name] = add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(name), Kind: kind, Rights: registry.Rights{Call: scopes("read:logs")}})
	}
	if _, err := m.Cut(ctx, "suspend", "culprit", ""); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(life + time.Second)
	eventually(t, ctx, "the end of the certificates", func() bool { return time.Now().After(end) })

	for _, name := range []string{"person", "job"} {
		c := connect(t, ctx, m, dirs[name])
		if v := show(t, ctx, m, name); v.Instances[0].CertificateNotAfter.Before(time.Now()) {
			t.Errorf("%s: got %v, want a new certificate", name, v.Instances[0].CertificateNotAfter)
		}
		if err := c.Away(); err != nil {
			t.Errorf("%s: away: %v", name, err)
		}
	}
	for name, want := range map[string]denial.Reason{"service": denial.BadCertificate, "culprit": denial.Suspended} {
		c, err := m.Connect(ctx, dirs[name])
		if err == nil {
			c.Close()
			t.Errorf("%s came back", name)
			continue
		}
		var d *meshclient.Denied
		if !errors.As(err, &d) || d.Reason != want || d.Hint == "" {
			t.Errorf("%s: got %v, want %q with a hint", name, err, want)
		}
	}
}

// A connected agent renews before its certificate ends, and stays.
func TestConnectedRenew(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) { o.Certificate.TTL = 40 * time.Second }})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Call: scopes("read:logs")}})
	before := show(t, ctx, m, "reader").Instances[0].CertificateNotAfter
	c := connect(t, ctx, m, dir)
	eventually(t, ctx, "the renewal", func() bool {
		return show(t, ctx, m, "reader").Instances[0].CertificateNotAfter.After(*before)
	})
	if err := c.Away(); err != nil {
		t.Errorf("away: %v", err)
	}
}

package controlplane_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// askInstances asks the control plane as any agent may.
func askInstances(c *meshclient.Mesh) gate.InstancesFunc {
	return func(ctx context.Context, agent agentid.ID, after agentid.Instance) (map[agentid.Instance]string, agentid.Instance, error) {
		body, err := json.Marshal(wire.InstancesRequest{Agent: agent, After: after})
		if err != nil {
			return nil, agentid.Instance{}, err
		}
		reply, err := c.Call(ctx, wire.SelfInstances, body, meshclient.To("control"))
		if err != nil {
			return nil, agentid.Instance{}, err
		}
		var resp wire.InstancesResponse
		return resp.Records, resp.Next, errors.Join(json.Unmarshal(reply.Data, &resp), check(&resp))
	}
}

func check(r *wire.InstancesResponse) error {
	if r.Records == nil {
		return errors.New("no records in the answer")
	}
	return nil
}

// curveKey reads the private half of an instance's curve key, as its process does.
func curveKey(t *testing.T, dir string) *seal.Key {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pki.ReadSecret(d.File(agentdir.CurveFile))
	if err != nil {
		t.Fatal(err)
	}
	k, err := seal.NewKey(seed[:len(seed)-1])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Of the instances of an agent those are listed whose keys count, and who follows
// the feed has the list that is right at its next use.
func TestRecipients(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	bank := agentid.Require("bank")
	first := add(t, ctx, m, registry.NewAgent{Agent: bank, Rights: registry.Rights{Handle: scopes("read:logs")}})
	c := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("asker"), Rights: registry.Rights{Call: scopes("read:logs")}}))
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("watcher"), Rights: registry.Rights{Call: scopes("read:logs")}})
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(d.Info.NATS[0], nats.Timeout(20*time.Second), nats.Nkey(publicKey(t, dir), kp.Sign), nats.NoReconnect(),
		nats.CustomInboxPrefix("_INBOX_"+d.Info.Agent.String()+"_"+d.Info.Instance.String()),
		nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	ring, err := capability.NewKeyring(d.Info.Roots, d.Info.SigningKeys)
	if err != nil {
		t.Fatal(err)
	}
	space := subject.Default()
	reader := &gate.NATSReader{Conn: func() *nats.Conn { return nc }, Leader: gate.AgentLeader(space)}
	asked := 0
	ask := askInstances(c)
	peers, err := gate.NewPeers(gate.PeersConfig{
		Roots: d.Info.Roots, Ring: ring, Reader: reader, Clock: time.Now, Log: zerolog.Nop(),
		Instances: func(ctx context.Context, id agentid.ID, after agentid.Instance) (map[agentid.Instance]string, agentid.Instance, error) {
			asked++
			return ask(ctx, id, after)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1000)
	prefix := space.FeedAgents() + "."
	if _, err := nc.Subscribe(space.FeedFilter(), func(msg *nats.Msg) {
		if len(msg.Subject) > len(prefix) {
			peers.Observe(msg.Subject[len(prefix):], string(msg.Data))
			told <- msg.Subject[len(prefix):]
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(nc.Flush(), peers.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	// hear waits until the feed told of a record in a state.
	hear := func(id agentid.ID, inst agentid.Instance, state registry.State) {
		t.Helper()
		for {
			i, err := m.Plane.Store().Instance(ctx, id, inst)
			if err != nil || i.State != state {
				t.Fatalf("got %+v and %v, want %s", i, err, state)
			}
			select {
			case key := <-told:
				if key == registry.InstanceKey(id, inst) {
					return
				}
			case <-ctx.Done():
				t.Fatalf("the feed did not tell of %s", inst)
			}
		}
	}
	want := func(what string, keys ...*seal.Key) {
		t.Helper()
		to, err := peers.Recipients(ctx, bank)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		have := map[seal.Recipient]bool{}
		for _, r := range to {
			have[r] = true
		}
		for _, k := range keys {
			if !have[k.Recipient()] {
				t.Errorf("%s: %s is missing", what, k.Recipient())
			}
		}
		if len(have) != len(keys) || len(to) != len(keys) {
			t.Errorf("%s: got %d recipients, want %d", what, len(to), len(keys))
		}
	}

	k1 := curveKey(t, first)
	want("one instance", k1)
	second, err := m.Instance(ctx, bank)
	if err != nil {
		t.Fatal(err)
	}
	i2 := instanceOf(t, second)
	hear(bank, i2, registry.Enrolled)
	k2 := curveKey(t, second)
	want("another one enrolled", k1, k2)
	before := asked
	connect(t, ctx, m, second)
	hear(bank, i2, registry.Online)
	want("it came online", k1, k2)
	if asked != before {
		t.Errorf("asked %d times for what the feed had told", asked-before)
	}
	if _, err := m.Cut(ctx, wire.OpRevoke, bank.String()+"/"+i2.String(), "stolen"); err != nil {
		t.Fatal(err)
	}
	hear(bank, i2, registry.InstanceRevoked)
	want("one was revoked", k1)
	to, err := peers.RefreshRecipients(ctx, bank)
	if err != nil || !slices.Equal(to, []seal.Recipient{k1.Recipient()}) {
		t.Errorf("asked afresh: got %v and %v", to, err)
	}
	third, err := m.Instance(ctx, bank)
	if err != nil {
		t.Fatal(err)
	}
	k3 := curveKey(t, third)
	hear(bank, instanceOf(t, third), registry.Enrolled)
	want("a third one enrolled", k1, k3)
	// What is sealed by that list is opened by those two.
	b := seal.Binding{TrustDomain: d.Info.TrustDomain, Signer: publicKey(t, dir), Recipient: bank, Nonce: "AAECAwQFBgcICQoLDA0ODw"}
	if to, err = peers.Recipients(ctx, bank); err != nil {
		t.Fatal(err)
	}
	payload, err := seal.Seal(to, b, []byte("tail 20"))
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		key   *seal.Key
		opens bool
	}{"the first": {k1, true}, "the revoked one": {k2, false}, "the third": {k3, true}} {
		if plain, err := tt.key.Open(b, payload); (err == nil) != tt.opens || tt.opens && string(plain) != "tail 20" {
			t.Errorf("%s: got %q and %v, want that it opens: %v", what, plain, err, tt.opens)
		}
	}
	if _, err := m.Cut(ctx, wire.OpSuspend, bank.String(), "odd"); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case key := <-told:
			if key != bank.String() {
				continue
			}
		case <-ctx.Done():
			t.Fatal("the feed did not tell of the suspension")
		}
		break
	}
	if _, err := peers.Recipients(ctx, bank); denial.Of(err) != denial.Suspended {
		t.Errorf("got %v of an agent that is suspended, want %q", err, denial.Suspended)
	}
}

func instanceOf(t *testing.T, dir string) agentid.Instance {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d.Info.Instance
}

func publicKey(t *testing.T, dir string) string {
	t.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

// What one instance may ask for is bounded, and what it asks for is checked.
func TestInstancesAreBounded(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	c := connect(t, ctx, m, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("asker"), Rights: registry.Rights{Call: scopes("read:logs")}}))
	ask := func(body string) error {
		_, err := c.Call(ctx, wire.SelfInstances, []byte(body), meshclient.To("control"))
		return err
	}
	for body, want := range map[string]denial.Reason{
		`{}`: denial.BadInput, `{"agent":"nobody"}`: denial.UnlistedAgent, `{"agent":"*"}`: denial.BadInput,
		`{"agent":"asker","after":"x"}`: denial.BadInput, `{"agent":"asker","all":true}`: denial.BadInput,
	} {
		if err := ask(body); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %q", body, err, want)
		}
	}
	if err := ask(`{"agent":"asker"}`); err != nil {
		t.Fatal(err)
	}
	// Each counts ten times, and two hundred are there at first.
	var wg sync.WaitGroup
	refused := make(chan error, 150)
	for range cap(refused) {
		wg.Go(func() {
			if err := ask(`{"agent":"asker"}`); err != nil {
				refused <- err
			}
		})
	}
	wg.Wait()
	close(refused)
	n := 0
	for err := range refused {
		n++
		if !errors.Is(err, denial.RateLimited) || !errors.Is(err, meshclient.ErrUnavailable) {
			t.Errorf("got %v from many at once, want %q, which may be tried again", err, denial.RateLimited)
		}
	}
	if n == 0 {
		t.Error("nobody was refused")
	}
}

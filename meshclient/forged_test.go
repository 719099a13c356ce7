package meshclient_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// Whatever is said on the feed by somebody who is not the control plane does
// nothing: by an agent with its own grant it does not even arrive, and by one whom
// the broker lets say everything it arrives and is worth what is signed in it. What
// is genuine and old is old.
func TestForgedFeed(t *testing.T) {
	t.Parallel()
	// Somebody whom the broker's configuration lets do everything in the agents'
	// account, beside the callout.
	wide, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	wideKey, err := wide.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	m := reconfigured(t, func(conf string) string {
		conf = strings.Replace(conf, "auth_users: [", "auth_users: [ "+wideKey, 1)
		return strings.Replace(conf, "MESH {\n", "MESH {\n    users: [ { nkey: "+wideKey+" } ]\n", 1)
	})
	ctx := within(t, 60*time.Second)
	victim := connected(t, m, enrolled(t, m, "victim", registry.Rights{Handle: scopes("read:logs"), Publish: []string{"news"}}))
	handle(t, victim, "read:logs", echo)
	good := connected(t, m, enrolled(t, m, "good", registry.Rights{Call: scopes("read:logs")}))
	cut := connected(t, m, enrolled(t, m, "cut", registry.Rights{Call: scopes("read:logs")}))
	bad := intrude(t, enrolled(t, m, "bad", registry.Rights{Call: scopes("read:logs")}), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	badKey, err := bad.dir.Key()
	if err != nil {
		t.Fatal(err)
	}
	call := func(c *meshclient.Mesh) error { _, err := c.Call(ctx, "read:logs", nil); return err }
	for _, c := range []*meshclient.Mesh{good, cut} {
		if err := call(c); err != nil {
			t.Fatal(err)
		}
	}
	ctrl := service(t, m)
	cutKey, goodKey := registry.InstanceKey(cut.ID(), cut.Instance()), registry.InstanceKey(good.ID(), good.Instance())
	oldTick, oldCut, oldCutKey := raw(t, ctrl, registry.TickKey), raw(t, ctrl, "cut"), raw(t, ctrl, cutKey)
	ring := raw(t, ctrl, registry.RingKey)
	if _, err := m.Cut(ctx, wire.OpSuspend, "cut", "test"); err != nil {
		t.Fatal(err)
	}
	believes := func(c *meshclient.Mesh) registry.Status {
		a, err := victim.Record(ctx, c.ID())
		if err != nil {
			return registry.Status(err.Error())
		}
		return a.Status
	}
	eventually(t, "the suspension", func() bool { return believes(cut) == registry.Suspended })

	signed := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	record := func(text string) *registry.Agent {
		t.Helper()
		var a registry.Agent
		if _, err := jws.Decode(text, "agent", &a); err != nil {
			t.Fatal(err)
		}
		return &a
	}
	dead, alive := record(raw(t, ctrl, "good")), record(raw(t, ctrl, "cut"))
	dead.Status, dead.Epoch, dead.Revision = registry.Revoked, 9, 99
	alive.Status, alive.Epoch, alive.Revision = registry.Active, 9, 99
	tick := &registry.Tick{
		Head:        jws.Head{Kind: "tick", IssuedAt: time.Now().Unix()},
		Incarnation: 1 << 60, Revision: 1 << 60, Time: time.Now().UnixMilli(), ReplaySince: time.Now().Add(time.Hour).UnixMilli(),
		Changed: []registry.EpochEntry{{Agent: good.ID(), Epoch: 99}},
	}
	stranger, err := nkeys.CreateAccount()
	if err != nil {
		t.Fatal(err)
	}
	unsigned := func(text string) string { return text[:strings.LastIndex(text, ".")+1] }
	type said struct {
		key, text string
		header    nats.Header
	}
	marker := func(op string) nats.Header {
		return nats.Header{"KV-Operation": {op}, "Nats-Marker-Reason": {"Remove"}}
	}
	var lies []said
	for _, key := range []jws.Signer{badKey, stranger} {
		forgedTick := signed(jws.Sign(tick, key))
		lies = append(lies,
			said{key: registry.TickKey, text: forgedTick}, said{key: registry.TickKey, text: unsigned(forgedTick)},
			said{key: "good", text: signed(jws.Sign(dead, key))}, said{key: "good", text: unsigned(signed(jws.Sign(dead, key)))},
			said{key: "cut", text: signed(jws.Sign(alive, key))}, said{key: "good", text: forgedTick},
		)
	}
	for _, key := range []string{"good", "cut", "victim", "control", goodKey, cutKey, registry.TickKey, registry.RingKey, registry.TopicsKey} {
		for _, text := range []string{"", "junk", "{}", `{"kind":"agent","agent":"good","status":"revoked","epoch":99}`} {
			lies = append(lies, said{key: key, text: text})
		}
		for _, op := range []string{"DEL", "PURGE", "PUT"} {
			lies = append(lies, said{key, "", marker(op)})
		}
	}
	lies = append(lies,
		said{key: "cut", text: oldCut}, said{key: cutKey, text: oldCutKey}, // genuine, and old
		said{key: "good", text: raw(t, ctrl, "cut")}, said{key: "cut", text: raw(t, ctrl, "good")}, // genuine, of another
		said{key: goodKey, text: raw(t, ctrl, cutKey)}, said{key: "cut", text: raw(t, ctrl, goodKey)},
		said{key: registry.TickKey, text: raw(t, ctrl, "good")}, said{key: registry.TopicsKey, text: oldTick},
		said{key: registry.RingKey, text: strings.SplitN(ring, "~", 2)[0] + "~" + signed(jws.Sign(dead, badKey))},
		said{key: registry.RingKey, text: "~"},
	)
	say := func(nc *nats.Conn, one said) {
		t.Helper()
		msg := &nats.Msg{Subject: feedAgents + one.key, Data: []byte(one.text), Header: one.header}
		if err := nc.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	total := func() (n int64) {
		for v := range maps.Values(victim.FeedHeard()) {
			n += v
		}
		return n
	}
	stands := func(when string) {
		t.Helper()
		if got := believes(good); got != registry.Active {
			t.Errorf("%s: the good agent is %s", when, got)
		}
		if got := believes(cut); got != registry.Suspended {
			t.Errorf("%s: the one that was cut is %s", when, got)
		}
		if err := call(good); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if err := victim.Publish(ctx, "news", nil); err != nil {
			t.Errorf("%s: publishing: %v", when, err)
		}
	}

	// behind waits until a true change was taken over that was said behind all else.
	changes := 0
	behind := func() {
		t.Helper()
		changes++
		labels := map[string]string{"change": fmt.Sprint(changes)}
		if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSet, Target: "good", Settings: &wire.Settings{Labels: &labels}}, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a true change", func() bool {
			a, err := victim.Record(ctx, good.ID())
			return err == nil && a.Labels["change"] == labels["change"]
		})
	}

	// By its own grant: nothing arrives. Ticks may, so the agents' are counted.
	before := victim.FeedHeard()
	for _, one := range lies {
		say(bad.nc, one)
	}
	if err := bad.nc.FlushTimeout(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	behind()
	before[feedAgents+"good"]++
	stands("after what an agent may say")
	for subj, n := range victim.FeedHeard() {
		if subj != common && n != before[subj] {
			t.Errorf("%d documents arrived at %s that an agent sent by its own grant", n-before[subj], subj)
		}
	}

	// By a broker that lets it: all of it arrives.
	nc, err := nats.Connect(m.Server.URL(), nats.Nkey(wideKey, wide.Sign),
		nats.ClientCert(bad.dir.File(agentdir.TLSCertFile), bad.dir.File(agentdir.TLSKeyFile)), nats.RootCAs(bad.dir.File(agentdir.CAFile)))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	heard := total()
	for range 3 {
		for _, one := range lies {
			say(nc, one)
		}
	}
	eventually(t, "the arrival of the lies", func() bool { return total() >= heard+int64(3*len(lies)) })
	behind()
	stands("after what nobody may say")

	// The true feed goes on.
	if _, err := m.Cut(ctx, wire.OpRevoke, "good", "test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the true revocation", func() bool { return believes(good) == registry.Revoked })
}

// Ticks of the past, replayed for ever, do not keep a receiver from noticing that
// the control plane is away.
func TestReplayedTicks(t *testing.T) {
	t.Parallel()
	m := mesh(t, quiet())
	reader := newDoor(t, m)
	bad := intrude(t, enrolled(t, m, "bad", registry.Rights{Call: scopes("read:logs")}))
	ctrl := service(t, m)
	chain := token(t, raw(t, ctrl, "bad"))
	if got := reader.knock(t, bad, chain); got != "" {
		t.Fatalf("refused: %s", got)
	}
	old := raw(t, ctrl, registry.TickKey)
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	last := raw(t, ctrl, registry.TickKey) // of all
	heard := reader.FeedHeard()[common]
	reader.clock.advance(16 * time.Second)
	const times = 10
	for range times {
		for _, text := range []string{old, last} {
			if err := ctrl.Publish(feedAgents+registry.TickKey, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the arrival of old ticks", func() bool { return reader.FeedHeard()[common] >= heard+2*times })
	// The registry changes, and the server brings no word of it.
	if err := reader.Deafen(); err != nil {
		t.Fatal(err)
	}
	put(t, ctrl, "bad", changed(t, m, raw(t, ctrl, "bad"), func(a *registry.Agent) { a.Status = registry.Revoked; a.Epoch++ }))
	if got := reader.knock(t, bad, chain); got != denial.Revoked {
		t.Errorf("got %q of one who was revoked, want %q", got, denial.Revoked)
	}
	if got := reader.Silence(); got < 16*time.Second {
		t.Errorf("replayed ticks ended the silence: it is %v", got)
	}
}

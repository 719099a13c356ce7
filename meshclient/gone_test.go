package meshclient_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// A handler whose process ends without a word is not waited for: its connection ended
// and did not come back. The other instances go on.
func TestHandlerThatDies(t *testing.T) {
	t.Parallel()
	o := quiet()
	o.GoneAfter = registry.GoneAfter
	m := mesh(t, o)
	writer, wire := wired(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	writer.SetCloseTimeout(time.Second)
	twinDir, err := m.Instance(within(t, 20*time.Second), writer.ID())
	if err != nil {
		t.Fatal(err)
	}
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	first := taking()
	handle(t, writer, "write:story", first.handle)
	call, asked := calling(reader, "write:story"), calling(reader, "write:story", meshclient.To("writer"))
	streamed := make(chan error, 1)
	go func() {
		for _, err := range reader.Stream(context.Background(), "write:story", nil, meshclient.IdleTimeout(patience)) {
			streamed <- err
		}
	}()
	for range 3 {
		comes(t, "a request", first.at)
	}
	eventually(t, "the first signs of life", func() bool { _, n := reader.Hearing(); return n == 3 })
	twin := connected(t, m, twinDir)
	twin.SetCloseTimeout(time.Second)
	other := taking()
	handle(t, twin, "write:story", other.handle)
	var goesOn chan error
	for comesTo := false; !comesTo; { // whichever of the two the server picks
		goesOn = calling(reader, "write:story")
		select {
		case <-other.at:
			comesTo = true
		case <-first.at:
		}
	}
	begin := time.Now()
	unplug(wire)
	for name, failed := range map[string]chan error{"a call": call, "by name": asked, "a stream": streamed} {
		err := comes(t, name+": the caller's error", failed)
		if !errors.Is(err, meshclient.ErrHandlerGone) || errors.Is(err, meshclient.ErrDeadline) {
			t.Errorf("%s: got %v, want ErrHandlerGone", name, err)
		}
		if from, inst, ok := meshclient.Answered(err); !ok || from != writer.ID() || inst != writer.Instance() {
			t.Errorf("%s: got %s/%s as who had taken it", name, from, inst)
		}
	}
	t.Logf("told %s after the connection ended", time.Since(begin))
	select {
	case err := <-goesOn:
		t.Errorf("the call that the other instance took: got %v", err)
	default:
	}
	// It was a hint: nobody was expired by it.
	for _, i := range shown(t, m, "writer").Instances {
		if i.State != registry.Online {
			t.Errorf("instance %s is %s", i.Instance, i.State)
		}
	}
}

// Rotations, and a connection that comes back in time, are no end.
func TestHandlerThatComesBack(t *testing.T) {
	t.Parallel()
	o := quiet()
	o.GoneAfter = 6 * time.Second
	o.Session = 8 * time.Second
	m := mesh(t, o)
	writer, wire := wired(t, m, "writer", registry.Rights{Handle: scopes("write:story")})
	writer.SetCloseTimeout(time.Second)
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Call: scopes("write:story")}))
	took := taking()
	handle(t, writer, "write:story", took.handle)
	failed := calling(reader, "write:story")
	comes(t, "the request", took.at)
	said := overheard(t, m)
	lost := time.Now()
	lose(t, writer)
	eventually(t, "its return", func() bool { return writer.Returns() > 0 && writer.Away() == nil })
	if away := time.Since(lost); away > o.GoneAfter/2 {
		t.Skipf("it was away for %s, which may be taken for gone", away)
	}
	before := writer.Rotations()
	ctx := within(t, 60*time.Second)
	for end := time.Now().Add(o.GoneAfter + time.Second); time.Now().Before(end) || writer.Rotations() == before || reader.Rotations() == 0; {
		if pause(ctx, 20*time.Millisecond); ctx.Err() != nil {
			t.Fatal("no rotation")
		}
	}
	select {
	case err := <-failed:
		t.Errorf("got %v", err)
	case msg := <-said:
		t.Errorf("%s: it is said to be gone", msg.Subject)
	default:
	}
	// The reader has rotated since it began to hear of the writer.
	unplug(wire)
	if err := comes(t, "the caller's error", failed); !errors.Is(err, meshclient.ErrHandlerGone) {
		t.Errorf("got %v, want ErrHandlerGone", err)
	}
}

func shown(t *testing.T, m *devmesh.Mesh, id string) (v wire.AgentView) {
	t.Helper()
	if err := m.Operate(within(t, 30*time.Second), wire.AdminRequest{Op: wire.OpShow, Target: id}, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// unplug ends what goes over a cable for good.
func unplug(w *cable) {
	w.Close()
	w.cut()
}

// overheard is what the control plane says of those who are gone, in its own account.
func overheard(t *testing.T, m *devmesh.Mesh) <-chan *nats.Msg {
	t.Helper()
	said := make(chan *nats.Msg, 64)
	nc := service(t, m)
	if _, err := nc.ChanSubscribe("mesh.feed.gone.>", said); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return said
}

// A word that somebody is gone counts where the records key has signed it, of this
// instance, now, and since it was heard of last. Anything else ends nothing.
func TestForgedGone(t *testing.T) {
	t.Parallel()
	m, writer, reader, _, readerDir := story(t)
	took := taking()
	handle(t, writer, "write:story", took.handle)
	failed := calling(reader, "write:story")
	comes(t, "the request", took.at)
	eventually(t, "the first sign of life", func() bool { _, n := reader.Hearing(); return n == 1 })

	// An agent may not speak there at all.
	in := intrude(t, readerDir)
	space, id, inst := in.Space, writer.ID(), writer.Instance()
	subj := space.FeedGone(id, inst)
	if err := errors.Join(in.nc.Publish(subj, []byte("x")), in.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := in.nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("an agent speaks in the feed: %v", err)
	}

	broker := service(t, m)
	records := must(m.Dir.RecordsKey())
	stranger := must(nkeys.CreateAccount())
	other := must(m.Instance(within(t, 20*time.Second), id))
	doc := func(change func(*registry.Gone), key jws.Signer) string {
		g := &registry.Gone{Head: jws.Head{Kind: "gone", IssuedAt: time.Now().Unix()}, Agent: id, Instance: inst, Epoch: writer.Epoch(), At: time.Now().UnixMilli()}
		if change != nil {
			change(g)
		}
		return must(jws.Sign(g, key))
	}
	genuine := doc(nil, records)
	for name, text := range map[string]string{
		"empty":             "",
		"junk":              "x",
		"of a stranger":     doc(nil, stranger),
		"of another kind":   doc(func(g *registry.Gone) { g.Kind = "tick" }, records),
		"an old one":        doc(func(g *registry.Gone) { g.At -= 31_000 }, records),
		"of times to come":  doc(func(g *registry.Gone) { g.At += 31_000 }, records),
		"an earlier epoch":  doc(func(g *registry.Gone) { g.Epoch = "0.1" }, records),
		"no epoch":          doc(func(g *registry.Gone) { g.Epoch = "" }, records),
		"of another agent":  doc(func(g *registry.Gone) { g.Agent = agentid.Require("reader") }, records),
		"before its last":   doc(func(g *registry.Gone) { g.At -= 20_000 }, records),
		"of an instance":    doc(func(g *registry.Gone) { g.Instance = reader.Instance() }, records),
		"broken signature":  genuine[:len(genuine)-4] + "AAAA",
		"longer than it is": genuine + "A",
	} {
		if err := errors.Join(broker.Publish(subj, []byte(text)), broker.Flush()); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// A true word about another instance of the agent is none about this one.
	twin := connected(t, m, other)
	text := doc(func(g *registry.Gone) { g.Instance = twin.Instance() }, records)
	if err := errors.Join(broker.Publish(space.FeedGone(id, twin.Instance()), []byte(text)), broker.Flush()); err != nil {
		t.Fatal(err)
	}
	// They have come once what was sent behind them to the same connection has.
	third := connected(t, m, enrolled(t, m, "third", registry.Rights{Handle: scopes("write:poem"), Call: scopes("write:poem")}))
	handle(t, third, "write:poem", echo)
	for range 3 {
		if _, err := third.Call(within(t, 20*time.Second), "write:poem", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := reader.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		t.Fatalf("a forged word ended the call: %v", err)
	case <-time.After(300 * time.Millisecond): // what it ends it ends at once
	}
	if writer.Works() != 1 || reader.Away() != nil {
		t.Error("a forged word has changed something")
	}
	// And the same with the key is believed.
	for begin := time.Now(); ; {
		if err := errors.Join(broker.Publish(subj, []byte(doc(nil, records))), broker.Flush()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-failed:
			if !errors.Is(err, meshclient.ErrHandlerGone) {
				t.Errorf("got %v, want ErrHandlerGone", err)
			}
			return
		case <-time.After(200 * time.Millisecond):
			if time.Since(begin) > 60*time.Second {
				t.Fatal("a genuine word ends nothing")
			}
		}
	}
}

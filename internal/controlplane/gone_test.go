package controlplane_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// Of an instance whose last connection ended, and that does not come back, it is said
// so, signed, whichever replica says it; of one that has another connection, or comes
// back in time, nothing is.
func TestGoneIsSaid(t *testing.T) {
	t.Parallel()
	const after = 1500 * time.Millisecond
	m, ctx := start(t, devmesh.Options{GoneAfter: after})
	if _, err := m.AddPlane(ctx); err != nil {
		t.Fatal(err)
	}
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("bob"), Heartbeat: registry.HeartbeatNone})
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	id, inst := d.Info.Agent, d.Info.Instance
	connect := func() *nats.Conn {
		t.Helper()
		nc, err := raw(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		return nc
	}
	listener := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("carol"), Heartbeat: registry.HeartbeatNone})
	nc, err := raw(t, listener)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan *nats.Msg, 16)
	if _, err := nc.ChanSubscribe(subject.Default().FeedGoneOf(id), said); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	first, second := connect(), connect()
	first.Close() // as a rotation does
	lost := time.Now()
	second.Close()
	third := connect() // as one that broke and came back
	if away := time.Since(lost); away > after/2 {
		t.Skipf("it was away for %s, which may be taken for gone", away)
	}
	select {
	case msg := <-said:
		t.Errorf("it is there, and %s is said", msg.Subject)
	case <-time.After(after + time.Second):
	}
	third.Close()
	ended := time.Now()
	select {
	case msg := <-said:
		g, epoch, err := registry.DecodeGone(string(msg.Data), id, inst, m.Plane.Store().Ring(), time.Now())
		if err != nil || epoch.String() != "1.1" {
			t.Fatalf("got %v in epoch %s, %v", g, epoch, err)
		}
		if at := time.UnixMilli(g.At); at.Before(ended.Add(-time.Second)) || at.After(time.Now()) {
			t.Errorf("it ended at %s, and is said to have at %s", ended, at)
		}
		if msg.Subject != subject.Default().FeedGone(id, inst) {
			t.Errorf("got subject %s", msg.Subject)
		}
		t.Logf("said %s after the end", time.Since(ended))
	case <-ctx.Done():
		t.Fatal("nothing is said")
	}
}

// What one replica has said of an end the other does not repeat, and of the next end it
// says it again.
func TestAbsences(t *testing.T) {
	t.Parallel()
	now := time.Unix(1795408791, 0)
	a := controlplane.NewAbsences(2 * time.Second)
	bob := &registry.Session{Agent: agentid.Require("bob"), Instance: agentid.InstanceOf("bob"), AgentEpoch: 3, Epoch: 1}
	if n, next := a.Due(now); n != 0 || next != 0 {
		t.Errorf("got %d due and %s at the beginning", n, next)
	}
	a.Ended(bob, now)
	if n, next := a.Due(now.Add(1999 * time.Millisecond)); n != 0 || next <= 0 || next > controlplane.GoneSpread {
		t.Errorf("before its time: got %d due, and the next in %s", n, next)
	}
	// Another connection of it ends: that is what counts.
	a.Ended(bob, now.Add(2*time.Second))
	if n, _ := a.Due(now.Add(2*time.Second + controlplane.GoneSpread)); n != 0 {
		t.Errorf("got %d due for an end that is not the last", n)
	}
	if n, next := a.Due(now.Add(4*time.Second + controlplane.GoneSpread)); n != 1 || next != 0 {
		t.Errorf("got %d due and %s, want its end", n, next)
	}
	at := now.Add(2 * time.Second)
	if a.Spoken(bob, at) {
		t.Error("nobody has said anything")
	}
	a.Heard(bob, at.Add(30*time.Millisecond)) // by another clock
	for off, want := range map[time.Duration]bool{0: true, time.Second: true, -time.Second: true, 2 * time.Second: false, -2 * time.Second: false} {
		if got := a.Spoken(bob, at.Add(off+30*time.Millisecond)); got != want {
			t.Errorf("an end %s apart: got said %v, want %v", off, got, want)
		}
	}
	a.Due(at.Add(time.Minute))
	if a.Spoken(bob, at) || !a.Empty() {
		t.Error("what was said is remembered for ever")
	}
}

// Nobody who opens and closes connections fills the memory.
func TestAbsencesAreBounded(t *testing.T) {
	t.Parallel()
	now := time.Unix(1795408791, 0)
	a := controlplane.NewAbsences(2 * time.Second)
	for n := range controlplane.GoneMost + 100 {
		s := &registry.Session{Agent: agentid.Require("bob"), Instance: agentid.InstanceOf(string(rune('a'+n%26)) + time.Duration(n).String())}
		a.Ended(s, now)
		a.Heard(s, now)
	}
	if n, _ := a.Due(now.Add(time.Minute)); n > controlplane.GoneMost {
		t.Errorf("%d are remembered, want %d at most", n, controlplane.GoneMost)
	}
	if !a.Empty() {
		t.Error("something is left")
	}
}

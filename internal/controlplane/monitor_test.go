package controlplane_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// replica starts one more control plane of a mesh.
func replica(t *testing.T, ctx context.Context, m *devmesh.Mesh) *controlplane.Plane {
	t.Helper()
	dir := *m.Dir
	dir.Config.Control.Listen, dir.Config.Control.URL = "127.0.0.1:0", ""
	p, err := controlplane.Start(ctx, controlplane.Config{Mesh: &dir, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func monitor(t *testing.T, ctx context.Context, m *devmesh.Mesh, verb string) (wire.MonitorStatus, error) {
	t.Helper()
	var s wire.MonitorStatus
	err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpMonitor, Monitor: verb, Reason: "test"}, &s)
	return s, err
}

// The brake of one replica is that of all, and what an operator decides reaches
// all of them, whichever takes the call.
func TestSharedBrake(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 500 * time.Millisecond})
	second := replica(t, ctx, m)
	if _, err := monitor(t, ctx, m, wire.MonitorRelease); !errors.Is(err, denial.WrongState) {
		t.Errorf("release without a hold: %v, want %s", err, denial.WrongState)
	}
	if _, err := monitor(t, ctx, m, "shoot"); !errors.Is(err, denial.BadInput) {
		t.Errorf("an unknown operation: %v, want %s", err, denial.BadInput)
	}
	const dying = 8
	var dirs []string
	for i := range dying {
		dirs = append(dirs, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require(fmt.Sprintf("mute-%d", i)), Rights: registry.Rights{Call: scopes("read:logs")}}))
	}
	for _, dir := range dirs {
		if _, err := raw(t, dir); err != nil {
			t.Fatal(err)
		}
	}
	held := func() wire.MonitorStatus {
		var s wire.MonitorStatus
		eventually(t, ctx, "the hold of every replica", func() bool {
			var err error
			if s, err = monitor(t, ctx, m, wire.MonitorStatusOf); err != nil {
				t.Fatal(err)
			}
			return len(s.Missing) == 0 && !slices.ContainsFunc(s.Replicas, func(r wire.MonitorReplica) bool { return r.State != heartbeat.Held })
		})
		return s
	}
	s := held()
	if len(s.Replicas) != 2 || s.State != heartbeat.Held || s.IntervalMS != 500 || s.TimeoutMS != 1500 {
		t.Fatalf("got %+v, want two held replicas", s)
	}
	for _, r := range s.Replicas {
		if r.Replica == "" || r.HeldSince == nil || r.Hold == "" || r.Watched < dying/2 {
			t.Errorf("got replica %+v", r)
		}
	}
	// One that starts into it is held before it judges anybody, whatever it sees.
	third := replica(t, ctx, m)
	if got := held(); len(got.Replicas) != 3 {
		t.Fatalf("got %+v, want three held replicas", got)
	}
	var mesh wire.MeshStatus
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpStatus}, &mesh); err != nil {
		t.Fatal(err)
	}
	if v := mesh.Monitor; v.State != heartbeat.Held || v.Held == 0 || v.HeldSince == nil || v.Replicas != 3 || len(v.Missing) != 0 {
		t.Errorf("status says %+v of the monitor, want it held", v)
	}
	// What is not said now and with the control plane's own key moves nothing.
	hold := s.Replicas[0].Hold
	foreign, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	for what, order := range map[string]func() (string, error){
		"junk":    func() (string, error) { return "junk", nil },
		"foreign": func() (string, error) { return second.MonitorOrder(foreign, "release", time.Now(), hold) },
		"old":     func() (string, error) { return second.MonitorOrder(nil, "release", time.Now().Add(-time.Minute), hold) },
		"early":   func() (string, error) { return second.MonitorOrder(nil, "confirm", time.Now().Add(time.Minute), hold) },
		"another": func() (string, error) { return second.MonitorOrder(nil, "confirm", time.Now(), "another hold") },
		"unknown": func() (string, error) { return second.MonitorOrder(nil, "shoot", time.Now(), hold) },
	} {
		text, err := order()
		if err != nil {
			t.Fatal(err)
		}
		second.Obey(text)
		if _, still := second.Monitor().Held(); !still {
			t.Fatalf("%s: the hold is gone", what)
		}
	}
	released, err := monitor(t, ctx, m, wire.MonitorRelease)
	if err != nil || released.Did != wire.MonitorRelease || len(released.Replicas) != 3 || len(released.Missing) != 0 {
		t.Fatalf("got %+v, %v, want three replicas that were released", released, err)
	}
	for _, r := range released.Replicas {
		if r.State == heartbeat.Held && r.Hold == hold || r.GraceMS == 0 {
			t.Errorf("got %+v after the release, want a full time-out for everybody", r)
		}
	}
	// They are silent still.
	again := held()
	if slices.ContainsFunc(again.Replicas, func(r wire.MonitorReplica) bool { return r.Hold == hold }) {
		t.Errorf("the hold that was released is on again: %+v", again)
	}
	// A replica that hears nothing stays as it is, and is named.
	if err := third.Deafen(); err != nil {
		t.Fatal(err)
	}
	confirmed, err := monitor(t, ctx, m, wire.MonitorConfirm)
	if err != nil || len(confirmed.Replicas) != 2 || len(confirmed.Missing) != 1 || confirmed.State == heartbeat.Held {
		t.Fatalf("got %+v, %v, want two confirmed and one missing", confirmed, err)
	}
	eventually(t, ctx, "the expiry of all that were confirmed", func() bool {
		for i := range dying {
			if show(t, ctx, m, fmt.Sprintf("mute-%d", i)).Status != registry.Expired {
				return false
			}
		}
		return true
	})
	// One that ends says so, and nobody waits for it.
	if err := third.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "its farewell", func() bool {
		s, err := monitor(t, ctx, m, wire.MonitorStatusOf)
		return err == nil && len(s.Replicas) == 2 && len(s.Missing) == 0
	})
}

// The same order counts once, and is answered again.
func TestOrderCountsOnce(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	alarm := func(name string) heartbeat.Alarm {
		return heartbeat.Alarm{Kind: heartbeat.AlarmMassExpiry, Hold: name, At: time.Now()}
	}
	p := m.Plane.Monitor()
	if !p.Hold(alarm("one")) {
		t.Fatal("no hold")
	}
	order, err := m.Plane.MonitorOrder(nil, "release", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m.Plane.Obey(order)
	if _, held := p.Held(); held {
		t.Fatal("held after the release")
	}
	if p.Hold(alarm("one")) || !p.Hold(alarm("two")) {
		t.Fatal("want the second hold, and the first one never again")
	}
	m.Plane.Obey(order)
	if _, held := p.Held(); !held {
		t.Error("the order of before took another hold off")
	}
	s, err := monitor(t, ctx, m, wire.MonitorConfirm)
	if err != nil || s.State == heartbeat.Held {
		t.Errorf("got %+v, %v", s, err)
	}
}

// After a restart of the control plane operators see who was heard last when. It
// brings nobody back, and only what was signed counts.
func TestLastBeatsSurviveARestart(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{})
	gone := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("gone"), Rights: registry.Rights{Call: scopes("read:logs")}})
	junk := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("junk"), Rights: registry.Rights{Call: scopes("read:logs")}})
	c := connect(t, ctx, m, gone)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	j := connect(t, ctx, m, junk)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"gone", "junk"} {
		eventually(t, ctx, "the leave", func() bool { return show(t, ctx, m, id).Instances[0].State == registry.Left })
	}
	v := show(t, ctx, m, "gone")
	if v.Instances[0].LastBeat == nil {
		t.Fatal("no beat was heard, which proves nothing")
	}
	nc, err := raw(t, junk)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Publish("mesh.beat.junk."+show(t, ctx, m, "junk").Instances[0].Instance.String(), []byte(`{"last":"word"}`)); err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := m.DownPlane(); err != nil {
		t.Fatal(err)
	}
	down := time.Now()
	if err := m.UpPlane(ctx); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the last beat", func() bool { return show(t, ctx, m, "gone").Instances[0].LastBeat != nil })
	after := show(t, ctx, m, "gone").Instances[0]
	if !after.LastBeat.Before(down) || after.Client != v.Instances[0].Client || after.Client == "" || after.State != registry.Left {
		t.Errorf("got %+v, want the last beat of %+v", after, v.Instances[0])
	}
	if i := show(t, ctx, m, "junk").Instances[0]; i.LastBeat != nil {
		t.Errorf("a last word that nobody signed counts: %+v", i)
	}
	var list wire.AgentList
	if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpList}, &list); err != nil {
		t.Fatal(err)
	}
	for _, a := range list.Agents {
		if a.Agent.String() == "gone" && (len(a.Instances) != 1 || a.Instances[0].LastBeat == nil) {
			t.Errorf("the list says %+v, want the last beat", a.Instances)
		}
	}
}

// An agent that must always be there expires a time-out after the last instance
// has left, politely or not, and comes back by an attestation.
func TestAlwaysNeedsAnInstance(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: 200 * time.Millisecond})
	dir := add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("sentry"), Heartbeat: registry.HeartbeatAlways, Rights: registry.Rights{Call: scopes("read:logs")}})
	c := connect(t, ctx, m, dir)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, ctx, "the expiry", func() bool { return show(t, ctx, m, "sentry").Status == registry.Expired })
	v := show(t, ctx, m, "sentry")
	if v.Instances[0].State != registry.Left || v.Changed.Reason != heartbeat.ReasonAbsent {
		t.Errorf("got %+v, want an agent that expired although its instance left", v)
	}
	connect(t, ctx, m, dir)
	if v := show(t, ctx, m, "sentry"); v.Status != registry.Active {
		t.Errorf("got %s after it came back, want it active", v.Status)
	}
}

// Whoever an operator took out is not missed: a team of such agents that is
// suspended would hold the monitor for everybody else.
func TestAlwaysEndsWithASuspension(t *testing.T) {
	m, err := heartbeat.NewMonitor(heartbeat.Config{Registry: nobodyJudges{}, Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	in := func(s registry.Status, epoch uint64) *registry.Agent {
		return &registry.Agent{Agent: agentid.Require("sentry"), Heartbeat: registry.HeartbeatAlways, Status: s, Epoch: epoch}
	}
	got := controlplane.WithMonitor(m).Follow(in(registry.Pending, 1), in(registry.Active, 1), in(registry.Suspended, 2), in(registry.Active, 2), in(registry.Revoked, 3))
	if want := []int{0, 1, 0, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("got %d judged while pending, active, suspended, active, revoked; want %d", got, want)
	}
}

type nobodyJudges struct{ heartbeat.Registry }

// One agent that sends beats without end, each of which costs more to refuse than
// the time until the next, keeps nobody else's from being heard: who dies beside
// it expires. (As fast as it can, it does so in `make monitor-scale`.)
func TestFloodOfBeats(t *testing.T) {
	t.Parallel()
	m, ctx := start(t, devmesh.Options{Heartbeat: time.Second})
	noisy := agentid.Require("noisy")
	nc, msg := forgery(t, ctx, m, noisy)
	if _, err := raw(t, add(t, ctx, m, registry.NewAgent{Agent: agentid.Require("dying"), Rights: registry.Rights{Call: scopes("read:logs")}})); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		pace := time.NewTicker(10 * time.Millisecond)
		defer pace.Stop()
		for ; ; n++ {
			if n%300 == 0 {
				select {
				case <-stop:
					done <- n
					return
				case <-pace.C:
				}
			}
			if err := nc.PublishMsg(msg); err != nil {
				<-stop
				done <- n
				return
			}
		}
	}()
	eventually(t, ctx, "the expiry of another agent during a flood", func() bool {
		return ctx.Err() != nil || show(t, ctx, m, "dying").Status == registry.Expired
	})
	took := time.Since(begin)
	eventually(t, ctx, "the name of who floods", func() bool {
		s, err := monitor(t, ctx, m, wire.MonitorStatusOf)
		return err == nil && slices.ContainsFunc(s.Replicas, func(r wire.MonitorReplica) bool {
			return slices.ContainsFunc(r.Flooding, func(f string) bool { return len(f) > 6 && f[:6] == "noisy/" })
		})
	})
	close(stop)
	s := m.Plane.Monitor().Status()
	t.Logf("%d beats in %v; %d gaps, %d blind spells", <-done, took.Round(time.Millisecond), s.Gaps, s.Blinds)
	if s.Gaps != 0 {
		t.Errorf("%d gaps: the flood kept the monitor from judging", s.Gaps)
	}
}

// forgery is a beat that costs the most to refuse: all of it is right but the
// signature.
func forgery(t *testing.T, ctx context.Context, m *devmesh.Mesh, id agentid.ID) (*nats.Conn, *nats.Msg) {
	t.Helper()
	dir := add(t, ctx, m, registry.NewAgent{Agent: id, Heartbeat: registry.HeartbeatNone, Rights: registry.Rights{Call: scopes("read:logs")}})
	d, err := agentdir.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	kp, err := d.Key()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	e := envelope.Epoch{Agent: 1, Instance: 1}
	b, err := heartbeat.Beat{Agent: id, Instance: d.Info.Instance, Session: heartbeat.NewSession(), Epoch: e.String(), Sequence: 1, State: heartbeat.Up, Client: "flood"}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	msg, _, _, err := m.Plane.SpeakAs(id, key, e).Message("mesh.beat."+id.String()+"."+d.Info.Instance.String(), envelope.Fields{}, nil, b, nil)
	if err != nil {
		t.Fatal(err)
	}
	msg.Data = append(msg.Data[:len(msg.Data):len(msg.Data)], ' ')
	nc, err := raw(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return nc, msg
}

func TestBeatDoor(t *testing.T) {
	now := time.Now()
	control := "mesh.beat.control." + agentid.InstanceOf("control").String()
	d := controlplane.NewBeatDoor(30 * time.Second)
	for i := range controlplane.BeatsMost + 10 {
		ok, first := d.Lets("mesh.beat.noisy.3aaaaaaa", 500, now)
		if ok != (i < controlplane.BeatsMost) || first != (i == controlplane.BeatsMost) {
			t.Fatalf("beat %d: let in %v, first too many %v", i+1, ok, first)
		}
		now = now.Add(10 * time.Millisecond)
	}
	for _, other := range []string{"mesh.beat.noisy.3bbbbbbb", "mesh.beat.noisy2.3aaaaaaa", control} {
		if ok, _ := d.Lets(other, 500, now); !ok {
			t.Errorf("%s pays for another", other)
		}
	}
	if ok, _ := d.Lets("mesh.beat.large.3aaaaaaa", 9<<10, now); ok {
		t.Error("a message of 9 kB was let in")
	}
	if got := d.Flooding(now); len(got) != 1 || got[0] != "noisy/3aaaaaaa" {
		t.Errorf("flooding: %q", got)
	}
	now = now.Add(30 * time.Second)
	if ok, _ := d.Lets("mesh.beat.noisy.3aaaaaaa", 500, now); !ok {
		t.Error("nothing is let in in the next interval")
	}
	if got := d.Flooding(now); len(got) != 1 {
		t.Errorf("flooding right after: %q", got)
	}
	now = now.Add(30 * time.Second)
	d.Lets("mesh.beat.quiet.3aaaaaaa", 500, now)
	if got := d.Flooding(now); len(got) != 0 {
		t.Errorf("flooding an interval later: %q", got)
	}
	for i := range controlplane.CanariesMost + 1 {
		if ok, _ := d.Lets(control, 500, now); ok != (i < controlplane.CanariesMost) {
			t.Fatalf("canary %d: let in %v", i+1, ok)
		}
	}
}

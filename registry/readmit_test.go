package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// expire is the monitor's verdict on an instance in its present epoch.
func (w *world) expire(s *registry.Store, inst agentid.Instance) {
	w.Helper()
	if err := s.ExpireInstance(w.ctx(), bob, inst, w.instance(s, bob, inst).Epoch, "heartbeat-timeout"); err != nil {
		w.Fatal(err)
	}
}

// comesBack attests and reports how the instance fared: with how many flaps it is
// back, or the reason for which it is not.
func (w *world) comesBack(s *registry.Store, inst agentid.Instance) (int, denial.Reason) {
	w.Helper()
	_, i, err := s.Attest(w.ctx(), bob, inst, "")
	if err != nil {
		return 0, denial.Of(err)
	}
	return i.Flaps, ""
}

// The third readmission within an hour of the second waits, and each after it for
// longer.
func TestFlapping(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	inst := w.active(s, bob, "bob 1")
	w.active(s, bob, "bob 2") // so that the agent stays
	for n, wait := range []time.Duration{
		0, 0, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 15 * time.Minute,
	} {
		w.clock.add(time.Minute)
		w.expire(s, inst)
		i := w.instance(s, bob, inst)
		if want := w.clock.Now().Add(wait).Unix(); wait > 0 && i.NotBefore != want || wait == 0 && i.NotBefore != 0 {
			t.Fatalf("expiry %d: not before %d, want %d", n, i.NotBefore, want)
		}
		if wait > 0 {
			before := payload(t, i)
			for range 2 {
				_, _, err := s.Attest(w.ctx(), bob, inst, "10.0.0.9")
				wantReason(t, "at once", err, denial.Flapping)
				if at := time.Unix(i.NotBefore, 0).UTC().Format(time.RFC3339); !strings.Contains(denial.Detail(err), at) {
					t.Errorf("detail %q does not say %s", denial.Detail(err), at)
				}
				w.clock.add(wait - time.Second)
				wantFlapping(t, w, s, inst)
				w.clock.add(-(wait - time.Second))
			}
			if got := payload(t, w.instance(s, bob, inst)); got != before {
				t.Errorf("refused, and yet the record changed\nfrom %s\nto   %s", before, got)
			}
			w.clock.add(wait)
		}
		if flaps, why := w.comesBack(s, inst); why != "" || flaps != n+1 {
			t.Fatalf("readmission %d: got %d flaps, %q", n+1, flaps, why)
		}
		i = w.instance(s, bob, inst)
		if i.State != registry.Online || i.NotBefore != 0 || i.Epoch != uint64(2*n+3) {
			t.Fatalf("readmission %d: got %+v", n+1, i)
		}
		if flaps, until := i.Flapping(w.clock.Now()); flaps != n+1 || !until.IsZero() {
			t.Errorf("readmission %d: got %d, %s", n+1, flaps, until)
		}
	}
}

func wantFlapping(t *testing.T, w *world, s *registry.Store, inst agentid.Instance) {
	t.Helper()
	if _, why := w.comesBack(s, inst); why != denial.Flapping {
		t.Errorf("it comes back: %q, want %q", why, denial.Flapping)
	}
}

// An hour of quiet, online or away, and all is forgotten. A clock that was set
// back, or one that runs ahead elsewhere, locks nobody out.
func TestFlappingDecays(t *testing.T) {
	flapped := func(t *testing.T) (*world, *registry.Store, agentid.Instance) {
		w := newWorld(t)
		s := w.store()
		w.add(s, bob)
		inst := w.active(s, bob, "bob 1")
		for range 2 {
			w.clock.add(time.Minute)
			w.expire(s, inst)
			if _, why := w.comesBack(s, inst); why != "" {
				t.Fatal(why)
			}
		}
		return w, s, inst
	}
	for name, tt := range map[string]struct {
		online, away time.Duration
		want         denial.Reason
		flaps        int
	}{
		"at once":                       {time.Minute, 0, denial.Flapping, 0},
		"online for nearly an hour":     {59 * time.Minute, 0, denial.Flapping, 0},
		"online for an hour":            {time.Hour, 0, "", 1},
		"away for longer than its wait": {time.Minute, time.Minute, "", 3},
		"away for an hour":              {time.Minute, time.Hour, "", 1},
		"the clock is set back a bit":   {time.Minute, -20 * time.Minute, "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			w, s, inst := flapped(t)
			w.clock.add(tt.online)
			w.expire(s, inst)
			w.clock.add(tt.away)
			flaps, why := w.comesBack(s, inst)
			if why != tt.want || flaps != tt.flaps {
				t.Errorf("got %d flaps, %q, want %d, %q", flaps, why, tt.flaps, tt.want)
			}
			if got := w.agent(s, bob).Status; (got == registry.Active) != (tt.want == "") {
				t.Errorf("the agent is %s", got)
			}
		})
	}
	for away, waits := range map[time.Duration]bool{0: true, 9 * time.Second: true, 10 * time.Second: false, -24 * time.Hour: false, 24 * time.Hour: false} {
		i := registry.Instance{Flaps: 3, Readmitted: start.Unix(), NotBefore: start.Add(10 * time.Second).Unix()}
		if _, until := i.Flapping(start.Add(away)); until.IsZero() == waits {
			t.Errorf("%s later: not before %s, want it to wait: %v", away, until, waits)
		}
	}
}

// An instance that has to wait does not bring the agent back, and keeps no other
// instance of it away.
func TestFlappingIsTheInstancesOwn(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	one, two := w.active(s, bob, "bob 1"), w.active(s, bob, "bob 2")
	for range 3 {
		w.expire(s, one)
		w.comesBack(s, one)
	}
	w.expire(s, two)
	before := w.agent(s, bob)
	if before.Status != registry.Expired {
		t.Fatalf("the agent is %s", before.Status)
	}
	wantFlapping(t, w, s, one)
	if got := w.agent(s, bob); payload(t, got) != payload(t, before) {
		t.Errorf("one that has to wait brought the agent back: %+v", got)
	}
	if flaps, why := w.comesBack(s, two); why != "" || flaps != 1 {
		t.Errorf("its sibling: got %d, %q", flaps, why)
	}
	wantFlapping(t, w, s, one)
	if got := w.agent(s, bob).Status; got != registry.Active {
		t.Errorf("the agent is %s", got)
	}
}

// An operator's resume forgets how often an instance flapped.
func TestResumeForgetsFlapping(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	inst := w.active(s, bob, "bob 1")
	for range 3 {
		w.expire(s, inst)
		w.comesBack(s, inst)
	}
	wantFlapping(t, w, s, inst)
	if _, err := s.Resume(w.ctx(), bob, "admin", "the line is good again"); err != nil {
		t.Fatal(err)
	}
	i := w.instance(s, bob, inst)
	if i.Flaps != 0 || i.NotBefore != 0 || i.Readmitted != 0 || i.State != registry.InstanceExpired || i.Changed.By != "admin" {
		t.Errorf("got %+v, want it expired and free to come back", i)
	}
	if flaps, why := w.comesBack(s, inst); flaps != 1 || why != "" {
		t.Errorf("got %d, %q", flaps, why)
	}
	revision := w.instance(s, bob, inst).Revision
	for n := range 2 {
		if _, err := s.ResumeInstance(w.ctx(), bob, inst, "admin", ""); err != nil {
			t.Fatal(err)
		}
		if got := w.instance(s, bob, inst); got.Revision != revision+1 || got.State != registry.Online || got.Epoch != i.Epoch+1 {
			t.Errorf("resume %d of one that is online: got %+v", n, got)
		}
	}
}

// Where an operator alone readmits, that holds for each instance, also while the
// agent is active by the others; and resume readmits them all, under new epochs.
func TestManualReadmissionOfInstances(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob, func(n *registry.NewAgent) { n.Readmit = registry.ReadmitManual })
	one, two, three := w.active(s, bob, "bob 1"), w.active(s, bob, "bob 2"), w.active(s, bob, "bob 3")
	for _, inst := range []agentid.Instance{one, two} {
		w.expire(s, inst)
		before := payload(t, w.instance(s, bob, inst))
		_, _, err := s.Attest(ctx, bob, inst, "")
		wantReason(t, "by itself, while the agent is active", err, denial.Expired)
		if got := payload(t, w.instance(s, bob, inst)); got != before {
			t.Error("a refused attestation changes the record")
		}
	}
	if _, _, err := s.Attest(ctx, bob, three, ""); err != nil {
		t.Errorf("the one that is online: %v", err)
	}

	// One of them.
	if _, err := s.ResumeInstance(ctx, bob, one, "admin", "looked at it"); err != nil {
		t.Fatal(err)
	}
	if i := w.instance(s, bob, one); i.State != registry.Left || i.Epoch != 3 || i.Changed.Reason != "looked at it" {
		t.Errorf("resumed: got %+v, want it away with a key that counts, in epoch 3", i)
	}
	if _, i, err := s.Attest(ctx, bob, one, ""); err != nil || i.State != registry.Online || i.Epoch != 3 {
		t.Errorf("back: %+v, %v", i, err)
	}
	_, _, err := s.Attest(ctx, bob, two, "")
	wantReason(t, "the other", err, denial.Expired)

	// All of them, with the agent, which is expired or not.
	for _, all := range []bool{false, true} {
		gone := w.enrol(s, bob, "bob gone "+map[bool]string{true: "1", false: "2"}[all])
		if _, err := s.RevokeInstance(ctx, bob, gone.Instance, "admin", "lost"); err != nil {
			t.Fatal(err)
		}
		if all {
			w.expire(s, one)
			w.expire(s, two)
			w.expire(s, three)
		}
		before, was := w.agent(s, bob), w.instance(s, bob, two)
		a, err := s.Resume(ctx, bob, "admin", "looked at all of them")
		if err != nil {
			t.Fatal(err)
		}
		want := before.Epoch
		if all {
			want++
		}
		if a.Status != registry.Active || a.Epoch != want {
			t.Errorf("resumed: %s in epoch %d, want active in %d", a.Status, a.Epoch, want)
		}
		if i := w.instance(s, bob, two); i.State != registry.Left || i.Epoch != was.Epoch+1 {
			t.Errorf("its instance: %s in epoch %d, want left in %d", i.State, i.Epoch, was.Epoch+1)
		}
		if got := w.instance(s, bob, gone.Instance).State; got != registry.InstanceRevoked {
			t.Errorf("one that is revoked is %s", got)
		}
		if _, i, err := s.Attest(ctx, bob, two, ""); err != nil || i.State != registry.Online || i.Epoch != was.Epoch+1 {
			t.Errorf("back: %+v, %v", i, err)
		}
		if again, err := s.Resume(ctx, bob, "admin", ""); err != nil || again.Revision != a.Revision || w.instance(s, bob, two).Epoch != was.Epoch+1 {
			t.Errorf("resuming what is active: %v", err)
		}
	}

	// Not behind an agent's back.
	if _, err := s.Suspend(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	_, err = s.ResumeInstance(ctx, bob, one, "admin", "")
	wantReason(t, "an instance of a suspended agent", err, denial.WrongState)
	_, err = s.ResumeInstance(ctx, agentid.Control, one, "admin", "")
	wantReason(t, "of the control plane", err, denial.ReservedName)
}

// What the record says of sessions has one spelling.
func TestSessionsPolicy(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	for n, want := range map[registry.Sessions]registry.Sessions{"": "", registry.SessionsAny: "", registry.SessionsSingle: registry.SessionsSingle} {
		id := agentid.Require("bob-" + string(n) + "x")
		if a := w.add(s, id, func(a *registry.NewAgent) { a.Sessions = n }); a.Sessions != want {
			t.Errorf("%q: got %q, want %q", n, a.Sessions, want)
		}
	}
	for _, bad := range []registry.Sessions{"two", "Single", " "} {
		_, err := s.Add(ctx, registry.NewAgent{Agent: carol, Sessions: bad}, "admin")
		wantReason(t, string(bad), err, denial.BadInput)
		_, err = s.Set(ctx, agentid.Require("bob-x"), registry.Settings{Sessions: &bad}, "admin")
		wantReason(t, "setting "+string(bad), err, denial.BadInput)
	}
	id := agentid.Require("bob-x")
	before := w.agent(s, id)
	for _, tt := range []struct {
		to, want  registry.Sessions
		revisions uint64
	}{
		{registry.SessionsAny, "", 0}, {registry.SessionsSingle, registry.SessionsSingle, 1},
		{registry.SessionsSingle, registry.SessionsSingle, 1}, {registry.SessionsAny, "", 2},
	} {
		a, err := s.Set(ctx, id, registry.Settings{Sessions: &tt.to}, "admin")
		if err != nil || a.Sessions != tt.want || a.Revision != before.Revision+tt.revisions || a.Epoch != before.Epoch {
			t.Errorf("to %q: got %q in revision %d, epoch %d, %v", tt.to, a.Sessions, a.Revision, a.Epoch, err)
		}
	}
}

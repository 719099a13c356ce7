package registry_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

const podLife = time.Hour

// pod enrols one and gives it a certificate.
func (w *world) pod(s *registry.Store, id agentid.ID, label string, rule registry.JoinRule) (*registry.Instance, error) {
	w.Helper()
	_, i, err := s.EnrolByRule(w.ctx(), w.enrolment("", id, label), rule)
	if err == nil {
		err = w.certifyInstance(s, id, i.Instance)
	}
	return i, err
}

func (w *world) reap(s *registry.Store, id agentid.ID) []agentid.Instance {
	w.Helper()
	out, err := s.Reap(w.ctx(), id, 0)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

// Pods come and go, three times as many as an agent may have instances, and none is
// refused; what was reaped is seen nowhere and good for nothing.
func TestPodsInTurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	rule := w.pods(s, bob)
	first := ""
	reaped := 0
	for n := range 3 * limits.Instances {
		i, err := w.pod(s, bob, fmt.Sprint("pod ", n), rule)
		if denial.Of(err) == denial.QuotaExceeded {
			// As the control plane does where there is no room.
			w.clock.add(podLife + time.Second)
			reaped += len(w.reap(s, bob))
			i, err = w.pod(s, bob, fmt.Sprint("pod ", n), rule)
		}
		if err != nil {
			t.Fatalf("pod %d: %v", n, err)
		}
		if n == 0 {
			first = i.Instance.String()
		}
	}
	if reaped != 2*limits.Instances {
		t.Errorf("%d reaped, want %d", reaped, 2*limits.Instances)
	}
	list, err := s.Instances(ctx, bob)
	if err != nil || len(list) != limits.Instances || slices.ContainsFunc(list, func(i *registry.Instance) bool { return i.Reaped || i.Instance.String() == first }) {
		t.Errorf("got %d instances, %v", len(list), err)
	}
	all, err := s.InstancesEver(ctx, bob)
	if err != nil || len(all) != 3*limits.Instances {
		t.Errorf("got %d records, %v: what was reaped must stay", len(all), err)
	}
	// Another replica, and one that starts, see the same.
	if list, err := w.store().Instances(ctx, bob); err != nil || len(list) != limits.Instances {
		t.Errorf("another store: %d instances, %v", len(list), err)
	}
}

func TestAReapedKeyStaysDead(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	rule := w.pods(s, bob)
	i, err := w.pod(s, bob, "pod", rule)
	if err != nil {
		t.Fatal(err)
	}
	old := w.raw().get(registry.AgentsBucket, registry.InstanceKey(bob, i.Instance)).Data
	w.clock.add(podLife + time.Second)
	if got := w.reap(s, bob); len(got) != 1 || got[0] != i.Instance {
		t.Fatalf("reaped %v", got)
	}
	now := w.instance(s, bob, i.Instance)
	if !now.Reaped || now.State != registry.InstanceRevoked || now.Epoch != i.Epoch+1 || now.Changed.By != agentid.Control.String() {
		t.Errorf("got %+v", now)
	}
	if again := w.reap(s, bob); len(again) != 0 {
		t.Errorf("reaped again: %v", again)
	}
	secret, _, err := s.NewJoin(ctx, bob, 0, 2, "admin")
	if err != nil {
		t.Fatal(err)
	}
	_, byToken := error(nil), error(nil)
	_, _, byToken = s.Enrol(ctx, w.enrolment(secret, bob, "pod"))
	_, _, byRule := s.EnrolByRule(ctx, w.enrolment("", bob, "pod"), rule)
	_, _, attested := s.Attest(ctx, bob, i.Instance, "")
	_, resumed := s.ResumeInstance(ctx, bob, i.Instance, "admin", "")
	for name, tt := range map[string]struct {
		err  error
		want denial.Reason
	}{
		"a platform token": {byRule, denial.Revoked}, "a join token": {byToken, denial.Revoked}, "attesting": {attested, denial.Revoked},
		"an operator": {resumed, denial.WrongState}, "a certificate": {w.certifyInstance(s, bob, i.Instance), denial.Revoked},
	} {
		wantReason(t, name, tt.err, tt.want)
	}
	// Nor by the record of before: it is older than what was seen, here and in a
	// process that remembers.
	w.raw().put(registry.AgentsBucket, registry.InstanceKey(bob, i.Instance), string(old))
	_, err = s.Instance(ctx, bob, i.Instance)
	wantReason(t, "the old record written back", err, denial.OlderRecord)
	// The keys of another agent are bound as before.
	w.add(s, carol)
	wantReason(t, "its key for another agent", w.tryEnrol(s, carol, "pod"), denial.AlreadyExists)
}

// Nobody is reaped who may come back, is there, or was enrolled by hand.
func TestWhoIsNotReaped(t *testing.T) {
	for name, tt := range map[string]struct {
		live  func(w *world, s *registry.Store, i *registry.Instance) error
		sleep time.Duration
		want  int
	}{
		"gone":                 {nil, 0, 1},
		"may renew by its key": {nil, time.Minute, 0},
		"could until now":      {nil, time.Second - 1, 1},
		"the agent has no rule": {func(w *world, s *registry.Store, _ *registry.Instance) error {
			return setRule(w, s, registry.JoinRule{})
		}, 0, 0},
		"the agent is suspended": {func(w *world, s *registry.Store, _ *registry.Instance) error {
			_, err := s.Suspend(w.ctx(), bob, "a", "")
			return err
		}, 0, 0},
		"it is connected": {func(w *world, s *registry.Store, i *registry.Instance) error { return connected(w, s, i) }, 0, 0},
		"it has renewed": {func(w *world, s *registry.Store, i *registry.Instance) error {
			w.clock.add(time.Minute)
			return w.certifyInstance(s, bob, i.Instance)
		}, 0, 0},
		"an operator revoked it": {func(w *world, s *registry.Store, i *registry.Instance) error {
			_, err := s.RevokeInstance(w.ctx(), bob, i.Instance, "a", "")
			return err
		}, 0, 0},
		"it is online by its word": {func(w *world, s *registry.Store, i *registry.Instance) error {
			_, _, err := s.Attest(w.ctx(), bob, i.Instance, "")
			return err
		}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.store()
			i, err := w.pod(s, bob, "pod", w.pods(s, bob))
			if err != nil {
				t.Fatal(err)
			}
			at := w.clock.Now().Add(podLife + time.Second)
			if tt.live != nil {
				if err := tt.live(w, s, i); err != nil {
					t.Fatal(err)
				}
			}
			w.clock.add(at.Sub(w.clock.Now()))
			got, err := s.Reap(w.ctx(), bob, tt.sleep)
			if err != nil || len(got) != tt.want {
				t.Errorf("reaped %v, %v, want %d", got, err, tt.want)
			}
			if shown, err := s.Instances(w.ctx(), bob); err != nil || len(shown) != 1-tt.want {
				t.Errorf("%d instances are listed, %v", len(shown), err)
			}
		})
	}
}

func setRule(w *world, s *registry.Store, r registry.JoinRule) error {
	_, err := s.Set(w.ctx(), bob, registry.Settings{Join: &r}, "admin")
	return err
}

// An enrolment that never got its certificate ends as well, a day later.
func TestHalfAnEnrolmentIsReaped(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	rule := w.pods(s, bob)
	if _, _, err := s.EnrolByRule(w.ctx(), w.enrolment("", bob, "pod"), rule); err != nil {
		t.Fatal(err)
	}
	w.clock.add(23 * time.Hour)
	if got := w.reap(s, bob); len(got) != 0 {
		t.Fatalf("reaped %v", got)
	}
	w.clock.add(2 * time.Hour)
	if got := w.reap(s, bob); len(got) != 1 {
		t.Errorf("reaped %v", got)
	}
}

func (w *world) certifyInstance(s *registry.Store, id agentid.ID, inst agentid.Instance) error {
	return s.SetCertificate(w.ctx(), id, inst, registry.Certificate{Serial: "01", NotAfter: w.clock.Now().Add(podLife)})
}

func connected(w *world, s *registry.Store, i *registry.Instance) error {
	now := w.clock.Now()
	return s.PutSession(w.ctx(), registry.Session{
		Agent: bob, Instance: i.Instance, AgentEpoch: 1, Epoch: i.Epoch, ServerID: "S", ClientID: 7,
		UserKey: "U", Issued: now, Expires: now.Add(2 * podLife), Certificate: "01",
	})
}

package registry_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// outcome is what an operation does to bob: the status and by how much the epoch
// rises, or the reason for which it is refused.
type outcome struct {
	status registry.Status
	epochs uint64
	reason denial.Reason
}

func to(s registry.Status, epochs uint64) outcome { return outcome{s, epochs, ""} }
func no(r denial.Reason) outcome                  { return outcome{reason: r} }

// Every operation in every status.
func TestStateMachine(t *testing.T) {
	type try struct {
		*world
		s      *registry.Store
		inst   agentid.Instance
		secret string // a join token made before the status was reached
	}
	const (
		P, A, S, E, R = registry.Pending, registry.Active, registry.Suspended, registry.Expired, registry.Revoked
	)
	columns := []registry.Status{P, A, S, E, R}
	for _, op := range []struct {
		name string
		do   func(x try) error
		want [5]outcome
	}{
		{"add", func(x try) error {
			_, err := x.s.Add(x.ctx(), registry.NewAgent{Agent: bob, Rights: rights()}, "admin")
			return err
		}, [5]outcome{no(denial.AlreadyExists), no(denial.AlreadyExists), no(denial.AlreadyExists), no(denial.AlreadyExists), no(denial.AlreadyExists)}},
		{"replace", func(x try) error {
			_, err := x.s.Add(x.ctx(), registry.NewAgent{Agent: bob, Rights: rights(), Replace: true}, "admin")
			return err
		}, [5]outcome{no(denial.AlreadyExists), no(denial.AlreadyExists), no(denial.AlreadyExists), no(denial.AlreadyExists), to(P, 1)}},
		{"grant", func(x try) error {
			_, err := x.s.Grant(x.ctx(), bob, registry.Rights{Call: scopes("read:mail")}, 0, "admin")
			return err
		}, [5]outcome{to(P, 0), to(A, 0), to(S, 0), to(E, 0), no(denial.WrongState)}},
		{"ungrant", func(x try) error {
			_, err := x.s.Ungrant(x.ctx(), bob, registry.Rights{Handle: scopes("read:logs")}, "admin")
			return err
		}, [5]outcome{to(P, 1), to(A, 1), to(S, 1), to(E, 1), no(denial.WrongState)}},
		{"suspend", func(x try) error {
			_, err := x.s.Suspend(x.ctx(), bob, "admin", "")
			return err
		}, [5]outcome{no(denial.WrongState), to(S, 1), to(S, 0), to(S, 1), no(denial.WrongState)}},
		{"resume", func(x try) error {
			_, err := x.s.Resume(x.ctx(), bob, "admin", "")
			return err
		}, [5]outcome{no(denial.WrongState), to(A, 0), to(A, 0), to(A, 1), no(denial.WrongState)}},
		{"revoke", func(x try) error {
			_, err := x.s.Revoke(x.ctx(), bob, "admin", "")
			return err
		}, [5]outcome{to(R, 1), to(R, 1), to(R, 1), to(R, 1), to(R, 0)}},
		{"remove", func(x try) error {
			_, err := x.s.Remove(x.ctx(), bob, "admin", "")
			return err
		}, [5]outcome{to(R, 1), to(R, 1), to(R, 1), to(R, 1), to(R, 0)}},
		{"revoke the instance", func(x try) error {
			_, err := x.s.RevokeInstance(x.ctx(), bob, x.inst, "admin", "")
			return err
		}, [5]outcome{no(denial.UnlistedKey), to(A, 0), to(S, 0), to(E, 0), to(R, 0)}},
		{"join", func(x try) error {
			_, _, err := x.s.NewJoin(x.ctx(), bob, 0, 0, "admin")
			return err
		}, [5]outcome{to(P, 0), to(A, 0), to(S, 0), to(E, 0), no(denial.WrongState)}},
		{"enrol", func(x try) error {
			_, _, err := x.s.Enrol(x.ctx(), x.enrolment(x.secret, bob, "bob 2"))
			return err
		}, [5]outcome{to(A, 0), to(A, 0), to(S, 0), to(E, 0), no(denial.Revoked)}},
		{"attest", func(x try) error {
			_, _, err := x.s.Attest(x.ctx(), bob, x.inst, "h")
			return err
		}, [5]outcome{no(denial.UnlistedKey), to(A, 0), no(denial.Suspended), to(A, 1), no(denial.Revoked)}},
		{"expire the instance", func(x try) error {
			epoch := uint64(1)
			if i, err := x.s.Instance(x.ctx(), bob, x.inst); err == nil {
				epoch = i.Epoch
			}
			return x.s.ExpireInstance(x.ctx(), bob, x.inst, epoch, "heartbeat-timeout")
		}, [5]outcome{no(denial.UnlistedKey), to(E, 1), to(S, 0), no(denial.Conflict), no(denial.Conflict)}},
		{"expire the agent", func(x try) error {
			if err := x.s.Leave(x.ctx(), bob, x.inst); err != nil && denial.Of(err) != denial.UnlistedKey {
				return err
			}
			return x.s.ExpireAgent(x.ctx(), bob, x.agent(x.s, bob).Epoch, "no-live-instance")
		}, [5]outcome{no(denial.Conflict), to(E, 1), no(denial.Conflict), no(denial.Conflict), no(denial.Conflict)}},
		{"leave", func(x try) error { return x.s.Leave(x.ctx(), bob, x.inst) },
			[5]outcome{no(denial.UnlistedKey), to(A, 0), to(S, 0), to(E, 0), to(R, 0)}},
		{"set a certificate", func(x try) error {
			return x.s.SetCertificate(x.ctx(), bob, x.inst, registry.Certificate{Serial: "01", NotAfter: start.Add(time.Hour)})
		}, [5]outcome{no(denial.UnlistedKey), to(A, 0), to(S, 0), to(E, 0), no(denial.Revoked)}},
		{"end a delegation", func(x try) error {
			_, err := x.s.EndDelegation(x.ctx(), bob, strings.Repeat("A", 43), start.Add(time.Hour))
			return err
		}, [5]outcome{to(P, 0), to(A, 0), to(S, 0), to(E, 0), to(R, 0)}},
		{"renew tokens", func(x try) error { return x.s.RenewTokens(x.ctx()) },
			[5]outcome{to(P, 0), to(A, 0), to(S, 0), to(E, 0), to(R, 0)}},
	} {
		for i, from := range columns {
			t.Run(fmt.Sprintf("%s/%s", op.name, from), func(t *testing.T) {
				w := newWorld(t)
				s := w.store()
				x := try{w, s, agentid.Instance{}, ""}
				x.inst = w.reachWithToken(s, from, &x.secret)
				before := w.agent(s, bob)
				err := op.do(x)
				want := op.want[i]
				wantReason(t, op.name, err, want.reason)
				after := w.agent(s, bob)
				if want.reason != "" {
					if got, old := payload(t, after), payload(t, before); got != old {
						t.Errorf("refused, and yet the record changed\nfrom %s\nto   %s", old, got)
					}
					return
				}
				if after.Status != want.status {
					t.Errorf("status: got %s, want %s", after.Status, want.status)
				}
				if got := after.Epoch - before.Epoch; got != want.epochs {
					t.Errorf("the epoch rises by %d, want %d", got, want.epochs)
				}
				if after.Epoch != before.Epoch && after.Revision <= before.Revision {
					t.Errorf("revision: got %d after %d", after.Revision, before.Revision)
				}
				// Whatever happened, a token that is live gives no more than the record.
				w.checkTokens(s, bob)
				if after.Status == R && len(after.Tokens) != 0 {
					t.Errorf("a tombstone lists %d tokens", len(after.Tokens))
				}
			})
		}
	}
}

// reachWithToken is reach with a join token made while bob was active, or
// pending where that is the status.
func (w *world) reachWithToken(s *registry.Store, status registry.Status, secret *string) agentid.Instance {
	w.Helper()
	inst := w.reach(s, registry.Pending)
	var err error
	if *secret, _, err = s.NewJoin(w.ctx(), bob, time.Hour, 5, "admin"); err != nil {
		w.Fatal(err)
	}
	if status == registry.Pending {
		return inst
	}
	inst = w.active(s, bob, "bob 1")
	switch status {
	case registry.Suspended:
		_, err = s.Suspend(w.ctx(), bob, "admin", "odd")
	case registry.Expired:
		err = s.ExpireInstance(w.ctx(), bob, inst, 1, "heartbeat-timeout")
	case registry.Revoked:
		_, err = s.Revoke(w.ctx(), bob, "admin", "stolen")
	}
	if err != nil {
		w.Fatal(err)
	}
	return inst
}

// checkTokens fails if a live token of the agent holds what its record does not.
func (w *world) checkTokens(s *registry.Store, id agentid.ID) {
	w.Helper()
	a := w.agent(s, id)
	held, may, err := a.Rights.Scopes()
	if err != nil {
		w.Errorf("rights of %s do not stand: %v", id, err)
		return
	}
	for _, digest := range a.Tokens {
		c, err := s.Chain(w.ctx(), digest)
		if err != nil {
			w.Errorf("live token of %s: %v", id, err)
			continue
		}
		for _, sc := range c.Scopes() {
			if !contains(held, sc) {
				w.Errorf("a live token holds %s, the record does not", sc)
			}
		}
		for _, sc := range c.Delegatable() {
			if !contains(may, sc) {
				w.Errorf("a live token may delegate %s, the record may not", sc)
			}
		}
	}
}

func contains[T comparable](list []T, v T) bool {
	for _, x := range list {
		if x == v {
			return true
		}
	}
	return false
}

// No operation works on an agent or instance that is not there.
func TestUnknownNames(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	inst := agentid.InstanceOf("x")
	for _, id := range []agentid.ID{carol, {}} {
		for name, do := range map[string]func() error{
			"agent":   func() error { _, err := s.Agent(ctx, id); return err },
			"suspend": func() error { _, err := s.Suspend(ctx, id, "a", ""); return err },
			"resume":  func() error { _, err := s.Resume(ctx, id, "a", ""); return err },
			"revoke":  func() error { _, err := s.Revoke(ctx, id, "a", ""); return err },
			"remove":  func() error { _, err := s.Remove(ctx, id, "a", ""); return err },
			"grant":   func() error { _, err := s.Grant(ctx, id, rights(), 0, "a"); return err },
			"ungrant": func() error { _, err := s.Ungrant(ctx, id, rights(), "a"); return err },
			"join":    func() error { _, _, err := s.NewJoin(ctx, id, 0, 0, "a"); return err },
			"attest":  func() error { _, _, err := s.Attest(ctx, id, inst, ""); return err },
			"expire":  func() error { return s.ExpireAgent(ctx, id, 1, "") },
		} {
			wantReason(t, fmt.Sprintf("%s of %q", name, id), do(), denial.UnlistedAgent)
		}
		for name, do := range map[string]func() error{
			"instance": func() error { _, err := s.Instance(ctx, id, inst); return err },
			"leave":    func() error { return s.Leave(ctx, id, inst) },
			"expire":   func() error { return s.ExpireInstance(ctx, id, inst, 1, "") },
			"revoke":   func() error { _, err := s.RevokeInstance(ctx, id, inst, "a", ""); return err },
		} {
			wantReason(t, fmt.Sprintf("%s of an instance of %q", name, id), do(), denial.UnlistedKey)
		}
	}
}

// The mesh's own names can be neither taken nor changed, also where a record of
// them exists: a join token for control would make its holder the control plane.
func TestReservedNames(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.found(s)
	list, err := s.Instances(ctx, agentid.Control)
	if err != nil || len(list) != 1 {
		t.Fatalf("instances of control: got %d, %v, want 1", len(list), err)
	}
	inst := list[0].Instance
	for _, name := range []string{"control", "sealmesh", "sys"} {
		id := agentid.Require(name)
		for op, do := range map[string]func() error{
			"add":     func() error { _, err := s.Add(ctx, registry.NewAgent{Agent: id}, "a"); return err },
			"replace": func() error { _, err := s.Add(ctx, registry.NewAgent{Agent: id, Replace: true}, "a"); return err },
			"suspend": func() error { _, err := s.Suspend(ctx, id, "a", ""); return err },
			"resume":  func() error { _, err := s.Resume(ctx, id, "a", ""); return err },
			"revoke":  func() error { _, err := s.Revoke(ctx, id, "a", ""); return err },
			"remove":  func() error { _, err := s.Remove(ctx, id, "a", ""); return err },
			"grant":   func() error { _, err := s.Grant(ctx, id, rights(), 0, "a"); return err },
			"ungrant": func() error { _, err := s.Ungrant(ctx, id, rights(), "a"); return err },
			"join":    func() error { _, _, err := s.NewJoin(ctx, id, 0, 0, "a"); return err },
			"attest":  func() error { _, _, err := s.Attest(ctx, id, inst, ""); return err },
			"enrol":   func() error { _, _, err := s.Enrol(ctx, w.enrolment("x", id, "x")); return err },
			"revoke an instance": func() error {
				_, err := s.RevokeInstance(ctx, id, inst, "a", "")
				return err
			},
		} {
			wantReason(t, op+" "+name, do(), denial.ReservedName)
		}
	}
}

package registry_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

func (w *world) joins(s *registry.Store, id agentid.ID) []registry.Join {
	w.Helper()
	list, err := s.Joins(w.ctx(), id)
	if err != nil {
		w.Fatal(err)
	}
	return list
}

// What is listed are the tokens that let somebody in, and never what lets them.
func TestJoinsAreListed(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, carol)
	if got := w.joins(s, agentid.ID{}); len(got) != 0 {
		t.Fatalf("got %v of a mesh without any", got)
	}
	short, _, err := s.NewJoin(ctx, bob, time.Minute, 1, "admin")
	if err != nil {
		t.Fatal(err)
	}
	long, expires, err := s.NewJoin(ctx, bob, time.Hour, 3, "other")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.NewJoin(ctx, carol, 0, 1, "admin"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Enrol(ctx, w.enrolment(long, bob, "bob 1")); err != nil {
		t.Fatal(err)
	}
	all := w.joins(s, agentid.ID{})
	if len(all) != 3 || all[0].Agent != bob || all[0].Expires.After(all[1].Expires) || all[2].Agent != carol {
		t.Fatalf("got %+v", all)
	}
	want := registry.Join{Handle: registry.HandleOfJoin(long), Agent: bob, Uses: 3, Used: 1, Expires: expires.UTC(), By: "other"}
	if all[1] != want {
		t.Errorf("got %+v, want %+v", all[1], want)
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{short, long, registry.JoinHash(short), registry.JoinHash(long)} {
		if strings.Contains(string(b), secret) {
			t.Errorf("the list tells %s", secret)
		}
	}
	if _, err := agentid.Parse(all[0].Handle); err == nil || !registry.IsJoinHandle(all[0].Handle) {
		t.Errorf("an agent could be called %q", all[0].Handle)
	}
	w.clock.add(2 * time.Minute)
	if got := w.joins(s, bob); len(got) != 1 || got[0].Handle != want.Handle {
		t.Errorf("after the end of one: got %+v", got)
	}
	// Those of a name's former holder let nobody in.
	if _, err := s.Revoke(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	if got := w.joins(s, bob); len(got) != 0 {
		t.Errorf("revoked: got %+v", got)
	}
	if _, err := s.Add(ctx, registry.NewAgent{Agent: bob, Replace: true}, "admin"); err != nil {
		t.Fatal(err)
	}
	if got := w.joins(s, bob); len(got) != 0 {
		t.Errorf("replaced: got %+v", got)
	}
}

func TestJoinsAreCancelled(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, carol)
	make := func(id agentid.ID, uses int) string {
		secret, _, err := s.NewJoin(ctx, id, 0, uses, "admin")
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	one, two, hers := make(bob, 5), make(bob, 1), make(carol, 1)
	if _, _, err := s.Enrol(ctx, w.enrolment(one, bob, "bob 1")); err != nil {
		t.Fatal(err)
	}
	for name, handle := range map[string]string{"an unknown handle": "j.00000000", "no handle": "", "a pattern": "*", "a hash": registry.JoinHash(one), "the secret": one} {
		_, err := s.CancelJoin(ctx, handle)
		wantReason(t, name, err, denial.NotFound)
	}
	if len(w.joins(s, agentid.ID{})) != 3 {
		t.Fatal("one of those cancelled something")
	}
	got, err := s.CancelJoin(ctx, registry.HandleOfJoin(one))
	if err != nil || got.Used != 1 || got.Agent != bob {
		t.Errorf("got %+v, %v", got, err)
	}
	_, _, err = s.Enrol(ctx, w.enrolment(one, bob, "bob 2"))
	wantReason(t, "a cancelled token", err, denial.BadJoinToken)
	_, _, err = s.Enrol(ctx, w.enrolment(one, bob, "bob 1"))
	wantReason(t, "a cancelled token and a key that used it", err, denial.BadJoinToken)
	if list, err := s.Instances(ctx, bob); err != nil || len(list) != 1 || list[0].State != registry.Enrolled {
		t.Errorf("what was enrolled before: %d, %v", len(list), err)
	}
	_, err = s.CancelJoin(ctx, got.Handle)
	wantReason(t, "again", err, denial.NotFound)
	list, err := s.CancelJoins(ctx, bob)
	if err != nil || len(list) != 1 || list[0].Handle != registry.HandleOfJoin(two) {
		t.Errorf("got %+v, %v", list, err)
	}
	if _, _, err := s.Enrol(ctx, w.enrolment(hers, carol, "carol 1")); err != nil {
		t.Errorf("another agent's token: %v", err)
	}
	_, err = s.CancelJoins(ctx, agentid.ID{})
	wantReason(t, "nobody's", err, denial.BadInput)
}

// A token that is cancelled while hosts come with it lets in those that were before
// and nobody after: not one enrolment that begins behind the answer.
func TestCancelledInARace(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	w.add(stores[0], bob)
	secret, _, err := stores[0].NewJoin(w.ctx(), bob, 0, 1000, "admin")
	if err != nil {
		t.Fatal(err)
	}
	var enrolments []registry.Enrolment
	for n := range 60 {
		enrolments = append(enrolments, w.enrolment(secret, bob, fmt.Sprint("host ", n)))
	}
	var mu sync.Mutex
	in, some := 0, make(chan struct{})
	cancelled := make(chan struct{})
	var wg sync.WaitGroup
	enrol := func(n int) {
		behind := false
		select {
		case <-cancelled:
			behind = true
		default:
		}
		_, _, err := stores[n%2].Enrol(w.ctx(), enrolments[n])
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil && behind:
			t.Errorf("host %d was let in after the token was cancelled", n)
		case err == nil:
			if in++; in == 3 {
				close(some)
			}
		case denial.Of(err) != denial.BadJoinToken:
			t.Errorf("host %d: %v", n, err)
		}
	}
	for k := range 4 {
		wg.Go(func() {
			for n := k; n < len(enrolments); n += 4 {
				enrol(n)
			}
		})
	}
	<-some
	if _, err := stores[1].CancelJoin(w.ctx(), registry.HandleOfJoin(secret)); err != nil {
		t.Error(err)
	}
	close(cancelled)
	wg.Wait()
	list, err := stores[0].Instances(w.ctx(), bob)
	if err != nil || len(list) != in || in == len(enrolments) {
		t.Errorf("%d were let in of %d, and %d are registered, %v", in, len(enrolments), len(list), err)
	}
}

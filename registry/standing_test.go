package registry_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// standing reads all pages and returns how many there were.
func (w *world) standing(s *registry.Store, id agentid.ID) (map[agentid.Instance]string, int) {
	w.Helper()
	all, pages := map[agentid.Instance]string{}, 0
	for after := (agentid.Instance{}); ; pages++ {
		page, next, err := s.Standing(w.ctx(), id, after)
		if err != nil {
			w.Fatalf("standing of %s: %v", id, err)
		}
		if len(page) > registry.StandingPage {
			w.Errorf("a page of %d, want at most %d", len(page), registry.StandingPage)
		}
		for inst, text := range page {
			if inst.String() <= after.String() || !next.IsZero() && inst.String() > next.String() {
				w.Errorf("%s stands on the page behind %q up to %q", inst, after, next)
			}
			if _, err := registry.DecodeInstance(text, id, inst, w.config().Ring, w.clock.Now()); err != nil {
				w.Errorf("%s: %v", inst, err)
			}
			all[inst] = text
		}
		if next.IsZero() {
			return all, pages + 1
		}
		after = next
	}
}

func TestStanding(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	if _, _, err := s.Standing(ctx, bob, agentid.Instance{}); denial.Of(err) != denial.UnlistedAgent {
		t.Errorf("got %v, want %q", err, denial.UnlistedAgent)
	}
	w.add(s, bob)
	if got, _ := w.standing(s, bob); len(got) != 0 {
		t.Errorf("got %d instances of none", len(got))
	}
	enrolled := w.enrol(s, bob, "bob 0").Instance
	online := w.active(s, bob, "bob 1")
	left := w.active(s, bob, "bob 2")
	if err := s.Leave(ctx, bob, left); err != nil {
		t.Fatal(err)
	}
	expired := w.active(s, bob, "bob 3")
	if err := s.ExpireInstance(ctx, bob, expired, w.instance(s, bob, expired).Epoch, "heartbeat-timeout"); err != nil {
		t.Fatal(err)
	}
	revoked := w.active(s, bob, "bob 4")
	if _, err := s.RevokeInstance(ctx, bob, revoked, "admin", "stolen"); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is known who never comes back
		got, _ := w.standing(s, bob)
		want := []agentid.Instance{enrolled, online, left}
		if len(got) != len(want) || got[enrolled] == "" || got[online] == "" || got[left] == "" {
			t.Errorf("got %v, want %v", slices.Collect(maps.Keys(got)), want)
		}
	}
	// Who was expired may come back; who was revoked stays away.
	if _, _, err := s.Attest(ctx, bob, expired, ""); err != nil {
		t.Fatal(err)
	}
	if got, _ := w.standing(s, bob); len(got) != 4 || got[expired] == "" {
		t.Errorf("got %d instances, want four and %s among them", len(got), expired)
	}
	// A name that was given new keys has no instance of before.
	if _, err := s.Revoke(ctx, bob, "admin", "stolen"); err != nil {
		t.Fatal(err)
	}
	w.add(s, bob, func(n *registry.NewAgent) { n.Replace = true })
	fresh := w.active(s, bob, "bob 5")
	if got, _ := w.standing(s, bob); len(got) != 1 || got[fresh] == "" {
		t.Errorf("got %v, want %s alone", slices.Collect(maps.Keys(got)), fresh)
	}
}

func TestStandingByPages(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	secret, _, err := s.NewJoin(w.ctx(), bob, 0, 100, "admin")
	if err != nil {
		t.Fatal(err)
	}
	want := registry.StandingPage + 5
	for i := range want {
		if _, _, err := s.Enrol(w.ctx(), w.enrolment(secret, bob, fmt.Sprint("bob ", i))); err != nil {
			t.Fatal(err)
		}
	}
	got, pages := w.standing(s, bob)
	if len(got) != want || pages != 2 {
		t.Errorf("got %d instances on %d pages, want %d on 2", len(got), pages, want)
	}
	most := 0
	for _, text := range got {
		most = max(most, len(text))
	}
	t.Logf("a record takes %d bytes at most", most)
	// Those that never come back take no place on a page once they are known.
	for _, inst := range slices.SortedFunc(maps.Keys(got), func(a, b agentid.Instance) int {
		return slices.Compare([]byte(a.String()), []byte(b.String()))
	})[:10] {
		if _, err := s.RevokeInstance(w.ctx(), bob, inst, "admin", "gone"); err != nil {
			t.Fatal(err)
		}
	}
	w.standing(s, bob)
	if got, pages := w.standing(s, bob); len(got) != want-10 || pages != 1 {
		t.Errorf("got %d instances on %d pages, want %d on one", len(got), pages, want-10)
	}
}

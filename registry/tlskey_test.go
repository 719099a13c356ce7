package registry_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
)

// A TLS key belongs to one instance in the whole mesh, and trying costs no use of a
// join token.
func TestTLSKeyOfAnotherInstance(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, carol)
	first := w.enrol(s, bob, "bob 1")
	for _, id := range []agentid.ID{bob, carol} {
		secret, _, err := s.NewJoin(ctx, id, 0, 1, "admin")
		if err != nil {
			t.Fatal(err)
		}
		e := w.enrolment(secret, id, "second")
		own := e.TLS
		e.TLS = w.enrolment("", bob, "bob 1").TLS
		_, _, err = s.Enrol(ctx, e)
		wantReason(t, "the TLS key of another instance for "+id.String(), err, denial.AlreadyExists)
		if list, err := s.Instances(ctx, id); err != nil || len(list) > 1 || id == carol && len(list) != 0 {
			t.Errorf("%s has %d instances, %v", id, len(list), err)
		}
		if id == bob {
			continue // the same nkey cannot be carol's as well
		}
		e.TLS = own
		if _, _, err := s.Enrol(ctx, e); err != nil {
			t.Errorf("the refusal cost the use: %v", err)
		}
	}
	key := jws.Digest("a further key")
	if err := s.BindTLSKey(ctx, bob, first.Instance, key); err != nil {
		t.Fatal(err)
	}
	if err := s.BindTLSKey(ctx, bob, first.Instance, key); err != nil {
		t.Errorf("its own key again: %v", err)
	}
	wantReason(t, "another agent's", s.BindTLSKey(ctx, carol, first.Instance, key), denial.AlreadyExists)
	wantReason(t, "another instance's", s.BindTLSKey(ctx, bob, agentid.InstanceOf("x"), key), denial.AlreadyExists)
	for name, hash := range map[string]string{"no key": "", "a pattern": "*", "a longer one": key + ".x", "a key in place of its hash": "-----BEGIN PUBLIC KEY-----"} {
		wantReason(t, name, s.BindTLSKey(ctx, bob, first.Instance, hash), denial.BadInput)
	}
	wantReason(t, "nobody's", s.BindTLSKey(ctx, agentid.ID{}, first.Instance, key), denial.BadInput)
	if ttl := w.raw().get("MESH_JOINS", "tls."+key).Header.Get("Nats-TTL"); ttl == "" {
		t.Error("a binding stays for ever")
	}
}

// Of many that want one TLS key at the same time, one gets it.
func TestTLSKeyTogether(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	for round := range 5 {
		key := jws.Digest(fmt.Sprint("contested ", round))
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for n := range 20 {
			wg.Go(func() {
				err := s.BindTLSKey(w.ctx(), bob, agentid.InstanceOf(fmt.Sprint("i", n)), key)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if denial.Of(err) != denial.AlreadyExists {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if won != 1 {
			t.Errorf("%d instances have one TLS key", won)
		}
	}
}

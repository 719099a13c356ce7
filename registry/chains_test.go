package registry_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

// lenders are bob, who may pass write:reports on, and carol, both active.
func (w *world) lenders(s *registry.Store) (bobs, carols agentid.Instance) {
	w.Helper()
	w.add(s, bob)
	w.add(s, carol)
	return w.active(s, bob, "bob 1"), w.active(s, carol, "carol 1")
}

func TestUpload(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	w.lenders(s)
	text := w.delegate(s, bob, "bob 1", carol, time.Hour)

	for name, tt := range map[string]struct {
		by   agentid.ID
		text string
		want denial.Reason
	}{
		"by a third":           {dave, text, denial.NotHolder},
		"by nobody":            {agentid.ID{}, text, denial.NotHolder},
		"a root token":         {bob, w.chain(s, bob, "write:reports").Text(), denial.NotHolder},
		"a root token, nobody": {agentid.ID{}, w.chain(s, bob, "write:reports").Text(), denial.NotHolder},
		"junk":                 {bob, "junk", denial.BadToken},
	} {
		_, err := s.Upload(ctx, tt.by, tt.text)
		wantReason(t, name, err, tt.want)
	}
	for _, id := range []agentid.ID{bob, carol} {
		if held, err := s.Held(ctx, id); err != nil || len(held) != 0 {
			t.Errorf("%s holds %v, %v after refusals", id, held, err)
		}
	}

	c, err := s.Upload(ctx, bob, text)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no error and changes nothing
		if got, err := s.Chain(ctx, c.Digest()); err != nil || got.Text() != text {
			t.Errorf("reading it: %v", err)
		}
		if held, err := s.Held(ctx, carol); err != nil || len(held) != 1 || held[0] != c.Digest() {
			t.Errorf("carol holds %v, %v", held, err)
		}
		if by, err := s.DelegatedBy(ctx, bob); err != nil || len(by) != 1 || by[0].Digest() != c.Digest() {
			t.Errorf("delegated by bob: %d, %v", len(by), err)
		}
		if _, err := s.Upload(ctx, bob, text); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	// All three keys end with the chain.
	for _, key := range []string{c.Digest(), "held.carol." + c.Digest(), "by.bob." + c.Digest()} {
		if ttl := r.get(registry.ChainsBucket, key).Header.Get("Nats-TTL"); ttl != "1h0m1s" && ttl != "3601" && ttl != "3601s" {
			t.Errorf("%s lives %q, want an hour and a second", key, ttl)
		}
	}
	if held, err := s.Held(ctx, bob); err != nil || len(held) != 0 {
		t.Errorf("bob holds %v, %v; his root tokens are in his record", held, err)
	}

	_, err = s.Chain(ctx, jws.Digest("other"))
	wantReason(t, "an unknown digest", err, denial.UnknownChain)
	for _, digest := range []string{"", "*", ">", "held.carol." + c.Digest(), strings.Repeat("*", 43)} {
		_, err = s.Chain(ctx, digest)
		wantReason(t, "digest "+digest, err, denial.BadInput)
	}
	r.put(registry.ChainsBucket, jws.Digest("other"), text)
	_, err = s.Chain(ctx, jws.Digest("other"))
	wantReason(t, "another chain under a digest", err, denial.BadRecord)
	w.clock.add(time.Hour)
	_, err = s.Chain(ctx, c.Digest())
	wantReason(t, "after its end", err, denial.TokenExpired)
	_, err = s.Upload(ctx, bob, text)
	wantReason(t, "uploading after its end", err, denial.TokenExpired)
	wantReason(t, "storing after its end", s.PutChain(ctx, c), denial.TokenExpired)
}

// An upload that broke off is finished by the next one.
func TestUploadResumes(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	w.lenders(s)
	text := w.delegate(s, bob, "bob 1", carol, time.Hour)
	c, err := s.Upload(w.ctx(), bob, text)
	if err != nil {
		t.Fatal(err)
	}
	for _, keys := range [][]string{{c.Digest()}, {c.Digest(), "held.carol." + c.Digest()}} {
		for _, k := range keys {
			r.delete(registry.ChainsBucket, k)
		}
		if _, err := s.Upload(w.ctx(), bob, text); err != nil {
			t.Fatalf("without %v: %v", keys, err)
		}
		if _, err := s.Chain(w.ctx(), c.Digest()); err != nil {
			t.Errorf("without %v: %v", keys, err)
		}
		if held, err := s.Held(w.ctx(), carol); err != nil || len(held) != 1 {
			t.Errorf("without %v: carol holds %v, %v", keys, held, err)
		}
	}
}

// Every way to lose standing refuses an upload and ends a chain that was
// uploaded, with a reason that a chain's check takes for a no.
func TestChainStanding(t *testing.T) {
	expire := func(w *world, s *registry.Store, id agentid.ID) error {
		list, err := s.Instances(w.ctx(), id)
		if err != nil {
			return err
		}
		return s.ExpireInstance(w.ctx(), id, list[0].Instance, list[0].Epoch, "")
	}
	for name, tt := range map[string]struct {
		do   func(w *world, s *registry.Store, c *capability.Chain) error
		want denial.Reason // empty: the chain still stands
		why  denial.Reason
	}{
		"delegator suspended": {func(w *world, s *registry.Store, _ *capability.Chain) error {
			_, err := s.Suspend(w.ctx(), bob, "a", "")
			return err
		}, denial.DelegatorCut, denial.Suspended},
		"delegator expired": {func(w *world, s *registry.Store, _ *capability.Chain) error { return expire(w, s, bob) }, denial.DelegatorCut, denial.Expired},
		"holder expired":    {func(w *world, s *registry.Store, _ *capability.Chain) error { return expire(w, s, carol) }, denial.DelegatorCut, denial.Expired},
		"delegator revoked": {func(w *world, s *registry.Store, _ *capability.Chain) error {
			_, err := s.Revoke(w.ctx(), bob, "a", "")
			return err
		}, denial.DelegatorCut, denial.Revoked},
		"holder suspended": {func(w *world, s *registry.Store, _ *capability.Chain) error {
			_, err := s.Suspend(w.ctx(), carol, "a", "")
			return err
		}, denial.DelegatorCut, denial.Suspended},
		"holder revoked": {func(w *world, s *registry.Store, _ *capability.Chain) error {
			_, err := s.Revoke(w.ctx(), carol, "a", "")
			return err
		}, denial.DelegatorCut, denial.Revoked},
		"right taken back": {func(w *world, s *registry.Store, _ *capability.Chain) error {
			_, err := s.Ungrant(w.ctx(), bob, registry.Rights{MayDelegate: scopes("write:reports")}, "a")
			return err
		}, denial.TokenTakenBack, denial.TokenTakenBack},
		"delegation ended": {func(w *world, s *registry.Store, c *capability.Chain) error {
			_, err := s.EndDelegation(w.ctx(), bob, c.Hops()[1].Token, c.Expires())
			return err
		}, denial.TokenTakenBack, denial.TokenTakenBack},
		"instance revoked": {func(w *world, s *registry.Store, c *capability.Chain) error {
			_, err := s.RevokeInstance(w.ctx(), bob, agentid.InstanceOf(c.Hops()[1].Key), "a", "")
			return err
		}, denial.DelegatorCut, denial.Revoked},
		"instance left": {func(w *world, s *registry.Store, c *capability.Chain) error {
			return s.Leave(w.ctx(), bob, agentid.InstanceOf(c.Hops()[1].Key))
		}, "", ""},
		"another pod expired": {func(w *world, s *registry.Store, c *capability.Chain) error {
			inst := w.active(s, bob, "bob 2")
			return s.ExpireInstance(w.ctx(), bob, inst, 1, "")
		}, "", ""},
		"its own pod expired, another lives": {func(w *world, s *registry.Store, c *capability.Chain) error {
			w.active(s, bob, "bob 2")
			return s.ExpireInstance(w.ctx(), bob, agentid.InstanceOf(c.Hops()[1].Key), 1, "")
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.store()
			w.lenders(s)
			first, err := s.Upload(w.ctx(), bob, w.delegate(s, bob, "bob 1", carol, time.Hour))
			if err != nil {
				t.Fatal(err)
			}
			if err := first.Check(start, s.Directory(w.ctx())); err != nil {
				t.Fatal(err)
			}
			later := w.delegate(s, bob, "bob 1", carol, 2*time.Hour)
			if err := tt.do(w, s, first); err != nil {
				t.Fatal(err)
			}
			err = first.Check(start, s.Directory(w.ctx()))
			wantReason(t, "the chain", err, tt.want)
			wantReason(t, "its cause", onlyIs(err, tt.why), tt.why)
			if tt.want == "" || name == "delegation ended" {
				return // another delegation is not ended by this
			}
			_, err = s.Upload(w.ctx(), bob, later)
			wantReason(t, "an upload", err, tt.want)
		})
	}
}

// The directory says no with the reasons that a check knows for a no, and keeps
// what it could not find out apart from them.
func TestDirectoryReasons(t *testing.T) {
	no := []denial.Reason{
		denial.UnlistedAgent, denial.UnlistedKey, denial.Pending, denial.Suspended, denial.Expired,
		denial.Revoked, denial.StaleEpoch, denial.TokenTakenBack, denial.NotFound,
	}
	for _, status := range []registry.Status{"", registry.Pending, registry.Suspended, registry.Expired, registry.Revoked} {
		w := newWorld(t)
		s := w.store()
		if status != "" {
			w.reach(s, status)
		}
		d := s.Directory(w.ctx())
		for name, err := range map[string]error{
			"standing":           d.Standing(bob),
			"signer unknown":     d.SignerStanding(bob, public(t, key(t, nkeys.PrefixByteUser, "nobody"))),
			"signer of no agent": d.SignerStanding(agentid.ID{}, ""),
			"token":              d.TokenLive(bob, jws.Digest("x")),
			"token of nobody":    d.TokenLive(agentid.ID{}, ""),
		} {
			if !contains(no, denial.Of(err)) {
				t.Errorf("%s, %s: got %v, want one of %v", status, name, err, no)
			}
		}
		if status == "" {
			if err := d.NotVoided(bob, jws.Digest("x")); denial.Of(err) != denial.UnlistedAgent {
				t.Errorf("not voided by nobody: got %v", err)
			}
		}
	}
	// It cannot be asked: no answer, not a no. And never a yes.
	w := newWorld(t)
	cfg := w.config()
	s, err := registry.Open(w.ctx(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.lenders(s)
	c := w.chain(s, bob, "write:reports")
	d := s.Directory(w.ctx())
	var wg sync.WaitGroup
	for range 8 { // one directory serves many checks at once
		wg.Go(func() {
			if err := c.Check(start, d); err != nil {
				t.Errorf("check: %v", err)
			}
		})
	}
	wg.Wait()
	d = s.Directory(w.ctx())
	cfg.Conn.Close()
	for name, err := range map[string]error{
		"standing": d.Standing(bob), "signer": d.SignerStanding(bob, public(t, key(t, nkeys.PrefixByteUser, "bob 1"))),
		"token": d.TokenLive(bob, c.Hops()[0].Token), "voided": d.NotVoided(bob, jws.Digest("x")),
	} {
		if err == nil || denial.Of(err) != "" {
			t.Errorf("%s without a connection: got %v, want an error that is no refusal", name, err)
		}
	}
	wantReason(t, "a check without a connection", c.Check(start, d), denial.RegistryUnavailable)
}

// A key of the same instance ID is not the key: SignerStanding compares all of it.
func TestSignerStandingComparesTheKey(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	inst := w.reach(s, registry.Active)
	i := w.instance(s, bob, inst)
	own := public(t, key(t, nkeys.PrefixByteUser, "bob 1"))
	wantReason(t, "own key", registry.SignerStanding(i, own, w.ring, start), "")
	wantReason(t, "another key", registry.SignerStanding(i, public(t, key(t, nkeys.PrefixByteUser, "x")), w.ring, start), denial.UnlistedKey)
	stranger := newRing(t, key(t, nkeys.PrefixByteAccount, "other root"))
	wantReason(t, "a passport of another mesh", registry.SignerStanding(i, own, stranger, start), denial.UnknownSigner)
	forged := *i
	forged.Passport = w.instance(s, bob, w.active(s, bob, "bob 2")).Passport
	_, err := forged.Identity(w.ring, start)
	wantReason(t, "another instance's passport", err, denial.BadRecord)
}

func TestEndDelegation(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.lenders(s)
	c, err := s.Upload(ctx, bob, w.delegate(s, bob, "bob 1", carol, time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	before := w.agent(s, bob)
	end := func(token string, expires time.Time) *registry.Agent {
		t.Helper()
		a, err := s.EndDelegation(ctx, bob, token, expires)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	token := c.Hops()[1].Token
	a := end(token, c.Expires())
	if len(a.Voided) != 1 || a.Voided[0] != (registry.Void{Token: token, Expires: c.Expires().Unix()}) || a.Epoch != before.Epoch {
		t.Errorf("got %+v in epoch %d", a.Voided, a.Epoch)
	}
	if again := end(token, c.Expires()); again.Revision != a.Revision {
		t.Error("ending it again changes the record")
	}
	// It stays listed for as long as any clock that is within the window takes
	// the token for valid, and goes with the next one.
	w.clock.add(time.Hour + limits.Window - time.Second)
	if a = end(jws.Digest("2"), w.clock.Now().Add(time.Hour)); len(a.Voided) != 2 {
		t.Errorf("just after its end: got %d, want 2", len(a.Voided))
	}
	w.clock.add(2 * time.Second)
	if a = end(jws.Digest("3"), w.clock.Now().Add(time.Hour)); len(a.Voided) != 2 || a.NotVoided(token) != nil {
		t.Errorf("well after its end: got %+v", a.Voided)
	}
	if over := end(jws.Digest("4"), w.clock.Now().Add(-time.Hour)); over.Revision != a.Revision {
		t.Error("a delegation that is long over is listed")
	}
	_, err = s.EndDelegation(ctx, bob, "no digest", start)
	wantReason(t, "no digest", err, denial.BadInput)
	_, err = s.EndDelegation(ctx, dave, token, start)
	wantReason(t, "an unknown issuer", err, denial.UnlistedAgent)
}

// An agent stores so many delegations, at once or one by one; those that it
// ended make room.
func TestUploadQuota(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.lenders(s)
	const places, contenders = 4, 12
	// As if they had been uploaded one by one: the index that is counted.
	r := w.raw()
	for n := range limits.UploadedChains - places {
		r.put(registry.ChainsBucket, "by.bob."+jws.Digest(fmt.Sprint("chain ", n)), jws.Digest(fmt.Sprint("token ", n)))
	}
	stored := func() int {
		t.Helper()
		by, err := s.DelegatedBy(ctx, bob)
		if err != nil {
			t.Fatal(err)
		}
		return len(by)
	}
	made := make([]string, contenders)
	for n := range made {
		made[n] = w.delegate(s, bob, "bob 1", carol, time.Hour+time.Duration(n)*time.Second)
	}
	var wg sync.WaitGroup
	for n, text := range made {
		wg.Go(func() {
			if _, err := s.Upload(ctx, bob, text); err != nil {
				wantReason(t, fmt.Sprint("upload ", n), err, denial.QuotaExceeded)
			}
		})
	}
	wg.Wait()
	if n := stored(); n > places {
		t.Errorf("%d were stored at once, want at most %d", n, places)
	}
	for n, text := range made { // fill what contention left free
		if _, err := s.Upload(ctx, bob, text); err != nil {
			wantReason(t, fmt.Sprint("upload ", n), err, denial.QuotaExceeded)
		}
	}
	if n := stored(); n != places {
		t.Fatalf("%d are stored, want %d", n, places)
	}
	by, err := s.DelegatedBy(ctx, bob)
	if err != nil {
		t.Fatal(err)
	}
	extra := w.delegate(s, bob, "bob 1", carol, 3*time.Hour)
	_, err = s.Upload(ctx, bob, extra)
	wantReason(t, "one more", err, denial.QuotaExceeded)
	if held, err := s.Held(ctx, carol); err != nil || len(held) != places {
		t.Errorf("carol holds %d, %v: a refused upload reaches its holder", len(held), err)
	}
	if _, err := s.EndDelegation(ctx, bob, by[0].Hops()[1].Token, by[0].Expires()); err != nil {
		t.Fatal(err)
	}
	if _, err = s.Upload(ctx, bob, extra); err != nil {
		t.Errorf("after one was ended: %v", err)
	}
}

// A chain that was made offline may be carried to its holder, who stores it. That
// takes nothing of its delegator's quota, and has a bound of its own.
func TestHolderUploads(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.lenders(s)
	upload := func(by agentid.ID, text string) error {
		_, err := s.Upload(ctx, by, text)
		return err
	}
	for range limits.UploadedChains {
		c, err := s.Upload(ctx, carol, w.delegate(s, bob, "bob 1", carol, time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Chain(ctx, c.Digest()); err != nil || got.Digest() != c.Digest() {
			t.Fatalf("got %v, %v for what the holder stored", got, err)
		}
	}
	wantReason(t, "one more", upload(carol, w.delegate(s, bob, "bob 1", carol, time.Hour)), denial.QuotaExceeded)
	if held, err := s.Held(ctx, carol); err != nil || len(held) != limits.UploadedChains {
		t.Errorf("carol holds %d, %v", len(held), err)
	}
	mine, err := s.Upload(ctx, bob, w.delegate(s, bob, "bob 1", carol, time.Hour))
	if err != nil {
		t.Errorf("the delegator's own: %v", err)
	}
	if by, err := s.DelegatedBy(ctx, bob); err != nil || len(by) != 1 || by[0].Digest() != mine.Digest() {
		t.Errorf("delegated by bob: %d, %v", len(by), err)
	}

	if by, err := s.DelegatedBy(ctx, carol); err != nil || len(by) != 0 {
		t.Errorf("delegated by carol: %d, %v; what she took up is not what she lends", len(by), err)
	}

	// What was ended before anybody stored it is not stored.
	text := w.delegate(s, bob, "bob 1", carol, time.Hour)
	ended, err := capability.Verify(text, s.Ring(), w.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	last := ended.Hops()[1]
	if _, err := s.EndDelegation(ctx, bob, last.Token, last.Expires); err != nil {
		t.Fatal(err)
	}
	for _, by := range []agentid.ID{bob, carol} {
		wantReason(t, "what was ended before", upload(by, text), denial.TokenTakenBack)
	}
}

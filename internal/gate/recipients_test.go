package gate_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/seal"
	"github.com/sealmesh/sealmesh/registry"
)

// lister is a process that seals payloads, with a control plane that lists what
// the store has.
type lister struct {
	*world
	peers *gate.Peers
	page  int  // instances on one page
	stuck bool // the list goes on and on where it was

	mu     sync.Mutex
	asked  int
	down   error
	forge  func(map[agentid.Instance]string)
	during func() // runs after the answer is taken and before it is given
}

func newLister(t *testing.T, w *world) *lister {
	t.Helper()
	l := &lister{world: w, page: 2}
	l.peers = must[*gate.Peers](t)(gate.NewPeers(gate.PeersConfig{
		Roots: []string{publicOf(t, w.root)}, Ring: w.ring, Reader: w.store, Clock: w.clock.Now, Log: zerolog.Nop(), Instances: l.instances,
	}))
	if err := l.peers.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return l
}

// instances answers as the control plane does: with what counts, in order.
func (l *lister) instances(_ context.Context, id agentid.ID, after agentid.Instance) (map[agentid.Instance]string, agentid.Instance, error) {
	l.mu.Lock()
	l.asked++
	down, forge, during := l.down, l.forge, l.during
	l.mu.Unlock()
	if down != nil {
		return nil, agentid.Instance{}, down
	}
	out, next := map[agentid.Instance]string{}, agentid.Instance{}
	l.store.set(func(s *store) {
		for _, key := range slices.Sorted(maps.Keys(s.records)) {
			tail, ok := strings.CutPrefix(key, id.String()+".")
			inst, err := agentid.ParseInstance(tail)
			if !ok || err != nil || inst.String() <= after.String() {
				continue
			}
			if len(out) == l.page {
				break
			}
			out[inst], next = s.records[key], inst
		}
	})
	if len(out) < l.page {
		next = agentid.Instance{}
	}
	if l.stuck {
		next = must[agentid.Instance](l.t)(agentid.ParseInstance("00000000"))
	}
	if forge != nil {
		forge(out)
	}
	if during != nil {
		during()
	}
	return out, next, nil
}

func (l *lister) set(f func(*lister)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(l)
}

func (l *lister) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// curveOf is a curve key by its label.
func curveOf(t testing.TB, label string) *seal.Key {
	t.Helper()
	raw := sha256.Sum256([]byte("gate test sealed " + label))
	seed := must[[]byte](t)(nkeys.EncodeSeed(nkeys.PrefixByteCurve, raw[:]))
	return must[*seal.Key](t)(seal.NewKey(seed))
}

// seals gives the actor's instance a curve key that payloads can be sealed to.
func (a *actor) seals(label string) *seal.Key {
	a.w.t.Helper()
	k := curveOf(a.w.t, label)
	a.curve(k.Recipient().String())
	return k
}

func (a *actor) curve(public string) {
	a.w.t.Helper()
	a.instance.Passport = must[string](a.w.t)(capability.IssuePassport(a.w.records, a.id, a.key.PublicKey(), public, a.w.clock.Now()))
	a.putInstance()
}

// second is another instance of the agent.
func (a *actor) second(label string) *actor {
	a.w.t.Helper()
	b := *a
	b.newKey(label)
	return &b
}

func (l *lister) want(what string, keys ...*seal.Key) {
	l.t.Helper()
	got, err := l.peers.Recipients(l.t.Context(), agentid.Require("bank"))
	if err != nil {
		l.t.Errorf("%s: %v", what, err)
		return
	}
	l.same(what, got, keys...)
}

func (l *lister) same(what string, got []seal.Recipient, keys ...*seal.Key) {
	l.t.Helper()
	var have, want []string
	for _, r := range got {
		have = append(have, r.String())
	}
	for _, k := range keys {
		want = append(want, k.Recipient().String())
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		l.t.Errorf("%s: got %v, want %v", what, have, want)
	}
}

func TestRecipients(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	k2 := b.seals("2")
	c := a.second("bank 3")
	k3 := c.seals("3")
	l := newLister(t, w)
	l.want("three that are online", k1, k2, k3)
	if n := l.count(); n != 2 {
		t.Errorf("asked for %d pages, want 2", n)
	}
	asked := l.count()
	for _, tt := range []struct {
		state  registry.State
		counts bool
	}{
		{registry.Left, true}, {registry.Enrolled, true}, {registry.Online, true},
		{registry.InstanceExpired, false}, {registry.Online, true}, {registry.InstanceRevoked, false},
	} {
		l.peers.Observe(b.instanceKey(), b.changeInstance(func(i *registry.Instance) { i.State = tt.state }))
		if tt.counts {
			l.want("one is "+string(tt.state), k1, k2, k3)
		} else {
			l.want("one is "+string(tt.state), k1, k3)
		}
	}
	if n := l.count(); n != asked {
		t.Errorf("asked %d times more for what the feed had told", n-asked)
	}
	// One that the list lacks makes it be asked for again.
	d := a.second("bank 4")
	k4 := d.seals("4")
	l.want("before the feed told of another one", k1, k3)
	l.peers.Observe(d.instanceKey(), d.putInstance())
	l.want("another one", k1, k3, k4)
	// A new curve key counts as soon as it is told.
	k5 := curveOf(t, "5")
	a.instance.Revision++
	a.instance.Epoch++
	a.curve(k5.Recipient().String())
	l.peers.Observe(a.instanceKey(), a.putInstance())
	l.want("a new curve key", k5, k3, k4)
	// Of two agents, one does not appear among the other's.
	other := w.enrol("other")
	ko := other.seals("other")
	got, err := l.peers.Recipients(t.Context(), other.id)
	if err != nil {
		t.Fatal(err)
	}
	l.same("the other agent's", got, ko)
	l.want("the first one's", k5, k3, k4)
}

// A payload that was sealed by the list opens for the listed and for nobody else.
func TestRecipientsOpen(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	k2 := b.seals("2")
	l := newLister(t, w)
	seals := func() []byte {
		to, err := l.peers.Recipients(t.Context(), a.id)
		if err != nil {
			t.Fatal(err)
		}
		return must[[]byte](t)(seal.Seal(to, bindingOf(a), []byte("tail 20")))
	}
	opens := func(k *seal.Key, payload []byte) bool {
		_, err := k.Open(bindingOf(a), payload)
		return err == nil
	}
	if p := seals(); !opens(k1, p) || !opens(k2, p) {
		t.Error("an instance cannot open what is sealed to its agent")
	}
	l.peers.Observe(b.instanceKey(), b.changeInstance(func(i *registry.Instance) { i.State = registry.InstanceRevoked }))
	if p := seals(); !opens(k1, p) || opens(k2, p) {
		t.Error("who was revoked opens what is sealed afterwards, or who was not does not")
	}
	// The old key of an instance that was given a new one.
	k3 := curveOf(t, "3")
	a.instance.Revision++
	a.curve(k3.Recipient().String())
	l.peers.Observe(a.instanceKey(), a.putInstance())
	if p := seals(); opens(k1, p) || !opens(k3, p) {
		t.Error("the key of before opens what is sealed to the new one")
	}
}

func bindingOf(a *actor) seal.Binding {
	return seal.Binding{TrustDomain: domain, Signer: a.key.PublicKey(), Recipient: a.id, Nonce: "AAECAwQFBgcICQoLDA0ODw"}
}

// An answer is sealed to the key in the passport of the instance that asked, and to
// no other instance of the same agent.
func TestCurveOfASender(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	k2 := b.seals("2")
	for _, tt := range []struct {
		from        *actor
		opens, none *seal.Key
	}{{a, k1, k2}, {b, k2, k1}} {
		s, err := w.peers.Sender(t.Context(), a.id, tt.from.key.PublicKey())
		if err != nil {
			t.Fatal(err)
		}
		to := must[seal.Recipient](t)(seal.ParseRecipient(s.Curve))
		binding := seal.Binding{
			TrustDomain: domain, Reply: true, Piece: 1, Signer: w.enrol("reader").key.PublicKey(), Recipient: a.id, Nonce: "AAECAwQFBgcICQoLDA0ODw",
		}
		payload := must[[]byte](t)(seal.Seal([]seal.Recipient{to}, binding, []byte("line 20")))
		if _, err := tt.opens.Open(binding, payload); err != nil {
			t.Errorf("the instance that asked: %v", err)
		}
		_, err = tt.none.Open(binding, payload)
		wantReason(t, err, denial.CannotOpen)
	}
}

// A broker that keeps back a revocation and brings old records of who was revoked
// again does not get it back into the list.
func TestOldRecordsDoNotBringRecipientsBack(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	b.seals("2")
	var old []string
	for range 3 {
		old = append(old, b.changeInstance(func(i *registry.Instance) { i.State = registry.Online }))
	}
	b.changeInstance(func(i *registry.Instance) { i.State = registry.InstanceRevoked; i.Epoch++ })
	w.store.set(func(s *store) { delete(s.records, b.instanceKey()) }) // the control plane lists who counts
	l := newLister(t, w)
	l.want("one is revoked", k1)
	for _, text := range old {
		l.peers.Observe(b.instanceKey(), text)
		l.want("an old record came", k1)
	}
	asked := l.count()
	for _, text := range old {
		l.peers.Observe(b.instanceKey(), text)
		l.want("and once more", k1)
	}
	if n := l.count() - asked; n != 0 {
		t.Errorf("asked %d times for records that were seen before", n)
	}
}

// What a record says counts for its signature and its name alone.
func TestForgedRecipients(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	b.seals("2")
	mallory := w.enrol("mallory")
	mallory.seals("mallory")
	foreign := newWorld(t)
	foreign.records = keyOf(t, nkeys.PrefixByteAccount, "records of nobody")
	fb := *b
	fb.w = foreign
	forged := fb.putInstance()
	for what, text := range map[string]string{
		"signed by nobody": forged, "changed": strings.Replace(b.putInstance(), "eyJ", "eyK", 1), "no record": "tail 20", "empty": "",
		"of another agent": mallory.putInstance(), "of another instance": a.putInstance(), "an agent's": a.putAgent(),
	} {
		l := newLister(t, w)
		l.set(func(l *lister) {
			l.forge = func(records map[agentid.Instance]string) {
				if _, there := records[b.instance.Instance]; there {
					records[b.instance.Instance] = text
				}
			}
		})
		l.want(what, k1)
	}
	// On the feed.
	l := newLister(t, w)
	l.want("before", k1, curveOf(t, "2"))
	l.peers.Observe(b.instanceKey(), forged)
	l.want("a forged record on the feed", k1, curveOf(t, "2"))

	l = newLister(t, w)
	l.set(func(l *lister) { l.forge = func(m map[agentid.Instance]string) { clear(m) } })
	_, err := l.peers.Recipients(t.Context(), a.id)
	wantReason(t, err, denial.NotFound)
}

// Keys to which nothing can be sealed are left out; they do not keep others out.
func TestRecipientsOfSmallOrder(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	b.curve(string(must[[]byte](t)(nkeys.Encode(nkeys.PrefixByteCurve, make([]byte, 32)))))
	newLister(t, w).want("one has a key of small order", k1)
}

func TestRecipientsRefuses(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	a.seals("1")
	good := *a
	for what, tt := range map[string]struct {
		change func(l *lister)
		want   denial.Reason
	}{
		"unknown":   {func(l *lister) { w.store.set(func(s *store) { delete(s.records, a.recordKey()) }) }, denial.UnlistedAgent},
		"suspended": {func(*lister) { a.change(suspend) }, denial.Suspended},
		"revoked":   {func(*lister) { a.change(func(r *registry.Agent) { r.Status = registry.Revoked }) }, denial.Revoked},
		"pending":   {func(*lister) { a.change(func(r *registry.Agent) { r.Status = registry.Pending }) }, denial.Pending},
		"expired":   {func(*lister) { a.change(func(r *registry.Agent) { r.Status = registry.Expired }) }, denial.Expired},
		"no instance": {func(*lister) {
			w.store.set(func(s *store) { delete(s.records, a.instanceKey()) })
		}, denial.NotFound},
		"of the name's former holder": {func(*lister) { a.change(func(r *registry.Agent) { r.Since++ }) }, denial.NotFound},
		"unreachable":                 {func(l *lister) { l.down = errors.New("no answer") }, denial.RegistryUnavailable},
		"refused":                     {func(l *lister) { l.down = denial.New(denial.RateLimited, "too often") }, denial.RateLimited},
		"without an end":              {func(l *lister) { l.stuck = true }, denial.RegistryUnavailable},
		"more than there may be": {func(l *lister) {
			l.forge = func(m map[agentid.Instance]string) {
				for i := range 257 {
					m[must[agentid.Instance](t)(agentid.ParseInstance(fmt.Sprintf("%08d", i)))] = ""
				}
			}
		}, denial.BadRecord},
	} {
		t.Run(what, func(t *testing.T) {
			*a = good
			a.putAgent()
			a.putInstance()
			l := newLister(t, w)
			tt.change(l)
			to, err := l.peers.Recipients(t.Context(), a.id)
			wantReason(t, err, tt.want)
			if len(to) > 0 {
				t.Errorf("got %d recipients beside a refusal", len(to))
			}
		})
	}
	t.Run("nobody to ask", func(t *testing.T) {
		*a = good
		a.putAgent()
		_, err := w.node.peers.Recipients(t.Context(), a.id)
		wantReason(t, err, denial.RegistryUnavailable)
	})
}

// The list is relied on for a minute while the feed flows, is asked for again
// after a gap, and while nobody can be asked counts as long as any record does.
func TestRecipientsOverTime(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	l := newLister(t, w)
	pass := func(d time.Duration) {
		for ; d > 0; d -= gate.TickInterval {
			w.clock.advance(min(d, gate.TickInterval))
			l.peers.Observe(registry.TickKey, w.beat())
		}
	}
	at := func(what string, n int) {
		t.Helper()
		l.want(what, k1)
		if got := l.count(); got != n {
			t.Errorf("%s: asked %d times, want %d", what, got, n)
		}
	}
	at("at first", 1)
	pass(59 * time.Second)
	at("within the minute", 1)
	pass(2 * time.Second)
	at("after a minute", 2)
	l.peers.Gap()
	at("after a gap of the feed", 3)
	l.set(func(l *lister) { l.down = errors.New("no answer") })
	pass(61 * time.Second)
	at("nobody answers", 4)
	at("a moment later", 4) // not asked again at once
	pass(3 * time.Second)
	at("and after some time", 5)
	// Nothing is heard any more, and nobody answers: the list was right when the last
	// tick came, and counts as long from then as every record.
	l.peers.Gap()
	w.clock.advance(gate.DefaultFeedGrace - 10*time.Second)
	l.store.set(func(s *store) { s.down = denial.New(denial.RegistryUnavailable, "no answer") })
	l.want("within the grace", k1)
	w.clock.advance(2 * time.Minute)
	if _, err := l.peers.Recipients(t.Context(), a.id); denial.Of(err) != denial.FeedStale {
		t.Errorf("got %v past the grace, want %q", err, denial.FeedStale)
	}
}

// Whoever was told that it sealed to the wrong instances gets a list that was made
// afterwards, and never an old one instead.
func TestRefreshRecipients(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	l := newLister(t, w)
	l.want("at first", k1)
	b := a.second("bank 2") // the feed does not tell
	k2 := b.seals("2")
	l.want("the feed did not tell", k1)
	got, err := l.peers.RefreshRecipients(t.Context(), a.id)
	if err != nil {
		t.Fatal(err)
	}
	l.same("afresh", got, k1, k2)
	l.want("from then on", k1, k2)
	l.set(func(l *lister) { l.down = errors.New("no answer") })
	if _, err := l.peers.RefreshRecipients(t.Context(), a.id); err == nil {
		t.Error("an old list was given for a new one")
	}
	l.want("and still", k1, k2)
}

// An instance that comes, and one that is revoked, while the list is under way.
func TestRecipientsChangeWhileTheyAreListed(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	b := a.second("bank 2")
	b.seals("2")
	l := newLister(t, w)
	l.page = 10
	var k3 *seal.Key
	l.set(func(l *lister) {
		l.during = sync.OnceFunc(func() {
			l.peers.Observe(b.instanceKey(), b.changeInstance(func(i *registry.Instance) { i.State = registry.InstanceRevoked }))
			c := a.second("bank 3")
			k3 = c.seals("3")
			l.peers.Observe(c.instanceKey(), c.putInstance())
		})
	})
	l.want("the answer was older than the feed", k1)
	l.want("at the next use", k1, k3)
	if n := l.count(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

// A burst asks once.
func TestRecipientsAreAskedForOnce(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	a.seals("1")
	l := newLister(t, w)
	l.page = 10
	hold := make(chan struct{})
	l.set(func(l *lister) { l.during = func() { <-hold } })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := l.peers.Recipients(t.Context(), a.id); err != nil {
				t.Error(err)
			}
		})
	}
	close(hold)
	wg.Wait()
	// One that came when the first answer was just taken may have asked again.
	if n := l.count(); n > 2 {
		t.Errorf("asked %d times", n)
	}
}

// Where a signing key was taken away, no list outlives what it had signed.
func TestRecipientsOfAKeyTakenAway(t *testing.T) {
	w := newWorld(t)
	a := w.enrol("bank")
	k1 := a.seals("1")
	l := newLister(t, w)
	l.want("at first", k1)
	w.records = keyOf(t, nkeys.PrefixByteAccount, "records 2")
	w.certificates = []string{w.certificates[0], w.certify(w.records, capability.ForRecords)}
	ring := registry.JoinRing(w.certificates)
	w.store.set(func(s *store) { s.records[registry.RingKey] = ring })
	l.peers.Observe(registry.RingKey, ring)
	a.change(func(*registry.Agent) {})
	if _, err := l.peers.Recipients(t.Context(), a.id); err == nil {
		t.Error("a record that the former key signed still counts")
	}
	a.curve(k1.Recipient().String())
	w.clock.advance(3 * time.Second) // what was refused is not asked for again at once
	l.want("signed anew", k1)
}

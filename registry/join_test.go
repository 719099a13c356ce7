package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

func TestJoin(t *testing.T) {
	w := newWorld(t)
	s, r := w.store(), w.raw()
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, carol)
	secret, expires, err := s.NewJoin(ctx, bob, 0, 0, "admin")
	if err != nil || !expires.Equal(start.Add(registry.DefaultJoinTTL)) {
		t.Fatalf("got %s, %v, want %s", expires, err, start.Add(registry.DefaultJoinTTL))
	}
	// The registry keeps a hash, never the secret.
	stored := r.get(registry.JoinsBucket, "join."+registry.JoinHash(secret))
	if len(stored.Data) == 0 || strings.Contains(string(stored.Data)+stored.Subject, secret) {
		t.Errorf("stored under %s: %s", stored.Subject, stored.Data)
	}

	e := w.enrolment(secret, bob, "bob 1")
	edit := func(f func(*registry.Enrolment)) registry.Enrolment { x := e; f(&x); return x }
	for name, tt := range map[string]struct {
		e    registry.Enrolment
		want denial.Reason
	}{
		"another agent":           {edit(func(e *registry.Enrolment) { e.Agent = carol }), denial.BadJoinToken},
		"an agent that is not":    {edit(func(e *registry.Enrolment) { e.Agent = dave }), denial.BadJoinToken},
		"an unknown token":        {edit(func(e *registry.Enrolment) { e.Hash = registry.JoinHash("other") }), denial.BadJoinToken},
		"no token":                {edit(func(e *registry.Enrolment) { e.Hash = "" }), denial.BadJoinToken},
		"a pattern for a token":   {edit(func(e *registry.Enrolment) { e.Hash = "*" }), denial.BadJoinToken},
		"a long pattern":          {edit(func(e *registry.Enrolment) { e.Hash = "*." + strings.Repeat("A", 41) }), denial.BadJoinToken},
		"the secret for its hash": {edit(func(e *registry.Enrolment) { e.Hash = secret }), denial.BadJoinToken},
		"no key":                  {edit(func(e *registry.Enrolment) { e.Key = "" }), denial.BadInput},
		"an account key":          {edit(func(e *registry.Enrolment) { e.Key = public(t, w.root) }), denial.BadInput},
		"a curve key as the key":  {edit(func(e *registry.Enrolment) { e.Key = e.Curve }), denial.BadInput},
		"another spelling":        {edit(func(e *registry.Enrolment) { e.Key = e.Key[:9] + "\n" + e.Key[9:] }), denial.BadInput},
		"no curve key":            {edit(func(e *registry.Enrolment) { e.Curve = "" }), denial.BadInput},
		"a user key as the curve": {edit(func(e *registry.Enrolment) { e.Curve = e.Key }), denial.BadInput},
		"a broken curve key":      {edit(func(e *registry.Enrolment) { e.Curve = e.Curve[:9] + "\n" + e.Curve[9:] }), denial.BadInput},
	} {
		_, _, err := s.Enrol(ctx, tt.e)
		wantReason(t, name, err, tt.want)
	}

	// None of that cost a use. The one use makes the agent active.
	a, i, err := s.Enrol(ctx, e)
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != registry.Active || a.Epoch != 1 || i.State != registry.Enrolled || i.Epoch != 1 || i.Host != "10.0.0.1" || i.Since != a.Since {
		t.Errorf("got %s in epoch %d, instance %+v", a.Status, a.Epoch, i)
	}
	if p, err := i.Identity(w.ring, start); err != nil || p.Key != e.Key || p.Curve != e.Curve || p.Agent != bob {
		t.Errorf("passport: got %+v, %v", p, err)
	}
	// Used or not, the record ends with the token.
	if ttl := r.get(registry.JoinsBucket, "join."+registry.JoinHash(secret)).Header.Get("Nats-TTL"); ttl == "" {
		t.Error("a join token that was used once stays for ever")
	}

	// The same key again finishes an interrupted run; another one is too many.
	_, again, err := s.Enrol(ctx, e)
	if err != nil || payload(t, again) != payload(t, i) {
		t.Errorf("again: got %+v, %v", again, err)
	}
	_, _, err = s.Enrol(ctx, w.enrolment(secret, bob, "bob 2"))
	wantReason(t, "a second host", err, denial.BadJoinToken)
	_, _, err = s.Enrol(ctx, edit(func(e *registry.Enrolment) { e.Curve = public(t, key(t, nkeys.PrefixByteCurve, "other")) }))
	wantReason(t, "again with another curve key", err, denial.AlreadyExists)
	w.clock.add(registry.DefaultJoinTTL)
	_, _, err = s.Enrol(ctx, e)
	wantReason(t, "again after the end", err, denial.BadJoinToken)

	for name, tt := range map[string]struct {
		ttl  time.Duration
		uses int
	}{
		"a long life": {registry.MaxJoinTTL + 1, 1}, "no life": {time.Millisecond, 1}, "a negative life": {-time.Hour, 1},
		"many uses": {0, registry.MaxJoinUses + 1}, "negative uses": {0, -1},
	} {
		_, _, err := s.NewJoin(ctx, bob, tt.ttl, tt.uses, "admin")
		wantReason(t, name, err, denial.BadInput)
	}
}

func TestJoinExpires(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	w.add(s, bob)
	for _, tt := range []struct {
		after time.Duration
		want  denial.Reason
	}{{59 * time.Second, ""}, {time.Minute, denial.BadJoinToken}, {time.Hour, denial.BadJoinToken}} {
		secret, _, err := s.NewJoin(w.ctx(), bob, time.Minute, 1, "admin")
		if err != nil {
			t.Fatal(err)
		}
		w.clock.add(tt.after)
		_, _, err = s.Enrol(w.ctx(), w.enrolment(secret, bob, fmt.Sprint("bob ", tt.after)))
		wantReason(t, tt.after.String(), err, tt.want)
	}
}

// As many hosts as the token says, and not one more, whoever comes at the same
// time and through whichever replica.
func TestJoinsTogether(t *testing.T) {
	const hosts = 50
	for _, uses := range []int{1, 7, hosts} {
		w := newWorld(t)
		stores := []*registry.Store{w.store(), w.store(), w.store()}
		w.add(stores[0], bob)
		secret, _, err := stores[0].NewJoin(w.ctx(), bob, 0, uses, "admin")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		in, out := map[string]bool{}, 0
		var wg sync.WaitGroup
		for n := range hosts {
			e := w.enrolment(secret, bob, fmt.Sprint("host ", n))
			wg.Go(func() {
				_, i, err := stores[n%3].Enrol(w.ctx(), e)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					in[i.Instance.String()] = true
				case denial.Of(err) == denial.BadJoinToken:
					out++
				default:
					t.Errorf("%d uses: host %d: %v", uses, n, err)
				}
			})
		}
		wg.Wait()
		if len(in) != uses || out != hosts-uses {
			t.Errorf("%d uses: %d enrolled, %d refused", uses, len(in), out)
		}
		list, err := stores[1].Instances(w.ctx(), bob)
		if err != nil || len(list) != uses {
			t.Errorf("%d uses: %d instances, %v", uses, len(list), err)
		}
		for _, i := range list {
			if !in[i.Instance.String()] {
				t.Errorf("instance %s was refused and is registered", i.Instance)
			}
		}
	}
}

// The same host in a hurry: one use, one instance.
func TestSameKeyTogether(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	w.add(stores[0], bob)
	secret, _, err := stores[0].NewJoin(w.ctx(), bob, 0, 1, "admin")
	if err != nil {
		t.Fatal(err)
	}
	e := w.enrolment(secret, bob, "bob 1")
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			if _, _, err := stores[n%2].Enrol(w.ctx(), e); err != nil {
				t.Errorf("enrolling: %v", err)
			}
		})
	}
	wg.Wait()
	if list, err := stores[0].Instances(w.ctx(), bob); err != nil || len(list) != 1 || list[0].Revision != 1 {
		t.Errorf("got %d instances, %v, want 1 that was written once", len(list), err)
	}
}

// One nkey is one instance in the whole mesh, and trying costs no use.
func TestKeyOfAnotherAgent(t *testing.T) {
	w := newWorld(t)
	stores := []*registry.Store{w.store(), w.store()}
	s := stores[0]
	ctx := w.ctx()
	w.add(s, bob)
	w.add(s, carol)
	w.enrol(s, bob, "shared")
	secret, _, err := s.NewJoin(ctx, carol, 0, 1, "admin")
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Enrol(ctx, w.enrolment(secret, carol, "shared"))
	wantReason(t, "bob's key for carol", err, denial.AlreadyExists)
	if got := w.agent(s, carol).Status; got != registry.Pending {
		t.Errorf("carol is %s", got)
	}
	if _, _, err := s.Enrol(ctx, w.enrolment(secret, carol, "carol 1")); err != nil {
		t.Errorf("the refusal cost the use: %v", err)
	}
	// Not even once bob is gone.
	if _, err := s.Revoke(ctx, bob, "admin", ""); err != nil {
		t.Fatal(err)
	}
	wantReason(t, "a revoked agent's key", w.tryEnrol(s, carol, "shared"), denial.AlreadyExists)

	// Both at once: one of them.
	for n := range 10 {
		label := fmt.Sprint("contested ", n)
		ids := []agentid.ID{agentid.Require(fmt.Sprint("x", n)), agentid.Require(fmt.Sprint("y", n))}
		var enrolments []registry.Enrolment
		for _, id := range ids {
			w.add(s, id)
			secret, _, err := s.NewJoin(ctx, id, 0, 1, "admin")
			if err != nil {
				t.Fatal(err)
			}
			enrolments = append(enrolments, w.enrolment(secret, id, label))
		}
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range ids {
			wg.Go(func() { _, _, errs[i] = stores[i].Enrol(ctx, enrolments[i]) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || denial.Of(errors.Join(errs...)) != denial.AlreadyExists {
			t.Errorf("one key, two agents: got %v and %v, want one %s", errs[0], errs[1], denial.AlreadyExists)
		}
	}
}

// Instances that are revoked make room; the rest is bounded.
func TestInstancesAreBounded(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	w.add(s, bob)
	secret, _, err := s.NewJoin(ctx, bob, 0, registry.MaxJoinUses, "admin")
	if err != nil {
		t.Fatal(err)
	}
	// As if they had enrolled one by one.
	r := w.raw()
	for n := range limits.Instances - 1 {
		inst := agentid.InstanceOf(fmt.Sprint("pod ", n))
		r.put(registry.AgentsBucket, registry.InstanceKey(bob, inst), sign(t, &instanceDoc{registry.Instance{
			Agent: bob, Instance: inst, Epoch: 1, Revision: 1, Since: 1, State: registry.Left,
		}}, "instance", w.records))
	}
	if _, _, err := s.Enrol(ctx, w.enrolment(secret, bob, "the last")); err != nil {
		t.Fatal(err)
	}
	_, _, err = s.Enrol(ctx, w.enrolment(secret, bob, "one more"))
	wantReason(t, "one instance more", err, denial.QuotaExceeded)
	if _, err := s.RevokeInstance(ctx, bob, agentid.InstanceOf("pod 3"), "admin", "gone"); err != nil {
		t.Fatal(err)
	}
	if _, _, err = s.Enrol(ctx, w.enrolment(secret, bob, "one more")); err != nil {
		t.Errorf("after one was revoked: %v", err)
	}
}

func TestSetCertificate(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	inst := w.reach(s, registry.Active)
	if err := s.SetCertificate(w.ctx(), bob, inst, registry.Certificate{Serial: "0a", NotAfter: start.Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	i := w.instance(s, bob, inst)
	if i.Serial != "0a" || i.NotAfter != start.Add(time.Hour).Unix() || i.Epoch != 1 || i.State != registry.Online {
		t.Errorf("got %+v", i)
	}
}

func token() registry.JoinToken {
	return registry.JoinToken{URL: "https://control.example:4223", CA: strings.Repeat("c", 43), Agent: bob, Secret: "AAAAAAAAAAAAAAAAAAAAAA"}
}

func TestJoinTokenText(t *testing.T) {
	want := token()
	text := want.Text()
	if got, err := registry.ParseJoinToken(" \n" + text + "\n"); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, s := range []string{fmt.Sprint(want), fmt.Sprintf("%+v", want), fmt.Sprintf("%#v", &want)} {
		if strings.Contains(s, want.Secret) {
			t.Errorf("a token in a log shows its secret: %s", s)
		}
	}
	short := want
	short.Secret = "AAAA"
	for name, text := range map[string]string{
		"empty": "", "no prefix": text[5:], "another prefix": "smj2." + text[5:], "cut": text[:len(text)-4], "padded": text + "==",
		"broken lines": text[:30] + "\n" + text[30:], "a short secret": short.Text(), "no agent": registry.JoinToken{URL: "u", CA: "c", Secret: want.Secret}.Text(),
		"very long": text + strings.Repeat("A", 5000),
	} {
		_, err := registry.ParseJoinToken(text)
		wantReason(t, name, err, denial.BadJoinToken)
		if err != nil && strings.Contains(err.Error(), want.Secret) {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
}

// Whatever is taken for a join token is spelt in the one way, and nothing else
// than a bad join token is the reason for a refusal.
func FuzzParseJoinToken(f *testing.F) {
	f.Add(token().Text())
	f.Add("smj1.")
	f.Add("smj1.eyJ1cmwiOiJ1In0")
	f.Fuzz(func(t *testing.T, text string) {
		j, err := registry.ParseJoinToken(text)
		if err != nil {
			wantReason(t, "refusal", err, denial.BadJoinToken)
			return
		}
		if j.Text() != strings.TrimSpace(text) {
			t.Errorf("%q is another spelling of %q", text, j.Text())
		}
	})
}

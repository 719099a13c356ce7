package registry_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

func signGone(t testing.TB, g registry.Gone, kp nkeys.KeyPair) string {
	t.Helper()
	g.Head = jws.Head{Kind: "gone", IssuedAt: start.Unix()}
	text, err := jws.Sign(&g, kp)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestGone(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	inst, other := agentid.InstanceOf("bob"), agentid.InstanceOf("carol")
	epoch := envelope.Epoch{Agent: 3, Instance: 1}
	at := start.Add(-2 * time.Second)
	text, err := s.SignGone(bob, inst, epoch, at)
	if err != nil {
		t.Fatal(err)
	}
	g, e, err := registry.DecodeGone(text, bob, inst, w.ring, start)
	if err != nil || g.Agent != bob || g.Instance != inst || e != epoch || g.At != at.UnixMilli() {
		t.Fatalf("got %+v, %s, %v", g, e, err)
	}
	for _, tt := range []struct {
		name  string
		agent agentid.ID
		inst  agentid.Instance
		at    time.Time
		want  denial.Reason
	}{
		{"of another agent", carol, inst, start, denial.BadRecord},
		{"of another instance", bob, other, start, denial.BadRecord},
		{"of nobody", agentid.ID{}, inst, start, denial.BadRecord},
		{"of no instance", bob, agentid.Instance{}, start, denial.BadRecord},
		{"as old as it may be", bob, inst, at.Add(limits.Ahead), ""},
		{"too old", bob, inst, at.Add(limits.Ahead + time.Millisecond), denial.Stale},
		{"of a clock that is ahead", bob, inst, at.Add(-limits.Ahead), ""},
		{"too far ahead", bob, inst, at.Add(-limits.Ahead - time.Millisecond), denial.Stale},
	} {
		_, _, err := registry.DecodeGone(text, tt.agent, tt.inst, w.ring, tt.at)
		wantReason(t, tt.name, err, tt.want)
	}
	if _, err := s.SignGone(agentid.ID{}, inst, epoch, at); err == nil {
		t.Error("nobody is signed for")
	}
	// No other document is one, and it is no other.
	if _, err := registry.DecodeTick(text, w.ring, start); denial.Of(err) != denial.WrongKind {
		t.Errorf("as a tick: got %v", err)
	}
	if _, err := registry.DecodeInstance(text, bob, inst, w.ring, start); denial.Of(err) != denial.WrongKind {
		t.Errorf("as a record: got %v", err)
	}
	// The key that signs root tokens has no say in who is there.
	forged := signGone(t, registry.Gone{Agent: bob, Instance: inst, Epoch: "3.1", At: start.UnixMilli()}, w.tokens)
	if _, _, err := registry.DecodeGone(forged, bob, inst, w.ring, start); err == nil {
		t.Error("the tokens key is believed")
	}
	for _, epoch := range []string{"", "3", "3.1.1", "03.1", "-3.1", "3.1 "} {
		odd := signGone(t, registry.Gone{Agent: bob, Instance: inst, Epoch: epoch, At: start.UnixMilli()}, w.records)
		if _, _, err := registry.DecodeGone(odd, bob, inst, w.ring, start); err == nil {
			t.Errorf("epoch %q is taken", epoch)
		}
	}
}

// Reading any text as a word of somebody who is gone never panics, and only the signed
// one is one.
func FuzzDecodeGone(f *testing.F) {
	root, records := key(f, nkeys.PrefixByteAccount, "root"), key(f, nkeys.PrefixByteAccount, "records")
	ring := newRing(f, root, certify(f, root, records, capability.ForRecords))
	inst := agentid.InstanceOf("bob")
	good := signGone(f, registry.Gone{Agent: bob, Instance: inst, Epoch: "3.1", At: start.UnixMilli()}, records)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(jws.Digest("x"))
	f.Fuzz(func(t *testing.T, text string) {
		g, _, err := registry.DecodeGone(text, bob, inst, ring, start)
		if (err == nil) != (text == good) || (g == nil) != (err != nil) {
			t.Fatalf("%q: got %v, %v", text, g, err)
		}
		if err != nil && denial.Of(err) == "" {
			t.Fatalf("%q: %v has no reason", text, err)
		}
	})
}

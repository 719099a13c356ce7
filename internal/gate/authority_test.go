package gate_test

import (
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// lent makes a chain of the given number of delegations, from first over others
// to the last, all of whom are known to the receiver afterwards.
func lent(w *world, names ...string) *capability.Chain {
	w.t.Helper()
	from := w.enrol(names[0], "read:logs")
	c := w.verify(w.store.chains[from.chain])
	for i, name := range names[1:] {
		to := w.enrol(name)
		d := capability.Delegation{To: to.id, Scopes: scopesOf("read:logs"), Expires: w.clock.Now().Add(time.Hour)}
		if more := len(names) - 2 - i; more > 0 {
			d.Delegatable, d.Depth = d.Scopes, more
		}
		c = w.verify(must[string](w.t)(capability.Delegate(c, from.pair, from.instance.Passport, d, w.clock.Now())))
		from = to
	}
	w.putChain(c)
	wantReason(w.t, w.gate.Covers(w.t.Context(), c.Digest(), readLogs, c.Holder(), false), "")
	return c
}

// What is known already costs no memory: a receiver asks this of every message,
// and garbage for each would be a sender's lever on it.
func TestKnownAuthorityAllocatesNothing(t *testing.T) {
	for _, names := range [][]string{{"a"}, {"a", "b"}, {"a", "b", "c"}, {"a", "b", "c", "d"}} {
		w := newWorld(t)
		c := lent(w, names...)
		ctx, digest, holder := t.Context(), c.Digest(), c.Holder()
		reads := w.store.count()
		if n := testing.AllocsPerRun(200, func() {
			if err := w.gate.Covers(ctx, digest, readLogs, holder, false); err != nil {
				t.Error(err)
			}
		}); n != 0 {
			t.Errorf("a chain of %d tokens: got %v allocations, want none", len(names), n)
		}
		if w.store.count() != reads {
			t.Errorf("a chain of %d tokens: known records were read", len(names))
		}
		// Yet each use asks: what changes counts at once.
		w.peers.Observe(names[0], w.suspended(names[0]))
		wantReason(t, w.gate.Covers(ctx, digest, readLogs, holder, false), denial.DelegatorCut)
	}
}

// suspended returns the record of an agent of the world, suspended.
func (w *world) suspended(name string) string {
	a := &actor{w: w, id: agentid.Require(name)}
	known := must[*registry.Agent](w.t)(w.peers.Agent(w.t.Context(), a.id))
	a.agent = *known
	return a.change(suspend)
}

// BenchmarkKnownAuthority is what a receiver pays for the authority of a message
// whose chain it has verified before and all of whose agents it knows: the chain's
// digest, its holder, the scope, the window, and the standing of everybody in it.
// Target for a chain of three: 2 µs and no allocation.
func BenchmarkKnownAuthority(b *testing.B) {
	for _, bb := range []struct {
		name  string
		names []string
	}{{"root", []string{"a"}}, {"chain=2", []string{"a", "b"}}, {"chain=3", []string{"a", "b", "c"}}} {
		b.Run(bb.name, func(b *testing.B) {
			w := newWorld(b)
			c := lent(w, bb.names...)
			ctx, digest, holder := b.Context(), c.Digest(), c.Holder()
			b.ReportAllocs()
			for b.Loop() {
				if err := w.gate.Covers(ctx, digest, readLogs, holder, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	// Beside verifying it each time, by turns.
	b.Run("chain=3/ratio", func(b *testing.B) {
		w := newWorld(b)
		c := lent(w, "a", "b", "c")
		ctx, digest, holder := b.Context(), c.Digest(), c.Holder()
		var known, cold []time.Duration
		for b.Loop() {
			start := time.Now()
			if err := w.gate.Covers(ctx, digest, readLogs, holder, false); err != nil {
				b.Fatal(err)
			}
			middle := time.Now()
			if _, err := capability.Verify(c.Text(), w.ring, w.clock.Now()); err != nil {
				b.Fatal(err)
			}
			known, cold = append(known, middle.Sub(start)), append(cold, time.Since(middle))
		}
		slices.Sort(known)
		slices.Sort(cold)
		n := len(known) / 2
		b.ReportMetric(float64(known[n]), "ns-known")
		b.ReportMetric(float64(cold[n]), "ns-verify")
		b.ReportMetric(float64(known[n])/float64(cold[n]), "ratio")
	})
}

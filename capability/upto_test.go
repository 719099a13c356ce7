package capability_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/capability"
)

// Every beginning of a chain is the chain that its next holder was handed.
func TestUpTo(t *testing.T) {
	w := newWorld(t)
	chain := w.three()
	if chain.UpTo(0) != "" || (*capability.Chain)(nil).UpTo(1) != "" {
		t.Error("got a chain of no tokens, want nothing")
	}
	hops := chain.Hops()
	for n := 1; n <= len(hops)+1; n++ {
		part := w.verify(chain.UpTo(n))
		want := min(n, len(hops))
		if got := part.Hops(); len(got) != want || got[want-1].Token != hops[want-1].Token || part.Holder() != hops[want-1].To {
			t.Errorf("%d tokens: got %d, held by %s", n, len(got), part.Holder())
		}
	}
	if chain.UpTo(len(hops)) != chain.Text() {
		t.Error("all tokens are not the chain")
	}
}

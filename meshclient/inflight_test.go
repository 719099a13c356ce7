package meshclient_test

import (
	"slices"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/meshclient"
)

// Whatever comes and goes in whatever order, a change has those looked at that are in
// flight, each once, and none is left behind at the end.
func FuzzWatches(f *testing.F) {
	f.Add([]byte{0, 1, 0x80, 2, 0x40, 0x81, 0x41, 0x80})
	f.Add([]byte{0, 0, 0, 0x81, 0x80, 0x82, 0x40, 0x42, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		ids := []agentid.ID{agentid.Require("a"), agentid.Require("b"), agentid.Require("c")}
		var w meshclient.Watches
		var of []int // which agent each call rests on; -1: it is over
		for _, op := range script {
			n := int(op & 0x3f)
			switch {
			case op&0x80 != 0:
				if n < len(of) {
					w.Drop(n)
					of[n] = -1
				}
			case op&0x40 != 0:
				id := n % len(ids)
				var want []int
				for i, a := range of {
					if a == id {
						want = append(want, i)
					}
				}
				got := w.Changed(ids[id], ids[id])
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Fatalf("got %v to look at, want %v", got, want)
				}
			default:
				w.Add(ids[n%len(ids)])
				of = append(of, n%len(ids))
			}
		}
		for n := range of {
			w.Drop(n)
		}
		if !w.Empty() || w.Changed(ids...) != nil {
			t.Fatal("something is left behind")
		}
	})
}

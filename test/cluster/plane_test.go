//go:build unix

package cluster_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/test/stock/process"
)

// Of two control planes either may die, or both stand still for longer than an
// agent may be silent.
func TestControlPlanes(t *testing.T) {
	wanted(t)
	t.Parallel()
	w := newWorld(t, 20*time.Second)

	// Whichever of them would have been the first, the other one expires the dead.
	for i, name := range w.names {
		if !w.run("killed before an expiry "+name, func(t *testing.T) {
			id, p := w.victim(1)
			began := time.Now()
			p.Kill()
			w.pause(w.timeout - 2*time.Second)
			w.planes[i].Kill()
			w.expires(id)
			for _, d := range w.duos {
				w.undisturbed(d, began)
			}
			w.unharmed()
			w.planes[i] = w.StartReplica(name)
			w.planes[i].Await(process.PlaneUp)
		}) {
			return
		}
	}

	w.run("both stopped", func(t *testing.T) {
		id, p := w.victim(2)
		for _, p := range w.planes {
			p.Signal(syscall.SIGSTOP)
		}
		began := time.Now()
		p.Kill()
		w.pause(w.timeout + 5*time.Second)
		for _, d := range w.duos {
			w.undisturbed(d, began)
		}
		for _, p := range w.planes {
			p.Signal(syscall.SIGCONT)
		}
		woken := time.Now()
		w.expires(id)
		if took := time.Since(woken); took < w.timeout/2 {
			t.Errorf("%s was expired %s after the control planes woke: they had not listened long enough to know", id, took)
		}
		w.unharmed()
		for _, d := range w.duos {
			w.undisturbed(d, began)
		}
	})
}

package rotation_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/test/rotation/load"
)

var (
	rotations = flag.Int("rotations", 0, "how often TestRotations replaces each connection; 0 leaves it out")
	least     = flag.Duration("least", time.Minute, "how long each part of TestRotations keeps up the load at least")
	life      = flag.Duration("life", 0, "how long certificates live in TestMinutes; 0 leaves it out")
	minutes   = flag.Duration("for", 10*time.Minute, "how long TestMinutes takes")
)

// What the load of the long forms is, of all agents together.
const (
	callsASecond  = 1000
	eventsASecond = 1000
)

// The proof in small: every connection is replaced under load, and nothing is
// lost, nothing comes twice, nothing fails.
func TestRotation(t *testing.T) {
	t.Parallel()
	m := up(t, devmesh.Options{})
	// Other packages are tested beside this one.
	loaded(t, m, load.Options{For: 3 * time.Second, Calls: 200, Events: 200, Rotations: 1, Every: 50 * time.Millisecond})
}

// The proof: every connection is replaced 200 times, while the control plane stays,
// while it is restarted again and again, and on a cluster of three.
//
//	make rotation
func TestRotations(t *testing.T) {
	if *rotations == 0 {
		t.Skip("LEFT OUT: takes minutes; make rotation runs it")
	}
	o := load.Options{For: *least, Rotations: *rotations, Every: 50 * time.Millisecond}
	t.Run("one server", func(t *testing.T) {
		loaded(t, up(t, devmesh.Options{}), o)
	})
	// A renewal that found no control plane is tried again after a part of the
	// certificate's life.
	short := func(o *meshdir.InitOptions) { o.Certificate.TTL = 5 * time.Minute }
	t.Run("a control plane that restarts", func(t *testing.T) {
		m := up(t, devmesh.Options{Configure: short})
		loaded(t, m, restarting(t, m, o))
	})
	t.Run("three servers", func(t *testing.T) {
		o := o
		o.Nodes = 3
		loaded(t, up(t, devmesh.Options{Nodes: 3}), o)
	})
	t.Run("three servers and a control plane that restarts", func(t *testing.T) {
		o := o
		o.Nodes = 3
		m := up(t, devmesh.Options{Nodes: 3, Configure: short})
		loaded(t, m, restarting(t, m, o))
	})
}

// Ten agents under load, whose certificates live a minute: everybody's is replaced
// again and again, and with it key and connection, and nobody notices. Memory and
// goroutines stay what they were.
//
//	make rotation-minutes LIFE=1m FOR=10m
func TestMinutes(t *testing.T) {
	if *life == 0 {
		t.Skip("LEFT OUT: takes minutes; make rotation-minutes runs it")
	}
	m := up(t, devmesh.Options{Configure: func(o *meshdir.InitOptions) { o.Certificate.TTL = *life }})
	r := loaded(t, m, load.Options{For: *minutes})
	// Renewed at half of its life, it is replaced about twice in each: once is the least.
	for agent, n := range r.Certificates {
		if want := int(*minutes / *life); n-1 < want {
			t.Errorf("the certificate of %s was replaced %d times, want at least %d", agent, n-1, want)
		}
	}
	if why := r.Grown(); why != "" {
		t.Error(why)
	}
}

// up starts a mesh that ends with the test.
func up(t *testing.T, o devmesh.Options) *devmesh.Mesh {
	t.Helper()
	o.Log, o.ClientLog = zerolog.Nop(), zerolog.Nop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// restarting has the control plane restarted every few seconds once the load has begun.
func restarting(t *testing.T, m *devmesh.Mesh, o load.Options) load.Options {
	ctx, stop := context.WithCancel(t.Context())
	begun := make(chan struct{})
	var once sync.Once
	o.Progress = func(load.Sample) { once.Do(func() { close(begun) }) }
	var done sync.WaitGroup
	restarts := 0
	done.Go(func() {
		select {
		case <-begun:
		case <-ctx.Done():
			return
		}
		for {
			if err := m.DownPlane(); err != nil {
				t.Errorf("stopping the control plane: %v", err)
				return
			}
			time.Sleep(time.Second) // how long it is away, not what is waited for
			if err := m.UpPlane(context.WithoutCancel(ctx)); err != nil {
				t.Errorf("starting the control plane: %v", err)
				return
			}
			restarts++
			select {
			case <-time.After(10 * time.Second):
			case <-ctx.Done():
				return
			}
		}
	})
	t.Cleanup(func() { // before that of up
		stop()
		done.Wait()
		t.Logf("the control plane was restarted %d times", restarts)
		if restarts == 0 {
			t.Error("the control plane was not restarted")
		}
	})
	return o
}

// turn has an agent's connection replaced, as `sealmesh agent rotate` does.
func turn(m *devmesh.Mesh) func(context.Context, string) error {
	return func(ctx context.Context, agent string) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return m.Operate(ctx, wire.AdminRequest{Op: wire.OpRotate, Target: agent, Over: time.Millisecond}, nil)
	}
}

// loaded runs a load over a mesh and fails where anything was lost, doubled or
// refused, or where fewer connections were replaced than was asked for.
func loaded(t *testing.T, m *devmesh.Mesh, o load.Options) load.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*o.For+time.Duration(o.Rotations)*10*time.Second+5*time.Minute)
	defer cancel()
	if o.Rotations > 0 {
		o.Turn = turn(m)
	}
	if o.Calls == 0 {
		o.Calls, o.Events = callsASecond, eventsASecond
	}
	if testing.Verbose() {
		fmt.Println(load.Header())
	}
	progress := o.Progress
	o.Progress = func(s load.Sample) {
		if testing.Verbose() {
			fmt.Println(s) // at once, of a test that takes minutes
		}
		if progress != nil {
			progress(s)
		}
	}
	r, err := load.Run(ctx, m, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(r)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	for agent, n := range r.Rotations {
		if o.Turn != nil && n < int64(o.Rotations) {
			t.Errorf("the connection of %s was replaced %d times, want %d", agent, n, o.Rotations)
		}
	}
	return r
}

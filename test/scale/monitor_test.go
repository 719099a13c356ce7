package scale_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

var (
	instances = flag.Int("instances", 0, "how many instances TestMonitor lets beat; 0 leaves it out")
	interval  = flag.Duration("interval", 30*time.Second, "how often each of them beats")
)

// What the monitor may take with 10,000 instances that beat every 30 s.
const (
	cpuMost      = 0.10 // of one core
	heapMost     = 100 << 20
	latestMost   = 2 * time.Second // after the time-out
	killed       = 10
	killedBeside = 3 // while one agent floods
)

// The monitor of a control plane, with real beats of many instances, at the rate
// of life: what it costs, how soon it notices that some of them died, also while
// one sends beats as fast as it can. It prints what it finds.
//
//	make monitor-scale
func TestMonitor(t *testing.T) {
	if *instances == 0 {
		t.Skip("LEFT OUT: takes minutes; make monitor-scale runs it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute+8**interval)
	defer cancel()
	mesh := up(t, ctx)
	// The first one founds the registry, and shows what none of them costs.
	p, empty, err := startPlane(mesh.Dir)
	if err == nil {
		err = p.stop()
	}
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	c, err := newCrowd(ctx, mesh, *instances)
	if err != nil {
		t.Fatal(err)
	}
	defer c.nc.Close()
	fmt.Printf("%d instances enrolled in %v\n", *instances, time.Since(begin).Round(time.Second))
	if p, _, err = startPlane(mesh.Dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.stop(); err != nil {
			t.Error(err)
		}
	}()

	beating, stop := context.WithCancel(ctx)
	over := make(chan error, 1)
	go func() { over <- c.beat(beating, *interval) }()
	defer func() {
		stop()
		if err := <-over; err != nil {
			t.Error(err)
		}
	}()
	wait(ctx, *interval+*interval/2) // everybody was heard, and every record read
	before, start := measured(t, p), time.Now()
	wait(ctx, 3**interval)
	after, took := measured(t, p), time.Since(start)
	// At the rate of one beat in 30 s, whatever was asked for here.
	cpu := float64(after.CPU-before.CPU) / float64(took) * float64(*interval) / float64(30*time.Second)
	heap := int64(after.Heap) - int64(empty.Heap)
	fmt.Printf("control plane: %.2f %% of a core, %.1f MB of heap (%.1f MB without them), %.0f beats/s\n",
		100*cpu, float64(heap)/(1<<20), float64(empty.Heap)/(1<<20), float64(*instances)/interval.Seconds())

	timeout := time.Duration(mesh.Config.Heartbeat.Timeout)
	silences, err := c.kill(ctx, 0, killed)
	if err != nil {
		t.Fatal(err)
	}
	report("detected", silences, timeout)
	if late := slices.Max(silences) - timeout; late > latestMost {
		t.Errorf("the last of %d deaths was noticed %v after the time-out, want at most %v", killed, late, latestMost)
	}
	fair(t, ctx, mesh, false)

	c.flooder = c.members[len(c.members)-1]
	flooding, calm := context.WithCancel(ctx)
	flooded := make(chan int, 1)
	go func() { flooded <- flood(flooding, t, c) }()
	silences, err = c.kill(ctx, 1, killedBeside)
	if err != nil {
		t.Fatal(err)
	}
	r := fair(t, ctx, mesh, true)
	calm()
	n := <-flooded
	fmt.Printf("a flood of %.0f beats/s: %d gaps, %d blind spells\n", float64(n)/slices.Max(silences).Seconds(), r.Gaps, r.Blinds)
	report("detected during it", silences, timeout)

	if *instances == 10_000 {
		if cpu > cpuMost {
			t.Errorf("%.1f %% of a core, want at most %.0f %%", 100*cpu, 100*cpuMost)
		}
		if heap > heapMost {
			t.Errorf("%d bytes of heap, want at most %d", heap, heapMost)
		}
	}
}

// up starts a nats-server for a mesh in a directory.
func up(t *testing.T, ctx context.Context) *meshdir.Mesh {
	t.Helper()
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // only its address was wanted
		return l.Addr().String()
	}
	mesh, err := meshdir.Init(t.TempDir()+"/mesh", meshdir.InitOptions{
		NATSListen: free(), ControlListen: free(), Heartbeat: meshdir.Heartbeat{Interval: *interval},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := natsserver.Start(ctx, natsserver.Config{File: mesh.ServerConf(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Close)
	if err := srv.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	return mesh
}

func measured(t *testing.T, p *plane) usage {
	t.Helper()
	u, err := p.usage()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func report(what string, silences []time.Duration, timeout time.Duration) {
	slices.Sort(silences)
	late := func(d time.Duration) time.Duration { return (d - timeout).Round(time.Millisecond) }
	fmt.Printf("%d deaths %s: p50 %v, max %v after the time-out of %v\n",
		len(silences), what, late(silences[len(silences)/2]), late(silences[len(silences)-1]), timeout)
}

// flood sends the beats of one instance as fast as it can, each of which costs the
// most to refuse: all of it is right but the signature.
func flood(ctx context.Context, t *testing.T, c *crowd) (n int) {
	nc, err := connect(c.mesh)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer nc.Close()
	m := c.flooder
	m.dead.Store(true) // its own voice is not to be heard through it
	msg, err := m.message()
	if err != nil {
		t.Error(err)
		return 0
	}
	msg = &nats.Msg{Subject: msg.Subject, Header: msg.Header, Data: append(msg.Data, ' ')}
	for ; ctx.Err() == nil; n++ {
		if err := nc.PublishMsg(msg); err != nil {
			t.Error(err)
			return n
		}
	}
	return n
}

// fair asks, as an operator, how the monitor fares: it judges all the time.
func fair(t *testing.T, ctx context.Context, mesh *meshdir.Mesh, flooded bool) wire.MonitorReplica {
	t.Helper()
	admin, err := meshclient.Connect(ctx, meshclient.As(mesh.AgentDir("admin")), meshclient.Log(zerolog.Nop()))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close() //nolint:errcheck // only asked
	body, err := json.Marshal(wire.AdminRequest{Op: wire.OpMonitor, Monitor: wire.MonitorStatusOf})
	if err != nil {
		t.Fatal(err)
	}
	reply, err := admin.Call(ctx, wire.AdminScope, body)
	if err != nil {
		t.Fatal(err)
	}
	var s wire.MonitorStatus
	if err := json.Unmarshal(reply.Data, &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Replicas) != 1 {
		t.Fatalf("got %+v, want one replica", s)
	}
	r := s.Replicas[0]
	if r.State == "held" || r.State == "blind" || r.Gaps != 0 || flooded != (len(r.Flooding) == 1) {
		t.Errorf("got %+v, want it judging", r)
	}
	return r
}

package meshclient_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// soak is how long TestSoak takes. Only a long run says anything about rates and
// memory; the short one of every day shows that nothing is lost.
var soak = flag.Duration("soak", 2*time.Second, "how long TestSoak keeps the mesh under load")

// What the mesh has to bear. Several callers, because one sender may have a
// bounded number of nonces in use.
const (
	soakThinking = 50 // handlers that answer when all is over
	soakCallers  = 8
	soakAtOnce   = 2 // calls of each caller at a time
)

// TestSoak keeps callers in a closed loop while fifty handlers of another agent
// think for as long as it all takes. Nothing may fail, and every answer comes. For
// each tenth of the time it logs calls a second, memory, and what the shared
// store holds:
//
//	make soak
func TestSoak(t *testing.T) {
	t.Parallel()
	o := quiet()
	if *soak >= time.Minute {
		o.Session = *soak / 4 // every connection is replaced a few times
	}
	m := mesh(t, o)
	ctx := within(t, *soak+5*time.Minute)
	replay, err := streams(t, m).Stream(ctx, subject.KVStream(natsconf.ReplayBucket))
	if err != nil {
		t.Fatal(err)
	}
	enrol := func(id string, r registry.Rights) *meshclient.Mesh { return connected(t, m, enrolled(t, m, id, r)) }
	thinker := enrol("thinker", registry.Rights{Handle: scopes("do:think")})
	worker := enrol("worker", registry.Rights{Handle: scopes("do:work")})
	patient := enrol("patient", registry.Rights{Call: scopes("do:think")})
	everybody := []*meshclient.Mesh{thinker, worker, patient}
	var callers []*meshclient.Mesh
	for i := range soakCallers {
		callers = append(callers, enrol(fmt.Sprint("caller", i), registry.Rights{Call: scopes("do:work")}))
	}
	everybody = append(everybody, callers...)

	release := make(chan struct{})
	thinking := make(chan struct{}, soakThinking)
	handle(t, thinker, "do:think", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		thinking <- struct{}{}
		select {
		case <-release:
			return req.Data, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	handle(t, worker, "do:work", echo)
	// asked makes one call and checks that the answer is that of this very call.
	asked := func(c *meshclient.Mesh, scope string, n uint64) error {
		data := binary.BigEndian.AppendUint64(make([]byte, 0, 256), n)[:256]
		reply, err := c.Call(context.WithoutCancel(ctx), scope, data)
		if err == nil && (len(reply.Data) != len(data) || binary.BigEndian.Uint64(reply.Data) != n) {
			err = fmt.Errorf("answer to another call")
		}
		return err
	}
	var late sync.WaitGroup
	for i := range soakThinking {
		late.Go(func() {
			if err := asked(patient, "do:think", uint64(i)); err != nil {
				t.Errorf("call %d, which waits all the time: %v", i, err)
			}
		})
	}
	for range soakThinking {
		select {
		case <-thinking:
		case <-ctx.Done():
			t.Fatal("not everything to be thought about arrived")
		}
	}

	var made, failed atomic.Int64
	run, stop := context.WithTimeout(ctx, *soak)
	defer stop()
	var load sync.WaitGroup
	for _, c := range callers {
		for range soakAtOnce {
			load.Go(func() {
				for run.Err() == nil {
					n := made.Add(1)
					if err := asked(c, "do:work", uint64(n)); err != nil {
						if failed.Add(1) <= 10 {
							t.Errorf("call %d: %v", n, err)
						}
					}
				}
			})
		}
	}
	first, last := watchLoad(t, run, replay, &made, everybody)
	load.Wait()
	t.Logf("%d calls, %d of them failed; the last tenth made %.2f times the calls of the first", made.Load(), failed.Load(), last/first)
	close(release)
	late.Wait()
	for _, e := range everybody {
		for e.UnderWay() != 0 {
			select {
			case <-ctx.Done():
				t.Fatalf("%d calls are still under way at %s", e.UnderWay(), e.ID())
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

// watchLoad logs a line for each tenth of the time, and returns the calls a second
// of the first and the last.
func watchLoad(t *testing.T, run context.Context, replay jetstream.Stream, made *atomic.Int64, all []*meshclient.Mesh) (first, last float64) {
	end, _ := run.Deadline()
	start := time.Now()
	every := time.Until(end) / 10
	var before int64
	at := start
	t.Logf("%8s %9s %10s %10s %11s %10s %9s %10s", "after", "calls/s", "heap MiB", "goroutines", "replay keys", "replay MiB", "under way", "rotations")
	for i := 1; i <= 10; i++ {
		select {
		case <-time.After(time.Until(start.Add(time.Duration(i) * every))):
		case <-t.Context().Done():
			return 1, 1
		}
		now, n := time.Now(), made.Load()
		rate := float64(n-before) / now.Sub(at).Seconds()
		before, at = n, now
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		var state jetstream.StreamState
		if info, err := replay.Info(context.WithoutCancel(run)); err != nil {
			t.Errorf("asking for the shared store: %v", err)
		} else {
			state = info.State
		}
		underWay, rotations := 0, int64(0)
		for _, m := range all {
			underWay, rotations = underWay+m.UnderWay(), rotations+m.Rotations()
		}
		t.Logf("%8s %9.0f %10d %10d %11d %10d %9d %10d", now.Sub(start).Round(100*time.Millisecond), rate,
			mem.HeapInuse>>20, runtime.NumGoroutine(), state.Msgs, state.Bytes>>20, underWay, rotations)
		if i == 1 {
			first = rate
		}
		last = rate
	}
	return max(first, 1), last
}

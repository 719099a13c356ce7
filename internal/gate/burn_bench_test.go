package gate_test

import (
	"context"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// What the shared replay check costs beside the bare writes that it is made of,
// on the same stream, through the same import, by turns:
//
//	go test -run '^$' -bench Burn ./internal/gate

const inFlight = 256 // writes that wait for their answer at a time

// BenchmarkBurn gives the rate of bare writes that are pipelined on one
// connection, that of the check under as many goroutines, and their ratio; then
// the medians of one at a time.
func BenchmarkBurn(b *testing.B) {
	m := natstest.Start(b)
	inMesh := must[jetstream.JetStream](b)(jetstream.NewWithAPIPrefix(m.Service, natsconf.StoreAPI))
	must[jetstream.Stream](b)(inMesh.CreateStream(b.Context(), natsconf.Replay(5*time.Minute, 1)))
	grant := []string{subject.ReplayGrant(natsconf.ReplayBucket, "read.logs")}
	nc, _ := m.Connect(b, "reader", grant, nil)
	plain, other := m.Connect(b, "reader", grant, nil)
	burner := &gate.NATSBurner{Conn: conn(nc)}
	sender := agentid.Require("writer")
	bare := newBareWrites(b, plain, other.Inbox()+".bare.")

	b.Run("load", func(b *testing.B) {
		const batch = 4096
		var took [2]time.Duration
		var ratios []float64
		rounds := 0
		var made [2]uint64 // allocations, those of the server in this process included
		for b.Loop() {
			rounds++
			before, start := allocations(), time.Now()
			bare.pipeline(b, batch)
			one := time.Since(start)
			between, start := allocations(), time.Now()
			burnMany(b, burner, sender, batch)
			two := time.Since(start)
			made[0], made[1] = made[0]+between-before, made[1]+allocations()-between
			took[0], took[1] = took[0]+one, took[1]+two
			ratios = append(ratios, float64(one)/float64(two))
		}
		slices.Sort(ratios)
		b.ReportMetric(float64(rounds*batch)/took[0].Seconds(), "bare/s")
		b.ReportMetric(float64(rounds*batch)/took[1].Seconds(), "burns/s")
		b.ReportMetric(ratios[len(ratios)/2], "ratio")
		b.ReportMetric((float64(made[1])-float64(made[0]))/float64(rounds*batch), "allocs-over-bare")
	})
	b.Run("single", func(b *testing.B) {
		var one, two []time.Duration
		for b.Loop() {
			start := time.Now()
			bare.one(b)
			middle := time.Now()
			if err := burner.Burn(b.Context(), "read.logs", sender, envelope.NewNonce()); err != nil {
				b.Fatal(err)
			}
			one, two = append(one, middle.Sub(start)), append(two, time.Since(middle))
		}
		slices.Sort(one)
		slices.Sort(two)
		n := len(one) / 2
		b.ReportMetric(float64(one[n].Nanoseconds())/1e3, "µs-bare")
		b.ReportMetric(float64(two[n].Nanoseconds())/1e3, "µs-burn")
		b.ReportMetric(float64(two[n])/float64(one[n]), "ratio")
	})
}

func allocations() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

func burnMany(b *testing.B, burner gate.Burner, sender agentid.ID, n int) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wg sync.WaitGroup
	var next atomic.Int64
	for range inFlight {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := burner.Burn(ctx, "read.logs", sender, envelope.NewNonce()); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// bareWrites publishes into the stream and waits for answers, and does nothing
// else.
type bareWrites struct {
	nc     *nats.Conn
	prefix string
	run    string // makes the subjects of this process new
	sent   int
	came   chan struct{}
}

func newBareWrites(b *testing.B, nc *nats.Conn, prefix string) *bareWrites {
	w := &bareWrites{nc: nc, prefix: prefix, run: envelope.NewNonce(), came: make(chan struct{}, inFlight)}
	must[*nats.Subscription](b)(nc.Subscribe(prefix+"*", func(*nats.Msg) { w.came <- struct{}{} }))
	return w
}

func (w *bareWrites) send(b *testing.B) {
	w.sent++
	n := strconv.Itoa(w.sent)
	if err := w.nc.PublishRequest("$KV.MESH_REPLAY.read.logs.writer."+w.run+n, w.prefix+n, nil); err != nil {
		b.Fatal(err)
	}
}

func (w *bareWrites) pipeline(b *testing.B, n int) {
	for i := range n {
		if i >= inFlight {
			<-w.came
		}
		w.send(b)
	}
	for range min(n, inFlight) {
		<-w.came
	}
}

func (w *bareWrites) one(b *testing.B) {
	w.send(b)
	<-w.came
}

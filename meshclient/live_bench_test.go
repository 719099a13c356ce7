package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// report gives the median and the 99th of a hundred.
func report(b *testing.B, what string, took []time.Duration) {
	slices.Sort(took)
	at := func(share float64) float64 {
		return float64(took[int(share*float64(len(took)-1))].Microseconds()) / 1000
	}
	b.ReportMetric(at(0.5), what+"-p50-ms")
	b.ReportMetric(at(0.99), what+"-p99-ms")
}

// BenchmarkDelegate measures how long lending takes, and how long after that the
// other agent's first call works.
func BenchmarkDelegate(b *testing.B) {
	m := mesh(b, quiet())
	ctx := within(b, 5*time.Minute)
	reader := connected(b, m, enrolled(b, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	if err := reader.Handle("read:logs", echo); err != nil {
		b.Fatal(err)
	}
	boss := connected(b, m, enrolled(b, m, "boss", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")}))
	const agents = 50
	temps := make([]*meshclient.Mesh, agents)
	granted := make(chan time.Time, 1)
	for i := range temps {
		temps[i] = connected(b, m, enrolled(b, m, fmt.Sprint("temp", i), registry.Rights{}), meshclient.OnGrant(func() {
			select {
			case granted <- time.Now():
			default:
			}
		}))
	}
	var lend, told, call []time.Duration
	b.ResetTimer()
	for i := range min(b.N, agents) {
		begin := time.Now()
		if _, err := boss.Delegate(ctx, temps[i].ID().String(), meshclient.Grant{Scopes: []string{"read:logs"}}); err != nil {
			b.Fatal(err)
		}
		lent := time.Now()
		for {
			if _, err := temps[i].Call(ctx, "read:logs", nil); err == nil {
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
		lend, call, told = append(lend, lent.Sub(begin)), append(call, time.Since(lent)), append(told, (<-granted).Sub(lent))
	}
	b.StopTimer()
	report(b, "lend", lend)
	report(b, "told", told)
	report(b, "first-call", call)
}

// BenchmarkCutOfDelegator measures how long after the beginning of a suspension a
// delegate has its last call accepted, goes on with what is its own, and has no
// connection any more where it would stay.
func BenchmarkCutOfDelegator(b *testing.B) {
	const cuts, each = 100, 50 // what one agent may present is bounded
	m := mesh(b, quiet())
	ctx := within(b, 5*time.Minute)
	var all []string
	for i := range cuts {
		all = append(all, fmt.Sprintf("read:part%d", i))
	}
	reader := connected(b, m, enrolled(b, m, "reader", registry.Rights{Handle: append(scopes(all...), scopes("do:own")...)}))
	var last atomic.Int64 // when a call of the intruder was accepted last
	for _, s := range all {
		if err := reader.Handle(s, func(_ context.Context, req *meshclient.Request) ([]byte, error) {
			last.Store(time.Now().UnixNano())
			return nil, nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	if err := reader.Handle("do:own", echo); err != nil {
		b.Fatal(err)
	}
	var accepted, refused, own, closed []time.Duration
	b.ResetTimer()
	for round := range cuts / each {
		b.StopTimer()
		dir := enrolled(b, m, fmt.Sprint("temp", round), registry.Rights{Call: scopes("do:own")})
		temp := connected(b, m, dir)
		chains := map[string]string{}
		part := all[round*each : (round+1)*each]
		for i, s := range part {
			boss := connected(b, m, enrolled(b, m, fmt.Sprintf("boss%d-%d", round, i), registry.Rights{Call: scopes(s), MayDelegate: scopes(s)}))
			d, err := boss.Delegate(ctx, temp.ID().String(), meshclient.Grant{Scopes: []string{s}, For: time.Hour})
			if err != nil {
				b.Fatal(err)
			}
			chains[s] = d.Chains()[0]
			if err := boss.Close(); err != nil { // one that is cut would knock again and again
				b.Fatal(err)
			}
		}
		for _, s := range part {
			for {
				if _, err := temp.Call(ctx, s, nil); err == nil {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
		for i, s := range part {
			// The same agent without a client of the mesh's, that calls without end.
			gone := make(chan time.Time, 1)
			in := intrude(b, dir, nats.Token(meshclient.Presentation([]string{chains[s]})), nats.NoReconnect(),
				nats.ClosedHandler(func(*nats.Conn) { gone <- time.Now() }))
			run, stop := context.WithCancel(ctx)
			var wg sync.WaitGroup
			wg.Go(func() {
				subj := in.Space.Call(in.Self, "read."+s[len("read:"):])
				for run.Err() == nil && !in.nc.IsClosed() {
					msg, _, _, err := in.Message(subj, envelope.Fields{Token: chains[s], Deadline: time.Second}, nil, nil, nil)
					if err != nil {
						b.Error(err)
						return
					}
					in.nc.PublishMsg(msg) //nolint:errcheck // it is about to be cut
					in.nc.Flush()         //nolint:errcheck // likewise
					time.Sleep(time.Millisecond)
				}
			})
			last.Store(0)
			for last.Load() == 0 {
				time.Sleep(time.Millisecond)
			}
			var told, worked time.Time
			b.StartTimer()
			begin := time.Now()
			wg.Go(func() {
				for {
					if _, err := temp.Call(ctx, s, nil, meshclient.IdleTimeout(100*time.Millisecond)); meshDenied(err) {
						told = time.Now()
						return
					}
				}
			})
			if err := m.Operate(ctx, wire.AdminRequest{Op: wire.OpSuspend, Target: fmt.Sprintf("boss%d-%d", round, i)}, nil); err != nil {
				b.Fatal(err)
			}
			end := <-gone
			for { // what was under way when the connection was cut may be lost
				if _, err := temp.Call(ctx, "do:own", nil, meshclient.IdleTimeout(50*time.Millisecond)); err == nil {
					break
				}
			}
			worked = time.Now()
			b.StopTimer()
			stop()
			wg.Wait()
			accepted = append(accepted, max(time.Unix(0, last.Load()).Sub(begin), 0))
			refused, closed, own = append(refused, told.Sub(begin)), append(closed, end.Sub(begin)), append(own, worked.Sub(begin))
		}
	}
	report(b, "last-accepted", accepted)
	report(b, "refused", refused)
	report(b, "closed", closed)
	report(b, "own-again", own)
}

func meshDenied(err error) bool {
	var d *meshclient.Denied
	return errors.As(err, &d)
}

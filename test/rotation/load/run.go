package load

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/meshclient"
)

// Run enrols the agents in a mesh that runs, loads them, and returns when For is over,
// every connection was replaced as often as was asked for, and everything that was
// said had its time to come. The error is of what kept it from finding out; what it
// found is in the Report.
func Run(ctx context.Context, m *devmesh.Mesh, o Options) (report Report, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	all, w, err := join(ctx, m, o)
	if err != nil {
		return Report{}, err
	}
	defer func() {
		if e := leave(all); err == nil {
			err = e
		}
	}()
	r := &run{options: o, all: all, calls: lanes(all, o.Calls), sources: sources(all, o.Events)}
	if err := r.prepare(ctx); err != nil {
		return Report{}, err
	}
	nc, err := devmesh.AsService(m.Dir, m.Server.URL())
	if err != nil {
		return Report{}, err
	}
	defer nc.Close()
	js, err := jetstream.NewWithAPIPrefix(nc, natsconf.StoreAPI)
	if err != nil {
		return Report{}, err
	}
	if r.replay, err = js.Stream(ctx, subject.KVStream(natsconf.ReplayBucket)); err != nil {
		return Report{}, err
	}
	took := r.under(ctx)
	r.settle(ctx)
	if ctx.Err() != nil {
		return Report{}, fmt.Errorf("load: %w after %s: %s\n%s", context.Cause(ctx), took.Round(time.Second), r.sample(took), strings.Join(r.find.told(), "\n"))
	}
	report = r.report(took)
	report.Warnings = w.all()
	return report, nil
}

type run struct {
	options   Options
	all       map[string]*actor
	calls     []*lane
	extra     *lane // made while it is lent
	deputy    *lane // made by a worker for each do:relay
	loans     *loans
	sources   []*source
	listeners []*listener
	replay    jetstream.Stream
	find      findings

	mu      sync.Mutex
	samples []Sample
}

// prepare has everybody listen before anything is said.
func (r *run) prepare(ctx context.Context) error {
	r.extra, r.deputy = &lane{scope: "do:extra", size: workBytes}, &lane{scope: "do:deputy", size: workBytes}
	for _, id := range []string{"worker1", "worker2"} {
		if err := handle(r.all[id], &r.find, append(slices.Clone(r.calls), r.extra, r.deputy)); err != nil {
			return err
		}
	}
	for _, id := range []string{"listener1", "listener2"} {
		l := &listener{name: id, of: r.sources, came: make([]ledger, len(r.sources)), count: make([]atomic.Int64, len(r.sources)), last: make([]uint64, len(r.sources))}
		r.listeners = append(r.listeners, l)
		if err := l.listen(r.all[id]); err != nil {
			return err
		}
	}
	r.loans = &loans{lender: r.all["lender"], borrower: r.all["borrower"], lane: r.extra}
	_, err := r.all["lender"].Delegate(ctx, "borrower", meshclient.Grant{Scopes: []string{"do:lent"}, For: r.options.For + time.Hour})
	if err != nil {
		return err
	}
	return r.all["borrower"].holds(ctx, "do:lent") // the note of it may still be on its way
}

// under keeps the mesh under load for as long as the options say, and returns for how
// long calls were begun.
func (r *run) under(ctx context.Context) time.Duration {
	begun := time.Now()
	loaded, stop := context.WithCancel(ctx) // of what is begun; what was begun ends with ctx at the latest
	var load sync.WaitGroup
	for _, l := range r.calls {
		load.Go(func() { l.run(ctx, loaded, &r.find) })
	}
	load.Go(func() { r.loans.run(ctx, loaded, &r.find) })
	for _, s := range r.sources {
		s.heardBy = r.listeners
		load.Go(func() { s.run(ctx, loaded, &r.find) })
	}
	var beside sync.WaitGroup
	beside.Go(func() { r.look(loaded) })
	beside.Go(func() { r.watch(loaded) })
	end := time.Now().Add(r.options.For)
	r.turn(ctx)
	_ = pause(ctx, time.Until(end))
	took := time.Since(begun)
	stop()
	load.Wait()
	beside.Wait()
	return took
}

// turn has the connections replaced, one agent's after the other's, until each was as
// often as was asked for.
func (r *run) turn(ctx context.Context) {
	if r.options.Turn == nil || r.options.Rotations == 0 {
		return
	}
	for left := true; left && ctx.Err() == nil; {
		left = false
		for _, id := range Agents {
			if r.all[id].rotations.Load() >= int64(r.options.Rotations) {
				continue
			}
			left = true
			_ = r.options.Turn(ctx, id) // without a control plane it is asked again in the next round
			if pause(ctx, r.options.Every) != nil {
				return
			}
		}
	}
}

// look notes the certificates of all agents now and then.
func (r *run) look(ctx context.Context) {
	for pause(ctx, 200*time.Millisecond) == nil {
		for _, a := range r.all {
			a.look()
		}
	}
}

// watch takes a sample each tenth of the time.
func (r *run) watch(ctx context.Context) {
	begun := time.Now()
	for i := 1; ; i++ {
		if pause(ctx, time.Until(begun.Add(r.options.For*time.Duration(i)/10))) != nil {
			return
		}
		s := r.sample(time.Since(begun))
		if info, err := r.replay.Info(context.WithoutCancel(ctx)); err == nil {
			s.Stored = info.State.Msgs
		}
		r.mu.Lock()
		r.samples = append(r.samples, s)
		r.mu.Unlock()
		if r.options.Progress != nil {
			r.options.Progress(s)
		}
	}
}

func (r *run) sample(after time.Duration) Sample {
	s := Sample{After: after, Failed: r.find.total(), Goroutines: runtime.NumGoroutine(), Certificates: math.MaxInt}
	for _, l := range append(slices.Clone(r.calls), r.extra) {
		s.Calls += l.ended.Load()
	}
	for _, p := range r.sources {
		s.Events += int64(p.made.Load())
	}
	for _, a := range r.all {
		s.Rotations += a.rotations.Load()
		s.Certificates = min(s.Certificates, a.certificates())
	}
	runtime.GC() // else the heap says when it last ran
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	s.HeapMiB = mem.HeapAlloc >> 20
	return s
}

// settle waits for what is on its way, and for copies of it.
func (r *run) settle(ctx context.Context) {
	for end := time.Now().Add(lateMost); time.Now().Before(end); {
		whole := true
		for _, l := range r.listeners {
			whole = whole && l.whole()
		}
		if whole {
			break
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return
		}
	}
	_ = pause(ctx, lateCopies)
}

func (r *run) report(took time.Duration) Report {
	p := Report{
		Took: took, Calls: map[string]int64{}, Slowest: map[string]time.Duration{}, Events: map[string]int64{},
		Rotations: map[string]int64{}, Certificates: map[string]int{}, Loans: r.loans.made.Load(),
	}
	p.Failed = r.find.total() // before the numbers are gone through
	note := func(lost, doubled int64) { p.Lost, p.Doubled = p.Lost+lost, p.Doubled+doubled }
	for _, l := range append(r.calls, r.extra) {
		p.Calls[l.scope], p.Slowest[l.scope] = int64(l.made.Load()), time.Duration(l.slowest.Load()).Round(time.Millisecond)
		note(l.judge(&r.find))
	}
	relayed := r.calls[slices.IndexFunc(r.calls, func(l *lane) bool { return l.scope == "do:relay" })]
	for n := uint64(1); n <= relayed.made.Load(); n++ {
		if times := r.deputy.handled.times(n); times > 1 || times == 0 && relayed.failed.times(n) == 0 {
			r.find.add("do:deputy: call %d was worked on %d times", n, times)
		}
	}
	for _, s := range r.sources {
		p.Events[s.topic] += int64(s.made.Load())
	}
	for _, l := range r.listeners {
		note(l.judge(&r.find))
		p.Heard, p.Redelivered, p.Behind = p.Heard+l.heard(), p.Redelivered+l.redelivered.Load(), p.Behind+l.behind.Load()
	}
	for id, a := range r.all {
		p.Rotations[id], p.Certificates[id] = a.rotations.Load(), a.certificates()
	}
	p.Wrong, p.Samples = r.find.told(), r.samples
	return p
}

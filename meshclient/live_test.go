package meshclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// soon is how fast a grant must follow what was decided. A second is what the
// benchmarks show; the rest is for machines that do something else meanwhile.
const soon = 5 * time.Second

// lending is a mesh in which boss lends temp what reader handles.
type lending struct {
	*devmesh.Mesh
	t                  *testing.T
	ctx                context.Context
	reader, boss, temp *meshclient.Mesh
	tempDir, bossDir   string
	granted            chan struct{} // temp's OnGrant
	aways              atomic.Int64  // how often temp was away
	handled            atomic.Int64  // calls that reader took
}

func lend(t *testing.T, o devmesh.Options) *lending {
	t.Helper()
	m := mesh(t, o)
	l := &lending{Mesh: m, t: t, ctx: within(t, 60*time.Second), granted: make(chan struct{}, 64)}
	l.reader = connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs")}))
	handle(t, l.reader, "read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
		l.handled.Add(1)
		return req.Data, nil
	})
	l.bossDir = enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs"), MayDelegate: scopes("read:logs")})
	l.boss = connected(t, m, l.bossDir)
	l.tempDir = enrolled(t, m, "temp", registry.Rights{})
	l.temp = connected(t, m, l.tempDir, meshclient.OnGrant(func() { l.granted <- struct{}{} }), meshclient.OnAway(func(err error) {
		if err != nil {
			l.aways.Add(1)
		}
	}))
	return l
}

// lent waits until what was lent is in effect, as temp's application hears of it.
func (l *lending) lent(g meshclient.Grant) *meshclient.Delegation {
	l.t.Helper()
	g.Scopes = []string{"read:logs"}
	d, err := l.boss.Delegate(l.ctx, "temp", g)
	if err != nil {
		l.t.Fatal(err)
	}
	l.told("the delegation", 5*time.Second)
	if err := l.call(); err != nil {
		l.t.Fatalf("call once OnGrant had told: %v", err)
	}
	return d
}

// told waits for temp's OnGrant.
func (l *lending) told(what string, most time.Duration) {
	l.t.Helper()
	select {
	case <-l.granted:
	case <-time.After(most):
		l.t.Fatalf("OnGrant did not tell of %s within %s", what, most)
	}
}

func (l *lending) call() error {
	_, err := l.temp.Call(l.ctx, "read:logs", nil)
	return err
}

// hostile is temp as it would be without a client of the mesh's: a connection that
// rests on what was lent and stays for as long as it is let.
func (l *lending) hostile(chains []string) (in *intruder, gone chan time.Time) {
	l.t.Helper()
	in, gone = intrudeWith(l.t, l.tempDir, chains)
	subj := in.Space.Call(in.Self, "read.logs")
	if err := errors.Join(in.nc.Publish(subj, nil), in.nc.Flush(), in.nc.LastError()); err != nil {
		l.t.Fatalf("the grant does not rest on the chain: %v", err)
	}
	return in, gone
}

// forge sends a call as the intruder, by a chain that it names.
func (in *intruder) forge(t *testing.T, chain string) {
	t.Helper()
	msg, _, _, err := in.Message(in.Space.Call(in.Self, "read.logs"), envelope.Fields{Token: chain, Deadline: time.Minute}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(in.nc.PublishMsg(msg), in.nc.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := in.nc.LastError(); err != nil {
		t.Fatalf("the broker did not let it through: %v", err)
	}
}

// intrudeWith is intrude with chains presented, and without a way back once the
// connection is closed.
func intrudeWith(t *testing.T, dir string, chains []string) (*intruder, chan time.Time) {
	t.Helper()
	gone := make(chan time.Time, 1)
	return intrude(t, dir, nats.Token(meshclient.Presentation(chains)), nats.NoReconnect(),
		nats.ClosedHandler(func(*nats.Conn) { gone <- time.Now() })), gone
}

func (l *lending) goneBy(gone chan time.Time, end time.Time) {
	l.t.Helper()
	select {
	case at := <-gone:
		if late := at.Sub(end); late > 0 {
			l.t.Errorf("the broker let it stay for %s too long", late)
		}
	case <-time.After(time.Until(end) + 5*time.Second):
		l.t.Error("the broker lets it stay")
	}
}

// refused checks that neither temp's broker nor a receiver takes anything by what
// was lent: temp's connection has no grant for it, and what others let through is
// refused.
func (l *lending) refused(reasons ...denial.Reason) {
	l.t.Helper()
	if err := l.call(); !slices.ContainsFunc(append(reasons, denial.ScopeNotHeld), func(r denial.Reason) bool { return errors.Is(err, r) }) {
		l.t.Errorf("got %v from a call, want a denial %q", err, reasons)
	}
}

// broker reports whether temp's connection lets it publish a call. A connection
// that is closed meanwhile, because what it rests on has ended, says nothing: the
// one that follows it does.
func (l *lending) broker() bool {
	l.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; {
		nc := l.temp.Conn()
		err := errors.Join(nc.Publish("mesh.call.temp.read.logs", nil), nc.Flush())
		switch {
		case err == nil && nc == l.temp.Conn():
			return !errors.Is(nc.LastError(), nats.ErrPermissionViolation)
		case time.Now().After(end):
			l.t.Fatalf("temp has no connection that lasts: %v", err)
		case err != nil:
			time.Sleep(time.Millisecond) // for the next connection
		}
	}
}

// narrowed checks that temp's connection has no grant any more for what was lent.
func (l *lending) narrowed(by time.Time) {
	l.t.Helper()
	for l.broker() {
		if time.Now().After(by) {
			l.t.Error("temp's connection has a grant for what has ended")
			return
		}
	}
}

// What is lent for a time ends with it: at the broker, which closes whatever
// stays, and at temp, which has laid it down before and lost nothing by it.
func TestDelegationEndsByTime(t *testing.T) {
	t.Parallel()
	l := lend(t, quiet())
	d := l.lent(meshclient.Grant{For: 8 * time.Second})
	_, gone := l.hostile(d.Chains())
	if !l.broker() {
		t.Error("temp's connection has no grant for what was lent")
	}
	l.told("the end", 10*time.Second)
	if left := time.Until(d.Expires); left < 0 || left > 5*time.Second {
		t.Errorf("OnGrant told of the end %s before it", left)
	}
	l.refused(denial.TokenExpired)
	l.narrowed(d.Expires)
	l.goneBy(gone, d.Expires)
	if n := l.aways.Load(); n != 0 {
		t.Errorf("temp was away %d times", n)
	}
}

// What is taken back is gone within a second, from receivers at once.
func TestDelegationIsTakenBack(t *testing.T) {
	l := lend(t, quiet())
	d := l.lent(meshclient.Grant{For: time.Hour})
	in, gone := l.hostile(d.Chains())
	before := l.handled.Load()
	in.forge(t, d.Chains()[0])
	eventually(t, "the intruder's call", func() bool { return l.handled.Load() == before+1 })
	begin := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- d.End(l.ctx) }()
	l.told("the end", soon)
	l.refused(denial.TokenTakenBack)
	// The broker lets through what comes on a connection that it has not closed
	// yet, and nobody takes it who was told as temp was.
	eventually(t, "that the reader was told", func() bool {
		return errors.Is(l.reader.Standing(l.ctx, d.Chains()[0]), denial.TokenTakenBack)
	})
	if took := time.Since(begin); took > soon {
		t.Errorf("the reader was told %s after the end", took)
	}
	told := l.handled.Load()
	in.forge(t, d.Chains()[0])
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := l.handled.Load(); n != told {
		t.Errorf("%d calls were taken after the end", n-told)
	}
	if took := time.Since(begin); took > soon {
		t.Errorf("End took %s", took)
	}
	l.goneBy(gone, begin.Add(soon))
	l.narrowed(begin.Add(soon))
	if n := l.aways.Load(); n != 0 {
		t.Errorf("temp was away %d times", n)
	}
	if err := d.End(l.ctx); err != nil {
		t.Errorf("ending it twice: %v", err)
	}
}

// What the broker lets through by one right, a receiver takes by no other: the
// chain that a message names must cover the call.
func TestChainMustCoverTheCall(t *testing.T) {
	l := lend(t, quiet())
	d := l.lent(meshclient.Grant{For: time.Hour})
	in, _ := l.hostile(d.Chains())
	mine := enrolled(t, l.Mesh, "mate", registry.Rights{Call: scopes("read:logs")})
	mate := connected(t, l.Mesh, mine)
	theirs, err := mate.Chains(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Operate(l.ctx, wire.AdminRequest{Op: wire.OpGrant, Target: "temp", Rights: registry.Rights{Call: scopes("read:more")}}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "temp's own right", func() bool { chains, err := l.temp.Chains(l.ctx); return err == nil && len(chains) == 2 })
	own, err := l.temp.Chains(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := in.nc.SubscribeSync(in.Space.ReplyFilter(in.Self, in.dir.Info.Instance))
	if err != nil {
		t.Fatal(err)
	}
	before := l.handled.Load()
	for _, chain := range []string{theirs[0].Digest(), own[0].Digest(), "", jws.Digest("nothing"), d.Chains()[0]} {
		in.forge(t, chain)
	}
	for range 5 { // a refusal is answered too
		if _, err := answers.NextMsg(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.handled.Load() - before; n != 1 {
		t.Errorf("%d calls were taken, want the good one alone", n)
	}
}

// A delegation ends with its delegator, whatever ends that, and comes back with
// it: it was suspended, and nobody ended it.
func TestDelegationFollowsItsDelegator(t *testing.T) {
	for name, tt := range map[string]struct {
		cut, back func(l *lending)
	}{
		"suspended": {
			func(l *lending) { l.operate(wire.OpSuspend, "boss") },
			func(l *lending) { l.operate(wire.OpResume, "boss") },
		},
		"revoked":          {func(l *lending) { l.operate(wire.OpRevoke, "boss") }, nil},
		"instance revoked": {func(l *lending) { l.operate(wire.OpRevoke, "boss/"+l.boss.Instance().String()) }, nil},
		"expired": {
			func(l *lending) { l.boss.Die() },
			func(l *lending) { connected(l.t, l.Mesh, l.bossDir) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := quiet()
			if name == "expired" {
				o.Heartbeat = 700 * time.Millisecond
			}
			l := lend(t, o)
			d := l.lent(meshclient.Grant{For: time.Hour})
			_, gone := l.hostile(d.Chains())
			tt.cut(l)
			begin := time.Now()
			if name == "expired" {
				<-gone // the monitor's time, not this test's
			} else {
				l.goneBy(gone, begin.Add(soon))
			}
			l.told("the cut", 2*soon)
			l.refused(denial.DelegatorCut)
			eventually(t, "temp's return", func() bool { return l.temp.Away() == nil })
			l.narrowed(time.Now().Add(soon))
			if tt.back == nil {
				return
			}
			tt.back(l)
			l.told("the return", 10*time.Second)
			if err := l.call(); err != nil {
				t.Errorf("call after the return: %v", err)
			}
			if !l.broker() {
				t.Error("temp's connection has no grant for what came back")
			}
		})
	}
}

// An instance that comes while the delegator is away has what was lent as soon as
// the delegator is back: one that never had it, and one that has it on its disk.
func TestDelegationIsFoundWhileItsDelegatorIsAway(t *testing.T) {
	t.Parallel()
	l := lend(t, quiet())
	dir, err := l.Instance(l.ctx, l.temp.ID())
	if err != nil {
		t.Fatal(err)
	}
	l.lent(meshclient.Grant{For: time.Hour})
	if err := l.temp.Close(); err != nil {
		t.Fatal(err)
	}
	l.operate(wire.OpSuspend, "boss")
	back := connected(t, l.Mesh, l.tempDir)
	fresh := connected(t, l.Mesh, dir)
	for _, c := range []*meshclient.Mesh{back, fresh} {
		// Nothing is called meanwhile: a call would look after the lender, too.
		eventually(t, "the delegation's arrival", func() bool { return c.Held()[l.boss.ID()] == 1 })
	}
	begin := time.Now()
	l.operate(wire.OpResume, "boss")
	for _, c := range []*meshclient.Mesh{back, fresh} {
		eventually(t, "the return of the right", func() bool {
			return slices.Contains(c.Resting(), l.boss.ID())
		})
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it came back after %s", took)
	}
	for _, c := range []*meshclient.Mesh{back, fresh} {
		if _, err := c.Call(l.ctx, "read:logs", nil); err != nil {
			t.Errorf("call after the return: %v", err)
		}
	}
}

func (l *lending) operate(op wire.Op, target string) {
	l.t.Helper()
	if err := l.Operate(l.ctx, wire.AdminRequest{Op: op, Target: target}, nil); err != nil {
		l.t.Fatal(err)
	}
}

// Every instance of an agent has what was lent to it, and loses it. So does one
// that was away, and one whose disk was wiped.
func TestDelegationReachesEveryInstance(t *testing.T) {
	t.Parallel()
	l := lend(t, quiet())
	dir, err := l.Instance(l.ctx, l.temp.ID())
	if err != nil {
		t.Fatal(err)
	}
	news := make(chan struct{}, 64)
	other := connected(t, l.Mesh, dir, meshclient.OnGrant(func() { news <- struct{}{} }))
	d := l.lent(meshclient.Grant{For: time.Hour})
	<-news
	if _, err := other.Call(l.ctx, "read:logs", nil); err != nil {
		t.Errorf("call of the other instance: %v", err)
	}
	// A third one comes with an empty directory.
	if dir, err = l.Instance(l.ctx, l.temp.ID()); err != nil {
		t.Fatal(err)
	}
	third := connected(t, l.Mesh, dir)
	eventually(t, "the delegation's arrival at one that was away", func() bool {
		_, err := third.Call(l.ctx, "read:logs", nil)
		return err == nil
	})
	if err := d.End(l.ctx); err != nil {
		t.Fatal(err)
	}
	for i, c := range []*meshclient.Mesh{l.temp, other, third} {
		if _, err := c.Call(l.ctx, "read:logs", nil); !errors.Is(err, denial.ScopeNotHeld) && !errors.Is(err, denial.TokenTakenBack) {
			t.Errorf("instance %d: got %v after the end", i, err)
		}
	}
}

// An application may do what it wants when it is told of a grant.
func TestOnGrantMayCallBack(t *testing.T) {
	m := mesh(t, quiet())
	reader := connected(t, m, enrolled(t, m, "reader", registry.Rights{Handle: scopes("read:logs", "do:work")}))
	handle(t, reader, "read:logs", echo)
	ctx := within(t, 30*time.Second)
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs"), Handle: scopes("do:work"), MayDelegate: scopes("read:logs", "handle:do:work")}))
	did := make(chan error, 10)
	var temp *meshclient.Mesh
	ready := make(chan struct{})
	temp = connected(t, m, enrolled(t, m, "temp", registry.Rights{}), meshclient.OnGrant(func() {
		<-ready
		_, err := temp.Call(ctx, "read:logs", nil)
		did <- errors.Join(err, temp.Handle("do:work", echo))
	}))
	close(ready)
	if _, err := boss.Delegate(ctx, "temp", meshclient.Grant{Scopes: []string{"read:logs", "handle:do:work"}}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-did:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Fatal("OnGrant did not tell")
	}
}

// What an agent does by its own rights goes on, call by call and event by event,
// while others lend it something, take it back, and let it end.
func TestDelegationsCostNoMessage(t *testing.T) {
	m := mesh(t, quiet())
	ctx := within(t, 90*time.Second)
	own := registry.Rights{Handle: scopes("do:work"), Subscribe: []string{"ticks"}, Call: scopes("do:more"), Publish: []string{"tocks"}}
	workerDir := enrolled(t, m, "worker", own)
	var told, aways atomic.Int64
	worker := connected(t, m, workerDir, meshclient.OnGrant(func() { told.Add(1) }), meshclient.OnAway(func(err error) {
		if err != nil {
			aways.Add(1)
		}
	}))
	other := connected(t, m, enrolled(t, m, "other", registry.Rights{Call: scopes("do:work"), Publish: []string{"ticks"}, Handle: scopes("do:more"), Subscribe: []string{"tocks"}}))
	boss := connected(t, m, enrolled(t, m, "boss", registry.Rights{Call: scopes("read:logs", "read:more"), MayDelegate: scopes("read:logs", "read:more")}))
	handle(t, worker, "do:work", echo)
	handle(t, other, "do:more", echo)

	ticks, tocks := count(t, worker, "ticks"), count(t, other, "tocks")
	run, stop := context.WithTimeout(ctx, 20*time.Second)
	defer stop()
	var wg sync.WaitGroup
	var calls, lent, late atomic.Int64
	var failed failures
	for _, c := range []struct {
		from  *meshclient.Mesh
		scope string
	}{{other, "do:work"}, {worker, "do:more"}} {
		for range 2 {
			wg.Go(func() {
				for run.Err() == nil {
					if _, err := c.from.Call(ctx, c.scope, []byte("x"), meshclient.IdleTimeout(10*time.Second)); err != nil {
						failed.add(fmt.Errorf("%s, call %d: %w", c.scope, calls.Load(), err))
						return
					}
					calls.Add(1)
					pause(run, time.Millisecond)
				}
			})
		}
	}
	wg.Go(func() { failed.add(ticks.publish(run, other)) })
	wg.Go(func() { failed.add(tocks.publish(run, worker)) })
	// One lends for a short time, the other for long and takes it back.
	wg.Go(func() {
		for run.Err() == nil {
			d, err := boss.Delegate(ctx, "worker", meshclient.Grant{Scopes: []string{"read:logs"}, For: 6 * time.Second})
			if err != nil {
				t.Error(err)
				return
			}
			lent.Add(1)
			pause(run, time.Until(d.Expires))
		}
	})
	wg.Go(func() {
		for run.Err() == nil {
			d, err := boss.Delegate(ctx, "worker", meshclient.Grant{Scopes: []string{"read:more"}, For: time.Hour})
			if err != nil {
				t.Error(err)
				return
			}
			lent.Add(1)
			pause(run, 2*time.Second)
			begin := time.Now()
			if err := d.End(ctx); err != nil {
				t.Error(err)
				return
			}
			if time.Since(begin) > 850*time.Millisecond {
				late.Add(1)
			}
		}
	})
	wg.Wait()
	failed.add(ticks.check(t))
	failed.add(tocks.check(t))
	if n := aways.Load(); n != 0 {
		failed.add(fmt.Errorf("worker was away %d times", n))
	}
	if err := errors.Join(failed.list...); err != nil && late.Load() > 0 {
		// TestDelegationIsTakenBack fails where that is no matter of the machine.
		t.Skipf("this machine was too slow to replace a connection within a second %d times: %v", late.Load(), err)
	} else if err != nil {
		t.Error(err)
	}
	if told.Load() < 4 || worker.Rotations() < 4 {
		t.Errorf("got %d changes of the grant and %d rotations: nothing was tried", told.Load(), worker.Rotations())
	}
	t.Logf("%d calls, %d and %d events over %d delegations, %d rotations, %d changes of the grant",
		calls.Load(), ticks.sent.Load(), tocks.sent.Load(), lent.Load(), worker.Rotations(), told.Load())
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// failures are told once it is clear whose they are.
type failures struct {
	mu   sync.Mutex
	list []error
}

func (f *failures) add(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, err)
}

// counted are numbered events, of which each must come once.
type counted struct {
	topic string
	sent  atomic.Uint64
	mu    sync.Mutex
	seen  map[uint64]int
}

func count(t *testing.T, m *meshclient.Mesh, topic string) *counted {
	t.Helper()
	c := &counted{topic: topic, seen: map[uint64]int{}}
	if err := m.Subscribe(topic, func(_ context.Context, e *meshclient.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen[binary.BigEndian.Uint64(e.Data)]++
	}); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *counted) publish(run context.Context, m *meshclient.Mesh) error {
	for run.Err() == nil {
		n := c.sent.Add(1)
		if err := m.Publish(context.WithoutCancel(run), c.topic, binary.BigEndian.AppendUint64(nil, n)); err != nil {
			return fmt.Errorf("%s, event %d: %w", c.topic, n, err)
		}
		pause(run, 2*time.Millisecond)
	}
	return nil
}

// check waits for the last event and says which came never or twice.
func (c *counted) check(t *testing.T) error {
	t.Helper()
	eventually(t, "the last of "+c.topic, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.seen[c.sent.Load()] > 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	var wrong []uint64
	for n := uint64(1); n <= c.sent.Load(); n++ {
		if c.seen[n] != 1 {
			wrong = append(wrong, n)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%d of %d events of %s came never or twice: %d", len(wrong), c.sent.Load(), c.topic, wrong)
	}
	return nil
}

// A call that the agent takes for permitted, and the broker does not, because the
// server closed the connection and took it back with less, is sent again once the
// grant has it: nobody waits for an answer to what nobody got.
func TestCallThatTheGrantLacks(t *testing.T) {
	t.Parallel()
	l := lend(t, quiet())
	d := l.lent(meshclient.Grant{For: time.Hour})
	for range 5 {
		l.operate(wire.OpSuspend, "boss")
		eventually(t, "the refusal", func() bool { return errors.Is(l.call(), denial.DelegatorCut) })
		eventually(t, "temp's return", func() bool { return l.temp.Away() == nil })
		l.narrowed(time.Now().Add(soon))
		l.temp.Cover(d.Chains()[0])
		l.operate(wire.OpResume, "boss")
		eventually(t, "the call", func() bool {
			l.temp.Cover(d.Chains()[0])
			err := l.call()
			if errors.Is(err, meshclient.ErrDeadline) || errors.Is(err, denial.ScopeNotHeld) {
				t.Fatalf("got %v for a call that the broker did not let through", err)
			}
			return err == nil
		})
	}
}

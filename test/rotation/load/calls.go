package load

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/meshclient"
)

// Of what the calls are made.
const (
	workBytes  = 256
	bulkBytes  = 3 << 20 // more than one message holds, there and back
	thinkFor   = 3 * time.Second
	storyParts = 40
	storyPause = 30 * time.Millisecond
)

// lane is one kind of call, made at a steady rate by some agents in turn. How often
// each was worked on is in handled.
type lane struct {
	scope   string
	by      []*actor
	rate    float64 // a second
	atOnce  int
	size    int
	options []meshclient.CallOption
	stream  bool

	made    atomic.Uint64
	ended   atomic.Int64
	slowest atomic.Int64 // nanoseconds
	handled ledger
	failed  ledger
}

// lanes are the calls of the load. The rate of those that do next to nothing is
// given; the others come on top. A machine that is too slow for it gets fewer: so many
// of each at once and no more.
func lanes(all map[string]*actor, calls int) []*lane {
	callers := []*actor{all["caller1"], all["caller2"], all["caller3"]}
	least := func(part float64) float64 { return max(2, part*float64(calls)) }
	return []*lane{
		{scope: "do:work", by: callers, rate: least(0.8), atOnce: 48, size: workBytes},
		{scope: "do:lent", by: []*actor{all["borrower"]}, rate: least(0.15), atOnce: 16, size: workBytes},
		{scope: "do:secret", by: callers, rate: least(0.03), atOnce: 8, size: workBytes,
			options: []meshclient.CallOption{meshclient.Sealed(), meshclient.To("worker1")}},
		{scope: "do:relay", by: callers, rate: least(0.02), atOnce: 8, size: workBytes},
		{scope: "do:think", by: callers, rate: 4, atOnce: 32, size: workBytes},
		{scope: "do:story", by: callers, rate: 4, atOnce: 16, size: workBytes, stream: true},
		{scope: "do:bulk", by: callers, rate: 1, atOnce: 4, size: bulkBytes},
	}
}

// handle has a worker answer everything.
func handle(a *actor, find *findings, all []*lane) error {
	for _, l := range all {
		err := a.Handle(l.scope, func(ctx context.Context, r *meshclient.Request) ([]byte, error) {
			if len(r.Data) != l.size {
				find.add("%s: a request of %d bytes, want %d", l.scope, len(r.Data), l.size)
				return nil, &meshclient.Error{Code: "app-wrong-size"}
			}
			l.handled.note(binary.BigEndian.Uint64(r.Data))
			return answer(ctx, a, l, r)
		}, meshclient.MaxInFlight(1024))
		if err != nil {
			return err
		}
	}
	return nil
}

func answer(ctx context.Context, a *actor, l *lane, r *meshclient.Request) ([]byte, error) {
	switch l.scope {
	case "do:think":
		if err := pause(ctx, thinkFor); err != nil {
			return nil, err
		}
	case "do:relay":
		reply, err := a.Call(ctx, "do:deputy", r.Data, meshclient.OnBehalf(r))
		if err != nil {
			return nil, &meshclient.Error{Code: "app-deputy", Message: err.Error()}
		}
		return reply.Data, nil
	case "do:story":
		for n := range uint32(storyParts) {
			if err := r.Send(ctx, binary.BigEndian.AppendUint32(bytes.Clone(r.Data), n)); err != nil {
				return nil, err
			}
			if err := pause(ctx, storyPause); err != nil {
				return nil, err
			}
		}
	}
	return r.Data, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run begins calls until loaded ends, and returns when all of them have ended.
func (l *lane) run(ctx, loaded context.Context, find *findings) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, l.atOnce)
	steady(loaded, l.rate, func() {
		room <- struct{}{}
		n := l.made.Add(1)
		wg.Go(func() {
			defer func() { <-room }()
			begun := time.Now()
			err := l.ask(ctx, l.by[int(n)%len(l.by)], n)
			if took := int64(time.Since(begun)); took > l.slowest.Load() {
				l.slowest.Store(took) // roughly: two may race
			}
			if err != nil {
				l.failed.note(n)
				find.add("%s: call %d failed after %s: %v", l.scope, n, time.Since(begun).Round(time.Millisecond), err)
			}
			l.ended.Add(1)
		})
	})
}

// ask makes one call and sees that the answer is that of this very call.
func (l *lane) ask(ctx context.Context, by *actor, n uint64) error {
	data := binary.BigEndian.AppendUint64(make([]byte, 0, l.size), n)[:l.size]
	for i := 8; i < len(data); i += 4096 {
		data[i] = byte(n) + byte(i>>12)
	}
	if l.stream {
		return tell(ctx, by, l.scope, data)
	}
	reply, err := by.Call(ctx, l.scope, data, l.options...)
	if err == nil && !bytes.Equal(reply.Data, data) {
		err = errors.New("the answer is that of another call, or damaged")
	}
	return err
}

// tell takes a story in parts.
func tell(ctx context.Context, by *actor, scope string, data []byte) error {
	parts := 0
	for part, err := range by.Stream(ctx, scope, data) {
		if err != nil {
			return fmt.Errorf("after %d parts: %w", parts, err)
		}
		want := binary.BigEndian.AppendUint32(bytes.Clone(data), uint32(parts))
		if part.Last {
			want = data
		}
		if !bytes.Equal(part.Data, want) || part.Last != (parts == storyParts) {
			return fmt.Errorf("part %d of a story is not that part", parts+1)
		}
		parts++
	}
	if parts != storyParts+1 {
		return fmt.Errorf("a story of %d parts, want %d", parts, storyParts+1)
	}
	return nil
}

// judge looks for calls that were worked on twice, or answered without work.
func (l *lane) judge(find *findings) (lost, doubled int64) {
	for n := uint64(1); n <= l.made.Load(); n++ {
		switch times := l.handled.times(n); {
		case times > 1:
			doubled++
			find.add("%s: call %d was worked on %d times", l.scope, n, times)
		case times == 0 && l.failed.times(n) == 0:
			lost++
			find.add("%s: call %d was answered and never worked on", l.scope, n)
		}
	}
	return lost, doubled
}

// steady calls f that many times a second. One that f holds up for more than a second
// is not made up for.
func steady(ctx context.Context, rate float64, f func()) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	begun, made := time.Now(), 0.0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		owed := time.Since(begun).Seconds() * rate
		made = max(made, owed-rate)
		for ; made < owed && ctx.Err() == nil; made++ {
			f()
		}
	}
}

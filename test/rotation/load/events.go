package load

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/meshclient"
)

// source is one agent that publishes on one topic, numbering what it says.
type source struct {
	index  int // among all sources
	by     *actor
	topic  string
	rate   float64
	atOnce int // 1: one after the other

	made    atomic.Uint64
	failed  ledger
	heardBy []*listener
}

// aheadMost is how many events are published on a topic before somebody has heard
// them: what is too much for a listener the client drops, and says so.
const aheadMost = 4096

// sources are the events of the load. What is kept is stored before it counts as
// published, so that takes its time.
func sources(all map[string]*actor, events int) []*source {
	n := float64(events)
	out := []*source{
		{by: all["publisher"], topic: topicTicks, rate: 0.6 * n, atOnce: 1},
		{by: all["caller1"], topic: topicTicks, rate: 0.2 * n, atOnce: 1},
		{by: all["caller2"], topic: topicTicks, rate: 0.2 * n, atOnce: 1},
		{by: all["publisher"], topic: topicKept, rate: 20, atOnce: 8},
	}
	for i, s := range out {
		s.index = i
	}
	return out
}

func (s *source) run(ctx, loaded context.Context, find *findings) {
	var wg sync.WaitGroup
	defer wg.Wait()
	room := make(chan struct{}, s.atOnce)
	steady(loaded, s.rate, func() {
		for s.ahead() && pause(loaded, 10*time.Millisecond) == nil {
		}
		n := s.made.Add(1)
		data := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(s.index)), n)
		publish := func() {
			if err := s.by.Publish(ctx, s.topic, data); err != nil {
				s.failed.note(n)
				find.add("%s: event %d could not be published: %v", s.topic, n, err)
			}
		}
		if s.atOnce == 1 {
			publish()
			return
		}
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			publish()
		})
	})
}

// ahead reports whether somebody has so much left to hear. What is lost counts as not
// heard: then no more is said, and that is told when all is over.
func (s *source) ahead() bool {
	for _, l := range s.heardBy {
		if int64(s.made.Load())-l.count[s.index].Load() > aheadMost {
			return true
		}
	}
	return false
}

// listener is what one subscriber heard.
type listener struct {
	name  string
	of    []*source
	came  []ledger       // by source
	count []atomic.Int64 // by source
	last  []uint64       // by source
	mu    sync.Mutex

	redelivered atomic.Int64 // marked as such, which a subscriber of what is kept must bear
	behind      atomic.Int64 // came after one that was published later
}

func (l *listener) listen(a *actor) error {
	take := func(_ context.Context, e *meshclient.Event) {
		if len(e.Data) != 16 {
			return
		}
		i, n := int(binary.BigEndian.Uint64(e.Data)), binary.BigEndian.Uint64(e.Data[8:])
		if i >= len(l.of) {
			return
		}
		if e.Redelivered {
			l.redelivered.Add(1)
			if l.came[i].times(n) > 0 {
				return
			}
		}
		l.came[i].note(n)
		l.count[i].Add(1)
		l.mu.Lock()
		defer l.mu.Unlock()
		if n < l.last[i] && l.of[i].atOnce == 1 {
			l.behind.Add(1)
		}
		l.last[i] = max(l.last[i], n)
	}
	if err := a.Subscribe(topicTicks, take); err != nil {
		return err
	}
	if err := a.Subscribe(topicKept, take, meshclient.Durable("all")); err != nil {
		return fmt.Errorf("subscribing what is kept: %w", err)
	}
	return nil
}

// heard is how many events came.
func (l *listener) heard() (n int64) {
	for i := range l.count {
		n += l.count[i].Load()
	}
	return n
}

// whole reports whether everything that was published has come.
func (l *listener) whole() bool {
	for i, s := range l.of {
		for n := uint64(1); n <= s.made.Load(); n++ {
			if l.came[i].times(n) == 0 && s.failed.times(n) == 0 {
				return false
			}
		}
	}
	return true
}

// judge looks for events that did not come once.
func (l *listener) judge(find *findings) (lost, doubled int64) {
	for i, s := range l.of {
		for n := uint64(1); n <= s.made.Load(); n++ {
			switch times := l.came[i].times(n); {
			case times > 1:
				doubled++
				find.add("%s: event %d of %s came %d times", l.name, n, s.topic, times)
			case times == 0 && s.failed.times(n) == 0:
				lost++
				find.add("%s: event %d of %s, by %s, did not come", l.name, n, s.topic, s.by.ID())
			}
		}
	}
	return lost, doubled
}

// lateMost is how long the last event may take, and lateCopies for how long a second
// copy of one is waited for: longer than two connections run beside each other.
const (
	lateMost   = 20 * time.Second
	lateCopies = 2500 * time.Millisecond
)

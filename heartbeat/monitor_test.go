package heartbeat_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func TestSilenceExpiresAndBeatsDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		v := speak(reader, pod, "3.1")
		m.beatFor(10*time.Minute, []*voice{v}) // the last one at 9:30
		m.wantCalls()
		time.Sleep(time.Minute - time.Millisecond)
		m.wantCalls()
		time.Sleep(time.Millisecond)
		m.wantCalls(call{11 * time.Minute, "expire heartbeat-timeout", name(reader, pod), "3.1", nil})

		// Attack 43: nothing that it sends brings it back.
		m.hear(v.beat(heartbeat.Up), denial.Expired)
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), denial.Expired)
		m.hear(speak(reader, pod, "9.9").beat(heartbeat.Up), denial.Expired)
		if err := m.Watch(reader, pod, "3.1", heartbeat.PerSession); denial.Of(err) != denial.Expired {
			t.Errorf("Watch under the expired epoch: %v, want %s", err, denial.Expired)
		}
		if err := m.Watch(reader, pod, "3.0", heartbeat.PerSession); denial.Of(err) != denial.StaleEpoch {
			t.Errorf("Watch under a lower epoch: %v, want %s", err, denial.StaleEpoch)
		}
		m.watch(reader, pod, "3.2")
		m.hear(v.beat(heartbeat.Up), denial.StaleEpoch)
		m.hear(speak(reader, pod, "3.2").beat(heartbeat.Up), "")
		m.wantCalls(call{what: "expire heartbeat-timeout", who: name(reader, pod), epoch: "3.1"})
	})
}

func TestBeatsCountOnceAndForwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		v := speak(reader, pod, "3.1")
		first := v.beat(heartbeat.Up)
		m.hear(first, "")
		m.hear(first, denial.Replayed)
		m.beatFor(time.Minute, []*voice{v})
		m.hear(first, denial.Replayed)

		// A second session beats beside the first one, until it says good-bye.
		x := speak(reader, pod, "3.1")
		m.hear(x.beat(heartbeat.Up), "")
		m.hear(v.beat(heartbeat.Up), "")
		m.hear(first, denial.Replayed)
		m.hear(v.beat(heartbeat.Leaving), "")
		m.hear(v.beat(heartbeat.Up), denial.Replayed)
		m.hear(v.beat(heartbeat.Leaving), denial.Replayed)
		m.hear(x.beat(heartbeat.Up), "")

		// Under a lower epoch in either part it is a key that was cut.
		for _, epoch := range []string{"2.1", "3.0", "2.9", "9.0"} {
			m.hear(speak(reader, pod, epoch).beat(heartbeat.Up), denial.StaleEpoch)
		}
		// The registry may be ahead of this monitor; it is alive all the same.
		m.hear(speak(reader, pod, "3.2").beat(heartbeat.Up), "")

		stranger := speak(reader, pod2, "3.1")
		m.hear(stranger.beat(heartbeat.Up), denial.NotFound)
		m.hear(speak(agentid.Require("nobody"), pod, "3.1").beat(heartbeat.Up), denial.NotFound)
		b := x.beat(heartbeat.Up)
		if err := m.Observe(agentid.Require("other"), pod, b, time.Now()); denial.Of(err) != denial.SenderMismatch {
			t.Errorf("beat signed by another agent: %v, want %s", err, denial.SenderMismatch)
		}
		if err := m.Observe(reader, pod2, b, time.Now()); denial.Of(err) != denial.SenderMismatch {
			t.Errorf("beat signed by another instance: %v, want %s", err, denial.SenderMismatch)
		}
		if err := m.Observe(reader, pod, heartbeat.Beat{}, time.Now()); denial.Of(err) != denial.BadInput {
			t.Errorf("zero beat: %v, want %s", err, denial.BadInput)
		}
	})
}

// A replayed beat must not only be refused, it must not count.
func TestReplaysDoNotKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		old := speak(reader, pod, "3.1").beat(heartbeat.Up)
		m.hear(old, "")
		cur := speak(reader, pod, "3.1").beat(heartbeat.Up)
		m.hear(cur, "")
		for range 8 {
			time.Sleep(10 * time.Second)
			m.hear(old, denial.Replayed)
			m.hear(cur, denial.Replayed)
			m.hear(speak(reader, pod, "2.1").beat(heartbeat.Up), denial.StaleEpoch)
		}
		time.Sleep(time.Minute)
		m.wantCalls(call{90 * time.Second, "expire heartbeat-timeout", name(reader, pod), "3.1", nil})
	})
}

func TestLeavingIsNotDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		v := speak(reader, pod, "3.1")
		up := v.beat(heartbeat.Up)
		m.hear(up, "")
		bye := v.beat(heartbeat.Leaving)
		m.hear(bye, "")
		m.hear(v.beat(heartbeat.Up), denial.WrongState)
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), denial.WrongState)
		time.Sleep(time.Hour)
		m.wantCalls(call{what: "left", who: name(reader, pod), epoch: "3.1"})
		if n := len(m.seenAlarms()); n != 0 {
			t.Errorf("got %d alarms, want none", n)
		}

		// Back under the same epoch: its old words, the good-bye among them,
		// are worth nothing.
		m.watch(reader, pod, "3.1")
		m.hear(up, denial.Replayed)
		m.hear(bye, denial.Replayed)
		m.hear(v.beat(heartbeat.Up), denial.Replayed)
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), "")
		time.Sleep(2 * time.Minute)
		m.wantCalls(call{what: "left", who: name(reader, pod), epoch: "3.1"},
			call{what: "expire heartbeat-timeout", who: name(reader, pod), epoch: "3.1"})
	})
}

func TestPolicies(t *testing.T) {
	never := agentid.Require("never")
	for _, tt := range []struct {
		name string
		do   func(m *mesh)
		want []call
	}{
		{"none is not judged", func(m *mesh) {
			m.Watch(reader, pod, "3.1", heartbeat.Unwatched)
			m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), "")
		}, nil},
		{"none still leaves", func(m *mesh) {
			m.Watch(reader, pod, "3.1", heartbeat.Unwatched)
			m.hear(speak(reader, pod, "3.1").beat(heartbeat.Leaving), "")
		}, []call{{what: "left", who: name(reader, pod), epoch: "3.1"}}},
		{"judged from the change of policy on", func(m *mesh) {
			m.Watch(reader, pod, "3.1", heartbeat.Unwatched)
			time.Sleep(time.Hour)
			m.Watch(reader, agentid.Instance{}, "3.0", heartbeat.PerSession)
		}, []call{{at: time.Hour + 90*time.Second, what: "expire heartbeat-timeout", who: name(reader, pod), epoch: "3.1"}}},
		{"no longer judged after the change", func(m *mesh) {
			m.watch(reader, pod, "3.1")
			time.Sleep(80 * time.Second)
			m.Watch(reader, agentid.Instance{}, "3.0", heartbeat.Unwatched)
		}, nil},
		{"always: the last one that leaves starts the clock", func(m *mesh) {
			m.Watch(reader, pod, "3.1", heartbeat.Always)
			m.Watch(reader, pod2, "3.4", heartbeat.Always)
			m.hear(speak(reader, pod, "3.1").beat(heartbeat.Leaving), "")
			time.Sleep(time.Minute)
			m.hear(speak(reader, pod2, "3.4").beat(heartbeat.Leaving), "")
		}, []call{
			{what: "left", who: name(reader, pod), epoch: "3.1"},
			{at: time.Minute, what: "left", who: name(reader, pod2), epoch: "3.4"},
			{at: 150 * time.Second, what: "expire no-live-instance", who: name(reader, agentid.Instance{}), epoch: "3.0"},
		}},
		{"always: one that comes in time stops it", func(m *mesh) {
			m.Watch(reader, pod, "3.1", heartbeat.Always)
			m.hear(speak(reader, pod, "3.1").beat(heartbeat.Leaving), "")
			time.Sleep(89 * time.Second)
			m.Watch(reader, pod2, "3.1", heartbeat.Always)
			m.Watch(reader, agentid.Instance{}, "3.0", heartbeat.PerSession)
			m.hear(speak(reader, pod2, "3.1").beat(heartbeat.Leaving), "")
		}, []call{{what: "left", who: name(reader, pod), epoch: "3.1"}, {what: "left", who: name(reader, pod2), epoch: "3.1"}}},
		{"always: nobody ever came", func(m *mesh) {
			m.Watch(never, agentid.Instance{}, "1.0", heartbeat.Always)
		}, []call{{at: 90 * time.Second, what: "expire no-live-instance", who: name(never, agentid.Instance{}), epoch: "1.0"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				tt.do(m)
				time.Sleep(10 * time.Minute)
				m.wantCalls(tt.want...)
			})
		})
	}
}

func TestAnExpiredAgentAdmitsNoInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.Watch(reader, agentid.Instance{}, "3.0", heartbeat.Always)
		time.Sleep(2 * time.Minute)
		m.wantCalls(call{what: "expire no-live-instance", who: name(reader, agentid.Instance{}), epoch: "3.0"})
		if err := m.Watch(reader, pod, "3.7", heartbeat.Always); denial.Of(err) != denial.Expired {
			t.Errorf("admission under the agent epoch that expired: %v, want %s", err, denial.Expired)
		}
		if err := m.Watch(reader, pod, "4.0", heartbeat.Always); err != nil {
			t.Errorf("admission under the next: %v", err)
		}
		if err := m.Watch(reader, pod2, "3.0", heartbeat.Always); denial.Of(err) != denial.StaleEpoch {
			t.Errorf("admission under the last: %v, want %s", err, denial.StaleEpoch)
		}
	})
}

func TestWatchRefusesJunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		for _, err := range []error{
			m.Watch(agentid.ID{}, pod, "1.1", heartbeat.PerSession),
			m.Watch(reader, pod, "", heartbeat.PerSession),
			m.Watch(reader, pod, "1.1", ""),
		} {
			if denial.Of(err) != denial.BadInput {
				t.Errorf("got %v, want %s", err, denial.BadInput)
			}
		}
		if s := m.Status(); s.Watched != 0 {
			t.Errorf("watching %d, want 0", s.Watched)
		}
	})
}

// Changes of a record are told again and again, also while an instance is dead.
func TestWatchingAgainIsNoSignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		for range 8 {
			time.Sleep(10 * time.Second)
			m.watch(reader, pod, "3.1")
			m.watch(reader, agentid.Instance{}, "3.0")
		}
		time.Sleep(time.Minute)
		m.wantCalls(call{90 * time.Second, "expire heartbeat-timeout", name(reader, pod), "3.1", nil})
	})
}

func TestForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		m.watch(reader, pod2, "3.1")
		m.Forget(reader, pod)
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), denial.NotFound)
		m.hear(speak(reader, pod2, "3.1").beat(heartbeat.Up), "")
		m.Forget(reader, agentid.Instance{})
		m.hear(speak(reader, pod2, "3.1").beat(heartbeat.Up), denial.NotFound)
		m.Forget(reader, pod)
		time.Sleep(time.Hour)
		m.wantCalls()
	})
}

// An agent that comes back with a new key again and again must not grow the
// monitor, and one that cannot be watched must not be admitted.
func TestInstancesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		nth := func(i int) agentid.Instance { return agentid.InstanceOf(fmt.Sprint("key ", i)) }
		for i := range limits.Instances {
			m.watch(reader, nth(i), "1.1")
		}
		err := m.Watch(reader, pod, "1.1", heartbeat.PerSession)
		if denial.Of(err) != denial.QuotaExceeded {
			t.Fatalf("one more than %d: %v, want %s", limits.Instances, err, denial.QuotaExceeded)
		}
		m.hear(speak(reader, nth(7), "1.1").beat(heartbeat.Leaving), "")
		m.watch(reader, pod, "1.1")
		m.hear(speak(reader, nth(7), "1.1").beat(heartbeat.Up), denial.NotFound)
		m.hear(speak(reader, nth(8), "1.1").beat(heartbeat.Up), "")
	})
}

func TestReceptionTimes(t *testing.T) {
	for what, at := range map[string]func() time.Time{
		"in the future": func() time.Time { return time.Now().Add(time.Hour) },
		"now":           time.Now,
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				m.watch(reader, pod, "1.1")
				time.Sleep(time.Minute)
				b := speak(reader, pod, "1.1").beat(heartbeat.Up)
				if err := m.Observe(reader, pod, b, at()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Hour)
				m.wantCalls(call{150 * time.Second, "expire heartbeat-timeout", name(reader, pod), "1.1", nil})
			})
		})
	}
}

// A time of reception that went through a text has lost its monotonic reading
// and may lie anywhere once the wall clock was set. (The clock of a synctest
// bubble has no monotonic reading, so this test brings its own.)
func TestASteppedWallClockExpiresNobody(t *testing.T) {
	var passed atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
	m, err := heartbeat.NewMonitor(heartbeat.Config{Registry: newRegistry(), Clock: clock, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Watch(reader, pod, "1.1", heartbeat.PerSession); err != nil {
		t.Fatal(err)
	}
	passed.Store(int64(time.Minute))
	m.CanaryReturned(clock())
	passed.Store(int64(2 * time.Minute))
	if s := m.Status(); s.SilentCount != 1 {
		t.Fatalf("%d silent before the beat, want 1", s.SilentCount)
	}
	if err := m.Observe(reader, pod, speak(reader, pod, "1.1").beat(heartbeat.Up), clock().Add(-time.Hour).Round(0)); err != nil {
		t.Fatal(err)
	}
	if s := m.Status(); s.SilentCount != 0 {
		t.Errorf("%d silent after a beat whose wall time was set back, want 0", s.SilentCount)
	}
}

func TestTheRegistryDecides(t *testing.T) {
	away := errors.New("registry is away")
	conflict := denial.New(denial.Conflict, "changed")
	who := name(reader, pod)
	expire := func(at time.Duration) call {
		return call{at, "expire heartbeat-timeout", who, "3.1", nil}
	}
	for _, tt := range []struct {
		name string
		fail func(n int) error
		want []call
	}{
		{"done", nil, []call{expire(90 * time.Second)}},
		{"revoked meanwhile", func(int) error { return denial.Revoked }, []call{expire(90 * time.Second)}},
		{"gone meanwhile", func(int) error { return denial.New(denial.NotFound, "gone") }, []call{expire(90 * time.Second)}},
		{"asked again while it is away", func(n int) error {
			if n < 2 {
				return away
			}
			return nil
		}, []call{expire(90 * time.Second), expire(100 * time.Second), expire(110 * time.Second)}},
		// A contended record reads like one that somebody else expired. Without
		// the second question a dead instance would live for ever.
		{"asked once more after a conflict", func(n int) error {
			if n < 1 {
				return conflict
			}
			return nil
		}, []call{expire(90 * time.Second), expire(180 * time.Second)}},
		{"not for ever", func(int) error { return conflict }, []call{expire(90 * time.Second), expire(180 * time.Second)}},
		{"away for the second question", func(n int) error {
			return []error{conflict, away, nil}[min(n, 2)]
		}, []call{expire(90 * time.Second), expire(180 * time.Second), expire(190 * time.Second)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				m.registry.fail = tt.fail
				m.watch(reader, pod, "3.1")
				time.Sleep(time.Hour)
				m.wantCalls(tt.want...)
				m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), denial.Expired)
			})
		})
	}
}

func TestAGoodByeIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.registry.fail = func(n int) error {
			if n < 2 {
				return errors.New("away")
			}
			return nil
		}
		m.watch(reader, pod, "3.1")
		m.mute() // it needs no judgement, so no canary either
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Leaving), "")
		time.Sleep(time.Hour)
		left := func(at time.Duration) call { return call{at, "left", name(reader, pod), "3.1", nil} }
		m.wantCalls(left(0), left(10*time.Second), left(20*time.Second))
		m.sing()
	})
}

// A good-bye that waits its turn is moot once the instance is back.
func TestAGoodByeThatWasOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.registry.hold = 5 * time.Second
		others := m.crowd(16) // as many as there are callers
		m.watch(reader, pod, "3.1")
		for _, v := range others {
			m.hear(v.beat(heartbeat.Leaving), "")
		}
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Leaving), "")
		m.watch(reader, pod, "3.1")
		time.Sleep(time.Minute)
		for _, c := range m.registry.all() {
			if c.who == name(reader, pod) {
				t.Errorf("got %s, want nothing about it", show([]call{c}))
			}
		}
		if n := len(m.registry.all()); n != 16 {
			t.Errorf("%d left, want 16", n)
		}
	})
}

// While the registry is being asked, its answer decides, not a late beat.
func TestBeatsWhileTheRegistryIsAsked(t *testing.T) {
	away := errors.New("away")
	for _, tt := range []struct {
		name   string
		answer error
		say    heartbeat.State
		after  denial.Reason // what a beat after the answer gets
		want   []string
	}{
		{"expired all the same", nil, heartbeat.Up, denial.Expired, []string{"expire heartbeat-timeout"}},
		{"the beat saved it", away, heartbeat.Up, "", []string{"expire heartbeat-timeout"}},
		{"good-bye too late", nil, heartbeat.Leaving, denial.Expired, []string{"expire heartbeat-timeout"}},
		{"good-bye in time", away, heartbeat.Leaving, denial.WrongState, []string{"expire heartbeat-timeout", "left"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				m.registry.hold = 5 * time.Second
				m.registry.fail = func(n int) error {
					if n == 0 {
						return tt.answer
					}
					return nil
				}
				m.watch(reader, pod, "3.1")
				v := speak(reader, pod, "3.1")
				time.Sleep(92 * time.Second)
				m.hear(v.beat(tt.say), "")
				time.Sleep(60 * time.Second)
				m.hear(v.beat(heartbeat.Up), tt.after)
				var want []call
				for _, what := range tt.want {
					want = append(want, call{what: what, who: name(reader, pod), epoch: "3.1"})
				}
				m.wantCalls(want...)
			})
		})
	}
}

// An admission under a higher epoch that overtakes an expiry must survive the
// expiry's answer.
func TestReadmittedWhileTheRegistryIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.registry.hold = 5 * time.Second
		m.watch(reader, pod, "3.1")
		time.Sleep(92 * time.Second)
		m.watch(reader, pod, "3.2")
		time.Sleep(10 * time.Second)
		m.hear(speak(reader, pod, "3.2").beat(heartbeat.Up), "")
		if got := m.Status().Watched; got != 1 {
			t.Errorf("watching %d, want 1", got)
		}
	})
}

func TestReplicasExpireOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := start(t)
		defer a.end()
		b := start(t, func(c *heartbeat.Config) { c.Registry = a.registry })
		defer b.end()
		for i := range 4 {
			for _, m := range []*mesh{a, b} {
				m.watch(agentid.Require(fmt.Sprint("agent-", i)), pod, "1.1")
			}
		}
		time.Sleep(time.Hour)
		done, lost := 0, 0
		for _, c := range a.registry.all() {
			switch {
			case c.answer == nil:
				done++
			case errors.Is(c.answer, denial.Conflict):
				lost++
			}
		}
		// Each loser asks once more, in vain.
		if done != 4 || lost != 8 {
			t.Errorf("got %d expiries and %d conflicts, want 4 and 8: %s", done, lost, show(a.registry.all()))
		}
	})
}

func TestCloseCancelsCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		m.registry.hold = time.Hour
		for i := range 4 {
			m.watch(agentid.Require(fmt.Sprint("agent-", i)), pod, "1.1")
		}
		time.Sleep(91 * time.Second)
		begin := time.Now()
		m.end()
		m.Close()
		if d := time.Since(begin); d != 0 {
			t.Errorf("Close took %v, want no time", d)
		}
		m.hear(speak(agentid.Require("agent-0"), pod, "1.1").beat(heartbeat.Leaving), "")
	})
}

func TestNewMonitorRefuses(t *testing.T) {
	good := heartbeat.Config{Registry: newRegistry(), Clock: time.Now, Log: zerolog.Nop()}
	for what, change := range map[string]func(*heartbeat.Config){
		"no registry":        func(c *heartbeat.Config) { c.Registry = nil },
		"no clock":           func(c *heartbeat.Config) { c.Clock = nil },
		"negative interval":  func(c *heartbeat.Config) { c.Interval = -1 },
		"short timeout":      func(c *heartbeat.Config) { c.Timeout = 59 * time.Second },
		"share of more":      func(c *heartbeat.Config) { c.Share = 1.1 },
		"negative share":     func(c *heartbeat.Config) { c.Share = -0.1 },
		"negative minimum":   func(c *heartbeat.Config) { c.Least = -1 },
		"share not a number": func(c *heartbeat.Config) { c.Share = nan() },
	} {
		cfg := good
		change(&cfg)
		if m, err := heartbeat.NewMonitor(cfg); err == nil {
			m.Close()
			t.Errorf("%s: got nil, want an error", what)
		}
	}
}

func nan() float64 { zero := 0.0; return zero / zero }

// Random lives and deaths: who beats is never expired, who died is, one timeout
// after its last beat.
func TestRandomLives(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 43))
			m := start(t, func(c *heartbeat.Config) { c.Least = 1000 })
			defer m.end()
			var wg sync.WaitGroup
			want := make(map[string]time.Duration)
			for i := range 30 {
				id := agentid.Require(fmt.Sprint("agent-", i))
				beats, delay := rnd.IntN(30), time.Duration(rnd.Int64N(int64(time.Minute)))
				dies := rnd.IntN(2) == 0
				var pauses []time.Duration
				last := delay
				for range beats {
					p := 27*time.Second + time.Duration(rnd.Int64N(int64(3*time.Second)))
					pauses = append(pauses, p)
					last += p
				}
				if dies {
					want[name(id, pod)] = last + 90*time.Second
				}
				wg.Go(func() {
					time.Sleep(delay)
					m.watch(id, pod, "1.1")
					v := speak(id, pod, "1.1")
					for _, p := range pauses {
						time.Sleep(p)
						m.hear(v.beat(heartbeat.Up), "")
					}
					if !dies {
						m.hear(v.beat(heartbeat.Leaving), "")
					}
				})
			}
			wg.Wait()
			time.Sleep(10 * time.Minute)
			got := make(map[string]time.Duration)
			for _, c := range m.registry.all() {
				if c.what != "left" {
					got[c.who] = c.at
				}
			}
			if len(got) != len(want) {
				t.Errorf("seed %d: expired %d, want %d", seed, len(got), len(want))
			}
			for who, at := range want {
				// The loop judges at most once in a thirtieth of an interval.
				if late := got[who] - at; late < 0 || late > time.Second {
					t.Errorf("seed %d: %s expired at %v, want %v", seed, who, got[who], at)
				}
			}
		})
	}
}

// All methods at once, for the race detector.
func TestConcurrentUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				id := agentid.Require(fmt.Sprint("agent-", g%3))
				for i := range 200 {
					v := speak(id, pod, fmt.Sprintf("1.%d", i))
					m.Watch(id, pod, v.epoch, heartbeat.Always)
					m.Observe(id, pod, v.beat(heartbeat.Up), time.Now())
					m.Status()
					m.Seen(id, pod)
					m.Gap()
					if i%7 == 0 {
						m.Observe(id, pod, v.beat(heartbeat.Leaving), time.Now())
					}
					if i%50 == 0 {
						m.Forget(id, pod)
					}
					time.Sleep(time.Second)
				}
			})
		}
		wg.Wait()
	})
}

func BenchmarkObserve(b *testing.B) {
	const n = 10_000
	m, err := heartbeat.NewMonitor(heartbeat.Config{Registry: newRegistry(), Clock: time.Now, Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	m.CanaryReturned(time.Now())
	beats := make([]heartbeat.Beat, n)
	for i := range beats {
		id := agentid.Require(fmt.Sprint("agent-", i))
		beats[i] = speak(id, agentid.InstanceOf(id.String()), "1.1").beat(heartbeat.Up)
		if err := m.Watch(id, beats[i].Instance, "1.1", heartbeat.PerSession); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		beat := &beats[i%n]
		beat.Sequence++
		if err := m.Observe(beat.Agent, beat.Instance, *beat, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

package heartbeat_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/heartbeat"
)

func TestNobodyIsJudgedWithoutACanary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "1.1")
		time.Sleep(35 * time.Second)
		m.mute() // the last canary came back at 0:30
		time.Sleep(40*time.Second + time.Millisecond)
		synctest.Wait()
		alarms := m.seenAlarms()
		if len(alarms) != 1 || alarms[0].Kind != heartbeat.AlarmBlind || alarms[0].Watched != 1 {
			t.Fatalf("got alarms %+v, want one that the monitor is blind", alarms)
		}
		if s := m.Status(); s.State != heartbeat.Blind || s.Blinds != 1 {
			t.Errorf("got state %q after %d blind spells, want blind after 1", s.State, s.Blinds)
		}
		time.Sleep(time.Hour)
		m.wantCalls()
		if n := len(m.seenAlarms()); n != 1 {
			t.Errorf("got %d alarms about one blind spell, want 1", n)
		}

		back := time.Since(m.registry.begin)
		m.sing()
		if s := m.Status(); s.State != heartbeat.Grace || s.GraceMS != 90_000 {
			t.Errorf("got state %q with %d ms left, want a grace of 90 s", s.State, s.GraceMS)
		}
		time.Sleep(2 * time.Minute)
		m.wantCalls(call{back + 90*time.Second, "expire heartbeat-timeout", name(reader, pod), "1.1", nil})
	})
}

func TestGraceAfterTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		m.mute()
		m.Close()
		// A monitor whose canary takes a minute to come back for the first time.
		late, err := heartbeat.NewMonitor(heartbeat.Config{Registry: m.registry, Clock: time.Now, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		m.Monitor = late
		m.watch(reader, pod, "1.1")
		if s := m.Status(); s.State != heartbeat.Blind || s.CanaryMS != -1 {
			t.Errorf("got state %q, canary %d, want blind without one", s.State, s.CanaryMS)
		}
		time.Sleep(time.Minute)
		m.sing()
		defer m.end()
		time.Sleep(time.Hour)
		m.wantCalls(call{150 * time.Second, "expire heartbeat-timeout", name(reader, pod), "1.1", nil})
	})
}

// A stream that delivers a minute late delivers everybody's beats a minute late.
func TestACanaryThatIsLateProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		m.watch(reader, pod, "1.1")
		m.mute()
		for range 30 {
			time.Sleep(10 * time.Second)
			m.CanaryReturned(time.Now().Add(-time.Minute))
		}
		m.wantCalls()
		if s := m.Status(); s.State != heartbeat.Blind {
			t.Errorf("got state %q, want blind", s.State)
		}
		if n := len(m.seenAlarms()); n != 1 {
			t.Errorf("got %d alarms, want 1", n)
		}
		m.Close()
	})
}

// The whole process was stopped for an hour: when it goes on, the canary that
// waited in its queues is an hour old, and so is everybody's last beat.
func TestAStoppedProcessExpiresNobody(t *testing.T) {
	for _, first := range []string{"the old canary", "a fresh canary"} {
		t.Run(first+" comes first", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { stopAndGoOn(t, first == "the old canary") })
		})
	}
}

func stopAndGoOn(t *testing.T, old bool) {
	var mu sync.Mutex
	var stopped time.Duration
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(stopped) }
	m := start(t, func(c *heartbeat.Config) { c.Clock = clock })
	m.watch(reader, pod, "1.1")
	time.Sleep(20 * time.Second)
	m.mute()
	sent := clock()
	mu.Lock()
	stopped = time.Hour
	mu.Unlock()
	if old {
		m.CanaryReturned(sent)
		time.Sleep(30 * time.Second)
		m.wantCalls()
	}
	fresh := time.Since(m.registry.begin)
	for range 12 {
		m.CanaryReturned(clock())
		time.Sleep(10 * time.Second)
	}
	m.wantCalls(call{fresh + 90*time.Second, "expire heartbeat-timeout", name(reader, pod), "1.1", nil})
	m.Close()
}

func TestGapGivesEverybodyATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "1.1")
		time.Sleep(80 * time.Second)
		m.Gap()
		time.Sleep(time.Hour)
		m.wantCalls(call{170 * time.Second, "expire heartbeat-timeout", name(reader, pod), "1.1", nil})
		if s := m.Status(); s.Gaps != 1 {
			t.Errorf("got %d gaps, want 1", s.Gaps)
		}
	})
}

func TestCanaryCountsOnceAndOnlyForItsMonitor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		m.mute()
		m.Close()
		monitor, err := heartbeat.NewMonitor(heartbeat.Config{Registry: m.registry, Clock: time.Now, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer monitor.Close()
		var w wire
		canary := heartbeat.NewCanary(monitor)
		s := newSender(t, &w, func(c *heartbeat.SenderConfig) { c.Agent = agentid.Control; c.Send = canary.Wrap(w.send) })
		synctest.Wait()
		time.Sleep(2 * time.Second)
		b := w.sent()[0]
		foreign := b
		foreign.Session = heartbeat.NewSession()
		if canary.Returned(foreign) || monitor.Status().CanaryMS != -1 {
			t.Error("another replica's canary counted")
		}
		if !canary.Returned(b) || monitor.Status().CanaryMS != 2000 {
			t.Errorf("canary age %d ms, want 2000, counted from when it was sent", monitor.Status().CanaryMS)
		}
		if canary.Returned(b) {
			t.Error("a replayed canary counted")
		}
		// While the stream is away none comes back and none piles up for ever:
		// only the newest are still known.
		time.Sleep(time.Hour)
		sent := w.sent()
		known := 0
		for _, b := range sent {
			if canary.Returned(b) {
				known++
			}
		}
		if known != 16 {
			t.Errorf("%d canaries of %d were still known, want 16", known, len(sent))
		}
		if got := monitor.Status().State; got != heartbeat.Grace {
			t.Errorf("got state %q after the canaries came back, want grace", got)
		}
		s.Close()
	})
}

// Sender, canary and monitor together, over a stream that loses everything for
// a while.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := newRegistry()
		monitor, err := heartbeat.NewMonitor(heartbeat.Config{Registry: reg, Clock: time.Now, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		m := &mesh{T: t, Monitor: monitor, registry: reg}
		var mu sync.Mutex
		down := false
		canary := heartbeat.NewCanary(monitor)
		stream := func(_ context.Context, b heartbeat.Beat) error {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case down:
			case b.Agent == agentid.Control:
				canary.Returned(b)
			default:
				return monitor.Observe(b.Agent, b.Instance, b, time.Now())
			}
			return nil
		}
		m.watch(reader, pod, "3.1")
		m.watch(reader, pod2, "3.1")
		own := newSender(t, &wire{}, func(c *heartbeat.SenderConfig) { c.Agent = agentid.Control; c.Send = canary.Wrap(stream) })
		one := newSender(t, &wire{}, func(c *heartbeat.SenderConfig) { c.Send = stream })
		two := newSender(t, &wire{}, func(c *heartbeat.SenderConfig) { c.Instance = pod2; c.Send = stream })
		time.Sleep(10 * time.Minute)
		mu.Lock()
		down = true
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		m.wantCalls()
		seen, ok := m.Seen(reader, pod)
		if !ok || time.Since(seen.LastBeat) > 30*time.Second || seen.InFlight != 2 || seen.Client != "test/1" {
			t.Errorf("Seen = %+v, %v", seen, ok)
		}
		two.Close() // killed
		if err := one.Leave(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute)
		m.wantCalls(call{what: "left", who: name(reader, pod), epoch: "3.1"},
			call{what: "expire heartbeat-timeout", who: name(reader, pod2), epoch: "3.1"})
		own.Close()
		monitor.Close()
	})
}

package heartbeat_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
)

const replicas = 3

// told is a registry whose changes every replica hears of.
type told struct {
	*registry
	mu   sync.Mutex
	all  []*mesh
	fail error
}

func (r *told) Expire(ctx context.Context, id agentid.ID, instance agentid.Instance, epoch, reason string) error {
	if err := r.registry.Expire(ctx, id, instance, epoch, reason); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.all {
		if err := m.Expired(id, instance, "9.9"); err != nil {
			r.fail = err
		}
	}
	return nil
}

// several starts replicas over one registry.
func several(t *testing.T, stagger time.Duration) *told {
	t.Helper()
	r := &told{registry: newRegistry()}
	for range replicas {
		m := start(t, func(c *heartbeat.Config) { c.Registry, c.Stagger = r, stagger })
		m.registry = r.registry
		r.all = append(r.all, m)
	}
	return r
}

func (r *told) end(t *testing.T) {
	t.Helper()
	for _, m := range r.all {
		m.end()
	}
	if r.fail != nil {
		t.Error(r.fail)
	}
}

// Every replica watches; each death is written once, since none waits as long as
// another, and no later than a second after its time.
func TestReplicasWaitTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := several(t, time.Second)
		defer r.end(t)
		const agents = 40
		var voices []*voice
		for _, m := range r.all {
			voices = m.crowd(agents)
		}
		firsts := map[time.Duration]bool{}
		for range 6 { // so few at a time that no brake comes on
			dying := voices[:4]
			voices = voices[4:]
			for _, v := range dying {
				b := v.beat(heartbeat.Up)
				for _, m := range r.all {
					m.hear(b, "")
				}
			}
			last := time.Since(r.begin)
			for range 8 {
				for _, v := range voices {
					b := v.beat(heartbeat.Up)
					for _, m := range r.all {
						m.hear(b, "")
					}
				}
				time.Sleep(20 * time.Second)
			}
			synctest.Wait()
			for _, c := range r.calls {
				after := c.at - last
				if c.answer != nil || after < 30*time.Second { // the group before
					continue
				}
				if after < 90*time.Second || after > 92*time.Second {
					t.Errorf("%s %s %v after its last beat, want 90 to 92 s", c.what, c.who, after)
				}
				firsts[after] = true
			}
		}
		// Two replicas may happen to wait the same.
		if n := len(r.registry.all()); n < 24 || n > 36 {
			t.Errorf("24 deaths were written with %d calls of %d replicas, want little more than one each", n, replicas)
		}
		if len(firsts) < 6 {
			t.Errorf("calls at %d moments, want them spread over the second", len(firsts))
		}
	})
}

func TestExpiredElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.2")
		m.watch(reader, pod2, "3.2")
		say := func(instance agentid.Instance, epoch string, want denial.Reason) {
			t.Helper()
			if got := denial.Of(m.Expired(reader, instance, epoch)); got != want {
				t.Errorf("Expired(%s, %s) = %q, want %q", instance, epoch, got, want)
			}
		}
		say(pod, "3.2", "") // its own life
		say(pod, "2.9", "") // one before it
		say(agentid.InstanceOf("nobody"), "4.4", "")
		say(pod, "x", denial.BadInput)
		m.hear(speak(reader, pod, "3.2").beat(heartbeat.Up), "")
		say(pod, "3.3", "")
		m.hear(speak(reader, pod, "3.2").beat(heartbeat.Up), denial.Expired)
		time.Sleep(time.Second)
		m.watch(reader, pod, "3.4") // readmitted
		say(pod, "3.3", "")         // which comes late
		m.hear(speak(reader, pod, "3.4").beat(heartbeat.Up), "")
		time.Sleep(2 * time.Minute)
		m.wantCalls(call{what: "expire heartbeat-timeout", who: name(reader, pod2), epoch: "3.2"},
			call{what: "expire heartbeat-timeout", who: name(reader, pod), epoch: "3.4"})
		say(agentid.Instance{}, "4.0", "")
		if err := m.Watch(reader, pod, "3.9", heartbeat.PerSession); denial.Of(err) != denial.Expired {
			t.Errorf("admission under an agent epoch that expired elsewhere: %v, want %s", err, denial.Expired)
		}
		m.watch(reader, pod, "5.5")
	})
}

// What others expire counts for the brake, and what an operator confirmed does not.
func TestBrakeCountsWhatExpiredElsewhere(t *testing.T) {
	for _, confirmed := range []bool{false, true} {
		t.Run(fmt.Sprint("confirmed ", confirmed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				voices := m.crowd(20)
				m.beatFor(time.Minute, voices)
				quiet := 6
				if confirmed {
					quiet = 10
				}
				m.beatFor(time.Minute, voices[quiet:])
				synctest.Wait()
				if confirmed {
					if err := m.Confirm(); err != nil {
						t.Fatal(err)
					}
				}
				for _, v := range voices[:quiet-1] {
					if err := m.Expired(v.id, v.instance, "2.2"); err != nil {
						t.Fatal(err)
					}
				}
				m.beatFor(90*time.Second, voices[quiet+1:])
				synctest.Wait()
				if held := m.Status().State == heartbeat.Held; held == confirmed {
					t.Errorf("held: %v with %s", held, show(m.registry.all()))
				}
			})
		})
	}
}

// The brake of one replica is that of all, and so is what an operator decides
// about it.
func TestHoldOfAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, rest := braked(t)
		defer first.end()
		held, ok := first.Held()
		if !ok || held.Hold == "" || held.WouldExpire != 10 {
			t.Fatalf("Held() = %+v, %v", held, ok)
		}
		// One that starts among so many others that its own brake would not come on.
		m := start(t)
		defer m.end()
		old := m.crowd(20)
		many := make([]*voice, 60)
		for i := range many {
			many[i] = speak(agentid.Require(fmt.Sprint("new-", i)), pod, "1.1")
			m.watch(many[i].id, pod, "1.1")
		}
		if !m.Hold(held) || m.Hold(held) {
			t.Error("a hold counts once")
		}
		m.beatFor(5*time.Minute, append(many, old[10:]...))
		m.wantCalls()
		if s := m.Status(); s.State != heartbeat.Held || s.SilentCount != 10 || s.WouldExpire != 10 || s.Held.Hold != held.Hold {
			t.Errorf("got %+v, want it held with 10 silent", s)
		}

		if err := m.Release("another hold"); denial.Of(err) != denial.WrongState {
			t.Errorf("Release of what it is not held for: %v, want %s", err, denial.WrongState)
		}
		twin := held
		twin.Hold = "the same by another name"
		if m.Hold(twin) {
			t.Error("a second hold changed something")
		}
		for _, r := range []*mesh{first, m} {
			if err := r.Release("one more", held.Hold); err != nil {
				t.Error(err)
			}
			if r.Hold(held) {
				t.Error("word of the hold that came late put the brake on again")
			}
		}
		if m.Hold(twin) {
			t.Error("the same hold by another name put the brake on again")
		}
		// The other hold was decided about as well, before this one ever heard of it.
		for _, hold := range []string{"one more", "", string(make([]byte, 65))} {
			late := held
			late.Hold = hold
			if m.Hold(late) {
				t.Errorf("a hold named %q counted", hold)
			}
		}
		blind := held
		blind.Kind, blind.Hold = heartbeat.AlarmBlind, "fresh"
		if m.Hold(blind) {
			t.Error("another replica's blindness counted as a hold")
		}
		_ = rest
	})
}

// Confirmed on all replicas at once, each death is still written once.
func TestConfirmOnAllReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := several(t, time.Second)
		defer r.end(t)
		var voices []*voice
		for _, m := range r.all {
			voices = m.crowd(20)
		}
		beat := func(voices []*voice, n int) {
			for range n {
				for _, v := range voices {
					b := v.beat(heartbeat.Up)
					for _, m := range r.all {
						m.hear(b, "")
					}
				}
				time.Sleep(20 * time.Second)
			}
		}
		beat(voices, 3)
		beat(voices[10:], 8)
		var holds []string
		for _, m := range r.all {
			held, ok := m.Held()
			if !ok {
				t.Fatalf("a replica is not held: %+v", m.Status())
			}
			holds = append(holds, held.Hold)
		}
		for _, m := range r.all {
			if err := m.Confirm(holds...); err != nil {
				t.Fatal(err)
			}
		}
		beat(voices[10:], 6)
		synctest.Wait()
		if n := len(r.registry.all()); n < 10 || n > 18 {
			t.Errorf("10 deaths were written with %d calls of %d replicas, want little more than one each", n, replicas)
		}
		for _, m := range r.all {
			if s := m.Status(); s.State != heartbeat.Judging || s.Watched != 10 {
				t.Errorf("got %+v, want it judging 10", s)
			}
		}
	})
}

// A replica that starts while everybody is silent holds by itself after its grace.
func TestAReplicaThatStartsIntoASilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		voices := m.crowd(20)
		m.beatFor(time.Hour, voices[10:])
		m.wantCalls()
		if s := m.Status(); s.State != heartbeat.Held {
			t.Errorf("got %+v, want it held", s)
		}
	})
}

// Attack 61: a process that was stopped for less than makes it blind, and yet for
// so long that beats which are in its queues look missed. It wakes, and judges
// nobody before it has heard them.
func TestAShortStopExpiresNobody(t *testing.T) {
	for _, answered := range []bool{true, false} {
		t.Run(fmt.Sprint("canary ", answered), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				var stopped time.Duration
				clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(stopped) }
				var m *mesh
				v, w := speak(reader, pod, "1.1"), speak(reader, pod2, "1.1")
				probes := 0
				m = start(t, func(c *heartbeat.Config) { c.Clock, c.Timeout = clock, 2*heartbeat.DefaultInterval })
				m.probed = func() {
					mu.Lock()
					probes++
					first := probes == 1
					mu.Unlock()
					if first { // what lay in the queues comes in front of it
						if err := m.Observe(reader, pod, v.beat(heartbeat.Up), clock()); err != nil {
							t.Error(err)
						}
					}
				}
				defer m.Close()
				m.watch(reader, pod, "1.1")
				m.watch(reader, pod2, "1.1")
				m.hear(v.beat(heartbeat.Up), "")
				m.hear(w.beat(heartbeat.Up), "")
				time.Sleep(29 * time.Second)
				m.mute()
				m.CanaryReturned(clock())
				m.hush(!answered)
				mu.Lock()
				stopped = 40 * time.Second
				mu.Unlock()
				m.watch(reader, agentid.Instance{}, "1.0") // the loop looks again
				time.Sleep(5 * time.Second)
				synctest.Wait()
				mu.Lock()
				asked := probes
				mu.Unlock()
				if asked == 0 {
					t.Fatal("nobody's time was up, which proves nothing")
				}
				if answered {
					m.wantCalls(call{what: "expire heartbeat-timeout", who: name(reader, pod2), epoch: "1.1"})
				} else {
					m.wantCalls()
				}
			})
		})
	}
}

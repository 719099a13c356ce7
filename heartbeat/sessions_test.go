package heartbeat_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
)

// The bounds of the package.
const (
	maxSessions = 16
	maxOver     = 64
)

var (
	leftPod    = call{what: "left", who: name(reader, pod), epoch: "3.1"}
	expiredPod = call{what: "expire heartbeat-timeout", who: name(reader, pod), epoch: "3.1"}
)

func at(d time.Duration, c call) call { c.at = d; return c }

// two starts a monitor that has heard two sessions of one instance.
func two(t *testing.T) (m *mesh, older, newer *voice) {
	m = start(t)
	m.watch(reader, pod, "3.1")
	older, newer = speak(reader, pod, "3.1"), speak(reader, pod, "3.1")
	m.hear(older.beat(heartbeat.Up), "")
	m.hear(newer.beat(heartbeat.Up), "")
	return m, older, newer
}

// Two processes that share an agent's directory are one instance with two
// sessions. Neither of these is fast enough alone.
func TestSessionsKeepAliveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, older, newer := two(t)
		defer m.end()
		for range 10 {
			for _, v := range []*voice{older, newer} {
				time.Sleep(time.Minute)
				m.hear(v.beat(heartbeat.Up), "")
			}
		}
		m.wantCalls()
		time.Sleep(2 * time.Minute)
		m.wantCalls(at(20*time.Minute+90*time.Second, expiredPod))
		m.hear(older.beat(heartbeat.Up), denial.Expired)
		m.hear(newer.beat(heartbeat.Up), denial.Expired)
	})
}

func TestAGoodByeEndsOneSession(t *testing.T) {
	for _, first := range []string{"older", "newer"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, stays, goes := two(t)
				defer m.end()
				if first == "older" {
					stays, goes = goes, stays
				}
				m.hear(goes.beat(heartbeat.Leaving), "")
				m.beatFor(10*time.Minute, []*voice{stays})
				m.hear(goes.beat(heartbeat.Up), denial.Replayed)
				m.hear(goes.beat(heartbeat.Leaving), denial.Replayed)
				m.wantCalls()
				m.hear(stays.beat(heartbeat.Leaving), "")
				m.hear(stays.beat(heartbeat.Up), denial.WrongState)
				m.hear(goes.beat(heartbeat.Up), denial.WrongState)
				time.Sleep(time.Hour)
				m.wantCalls(at(10*time.Minute, leftPod))
			})
		})
	}
}

// The newest session dies without a word; the older one is alive all the same.
func TestAnOlderSessionGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, older, _ := two(t)
		defer m.end()
		m.beatFor(10*time.Minute, []*voice{older})
		m.wantCalls()
		m.hear(older.beat(heartbeat.Leaving), "")
		time.Sleep(time.Hour)
		m.wantCalls(at(10*time.Minute, leftPod))
	})
}

// A session that was heard within the timeout may be alive. If it is not, the
// instance has died: nobody said good-bye for it.
func TestWhenAGoodByeIsTheLast(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration // since the other session was heard
		want  call
	}{
		{0, at(90*time.Second, expiredPod)},
		{90*time.Second - 1, at(180*time.Second-1, expiredPod)},
		{90 * time.Second, at(90*time.Second, leftPod)},
	} {
		t.Run(tt.after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _, newer := two(t)
				defer m.end()
				for ; tt.after >= time.Minute; tt.after -= time.Minute {
					time.Sleep(time.Minute)
					m.hear(newer.beat(heartbeat.Up), "")
				}
				time.Sleep(tt.after)
				m.hear(newer.beat(heartbeat.Leaving), "")
				time.Sleep(10 * time.Minute)
				m.wantCalls(tt.want)
			})
		})
	}
}

// Attack 43 with two sessions: nothing that either said counts twice.
func TestReplaysOfEitherSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		older, newer, gone := speak(reader, pod, "3.1"), speak(reader, pod, "3.1"), speak(reader, pod, "3.1")
		var said []heartbeat.Beat
		say := func(b heartbeat.Beat) {
			t.Helper()
			m.hear(b, "")
			said = append(said, b)
			for _, b := range said {
				m.hear(b, denial.Replayed)
			}
		}
		for range 3 {
			say(older.beat(heartbeat.Up))
			say(gone.beat(heartbeat.Up))
			say(newer.beat(heartbeat.Up))
		}
		say(gone.beat(heartbeat.Leaving))
		say(older.beat(heartbeat.Up))
		for range 8 {
			time.Sleep(10 * time.Second)
			for _, b := range said {
				m.hear(b, denial.Replayed)
			}
		}
		time.Sleep(time.Minute)
		m.wantCalls(at(90*time.Second, expiredPod))
	})
}

// After the instance left, no session of before comes back under its epoch,
// also one that had died without a good-bye.
func TestNoSessionOutlivesALeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, older, newer := two(t)
		defer m.end()
		m.beatFor(2*time.Minute, []*voice{newer})
		m.hear(newer.beat(heartbeat.Leaving), "")
		m.watch(reader, pod, "3.1")
		m.hear(older.beat(heartbeat.Up), denial.Replayed)
		m.hear(newer.beat(heartbeat.Up), denial.Replayed)
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Up), "")
	})
}

func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		voices := make([]*voice, maxSessions)
		for i := range voices {
			voices[i] = speak(reader, pod, "3.1")
			m.hear(voices[i].beat(heartbeat.Up), "")
			time.Sleep(time.Second)
		}
		// A good-bye needs no room, even from a session that was never heard.
		m.hear(speak(reader, pod, "3.1").beat(heartbeat.Leaving), "")
		for _, v := range voices {
			m.hear(v.beat(heartbeat.Up), "")
		}
		time.Sleep(time.Second)
		for i, v := range voices {
			if i != 1 { // which is then the one not heard for longest
				m.hear(v.beat(heartbeat.Up), "")
			}
		}
		extra := speak(reader, pod, "3.1")
		m.hear(extra.beat(heartbeat.Up), "")
		evicted := voices[1]
		m.hear(evicted.beat(heartbeat.Up), denial.Replayed)
		m.hear(evicted.beat(heartbeat.Leaving), denial.Replayed)
		voices[1] = extra
		for _, v := range voices {
			m.hear(v.beat(heartbeat.Up), "")
		}

		// A good-bye makes room: nobody else has to go.
		m.hear(voices[5].beat(heartbeat.Leaving), "")
		voices[5] = speak(reader, pod, "3.1")
		for _, v := range voices {
			m.hear(v.beat(heartbeat.Up), "")
		}
		m.wantCalls()
	})
}

func TestSessionsThatAreOverAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.watch(reader, pod, "3.1")
		stays := speak(reader, pod, "3.1")
		m.hear(stays.beat(heartbeat.Up), "")
		over := make([]*voice, maxOver+1)
		for i := range over {
			over[i] = speak(reader, pod, "3.1")
			m.hear(over[i].beat(heartbeat.Up), "")
			m.hear(over[i].beat(heartbeat.Leaving), "")
		}
		for _, v := range over[1:] {
			m.hear(v.beat(heartbeat.Up), denial.Replayed)
		}
		m.hear(over[0].beat(heartbeat.Up), "") // the memory is bounded
		m.hear(stays.beat(heartbeat.Up), "")
		m.wantCalls()
	})
}

func TestSessionsAndEpochs(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(m *mesh, old, ahead *voice)
		want []call
	}{
		// The client may know its new epoch before this monitor does.
		{"one ahead of its admission goes on after it", func(m *mesh, old, ahead *voice) {
			b := ahead.beat(heartbeat.Up)
			m.hear(b, "")
			m.watch(reader, pod, "3.2")
			m.hear(b, denial.Replayed)
			m.hear(old.beat(heartbeat.Up), denial.StaleEpoch)
			m.beatFor(10*time.Minute, []*voice{ahead})
		}, nil},
		{"one that left ahead of its admission is over", func(m *mesh, old, ahead *voice) {
			other := speak(reader, pod, "3.2")
			m.hear(other.beat(heartbeat.Up), "")
			m.hear(ahead.beat(heartbeat.Leaving), "")
			m.watch(reader, pod, "3.2")
			m.hear(ahead.beat(heartbeat.Up), denial.Replayed)
			m.beatFor(2*time.Minute, []*voice{other})
		}, nil},
		{"one of the epoch before does not keep the instance", func(m *mesh, old, ahead *voice) {
			m.hear(ahead.beat(heartbeat.Up), "")
			m.hear(ahead.beat(heartbeat.Leaving), "")
		}, []call{leftPod}},
		{"nor does it after the admission", func(m *mesh, old, ahead *voice) {
			m.watch(reader, pod, "3.2")
			m.hear(ahead.beat(heartbeat.Leaving), "")
		}, []call{{what: "left", who: name(reader, pod), epoch: "3.2"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				m.watch(reader, pod, "3.1")
				old, ahead := speak(reader, pod, "3.1"), speak(reader, pod, "3.2")
				m.hear(old.beat(heartbeat.Up), "")
				tt.do(m, old, ahead)
				m.wantCalls(tt.want...)
			})
		})
	}
}

// A session is not silent because nobody could hear it, and one that was silent
// before is not heard because nobody could hear it since.
func TestSessionsThatCouldNotBeHeard(t *testing.T) {
	deaf := func(m *mesh) {
		m.mute()
		time.Sleep(10 * time.Minute)
	}
	for _, tt := range []struct {
		name string
		do   func(m *mesh, newer *voice)
		want string
	}{
		{"while blind", func(m *mesh, _ *voice) { deaf(m); m.CanaryReturned(time.Now().Add(-time.Minute)) }, ""},
		{"after it", func(m *mesh, _ *voice) { deaf(m); m.sing() }, ""},
		{"a timeout after it", func(m *mesh, newer *voice) { deaf(m); m.sing(); m.beatFor(90*time.Second, []*voice{newer}) }, "left"},
		{"gap", func(m *mesh, newer *voice) {
			m.beatFor(time.Minute, []*voice{newer})
			m.Gap()
			m.beatFor(time.Minute, []*voice{newer})
		}, ""},
		{"silent before the gap", func(m *mesh, newer *voice) {
			m.beatFor(3*time.Minute, []*voice{newer})
			m.Gap()
			m.beatFor(time.Minute, []*voice{newer})
		}, "left"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, _, newer := two(t)
				tt.do(m, newer)
				m.hear(newer.beat(heartbeat.Leaving), "")
				synctest.Wait()
				got := ""
				for _, c := range m.registry.all() {
					got += c.what
				}
				if got != tt.want {
					t.Errorf("asked of the registry: %q, want %q", got, tt.want)
				}
				m.Close()
				select {
				case <-m.stop:
				default:
					m.mute()
				}
			})
		})
	}
}

// While the brake is on, the silence of a session is not its own yet.
func TestSessionsWhileHeld(t *testing.T) {
	for _, confirm := range []bool{false, true} {
		t.Run(fmt.Sprint("confirmed ", confirm), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				m.crowd(8)
				time.Sleep(30 * time.Second)
				m.watch(reader, pod, "3.1")
				older, newer := speak(reader, pod, "3.1"), speak(reader, pod, "3.1")
				m.hear(older.beat(heartbeat.Up), "")
				m.hear(newer.beat(heartbeat.Up), "")
				time.Sleep(80 * time.Second)
				if s := m.Status(); s.State != heartbeat.Held {
					t.Fatalf("state %q, want held", s.State)
				}
				m.hear(newer.beat(heartbeat.Up), "")
				time.Sleep(80 * time.Second)
				if confirm {
					if err := m.Confirm(); err != nil {
						t.Fatal(err)
					}
				}
				m.hear(newer.beat(heartbeat.Leaving), "")
				synctest.Wait()
				left := false
				for _, c := range m.registry.all() {
					left = left || c.what == "left"
				}
				if left != confirm {
					t.Errorf("left: %v, want %v", left, confirm)
				}
			})
		})
	}
}

// Whoever speaks while the registry cannot be asked decides what it means.
func TestSessionsWhileTheRegistryIsAsked(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(older, newer *voice) []heartbeat.Beat
		want []call
	}{
		{"a good-bye and a beat", func(older, newer *voice) []heartbeat.Beat {
			return []heartbeat.Beat{newer.beat(heartbeat.Leaving), older.beat(heartbeat.Up)}
		}, []call{expiredPod}},
		{"a beat and a good-bye", func(older, newer *voice) []heartbeat.Beat {
			return []heartbeat.Beat{older.beat(heartbeat.Up), newer.beat(heartbeat.Leaving)}
		}, []call{expiredPod}},
		{"two good-byes", func(older, newer *voice) []heartbeat.Beat {
			return []heartbeat.Beat{older.beat(heartbeat.Leaving), newer.beat(heartbeat.Leaving)}
		}, []call{expiredPod, leftPod}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				m.registry.hold = 5 * time.Second
				m.registry.fail = func(n int) error {
					if n == 0 {
						return errors.New("away")
					}
					return nil
				}
				m.watch(reader, pod, "3.1")
				older, newer := speak(reader, pod, "3.1"), speak(reader, pod, "3.1")
				m.hear(older.beat(heartbeat.Up), "")
				m.hear(newer.beat(heartbeat.Up), "")
				time.Sleep(92 * time.Second)
				for _, b := range tt.say(older, newer) {
					m.hear(b, "")
				}
				time.Sleep(time.Minute)
				m.wantCalls(tt.want...)
			})
		})
	}
}

func TestSeenOfSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, older, newer := two(t)
		defer m.end()
		say := func(v *voice, state heartbeat.State, client string, calls uint32) {
			t.Helper()
			b := v.beat(state)
			b.Client, b.InFlight = client, calls
			m.hear(b, "")
		}
		want := func(client string, calls uint32, age time.Duration) {
			t.Helper()
			got, ok := m.Seen(reader, pod)
			if !ok || got.Client != client || got.InFlight != calls || time.Since(got.LastBeat) != age {
				t.Errorf("Seen = %+v (%v old), %v, want client %s with %d calls %v ago", got, time.Since(got.LastBeat), ok, client, calls, age)
			}
		}
		say(older, heartbeat.Up, "older", 2)
		say(newer, heartbeat.Up, "newer", 1<<32-1)
		want("newer", 1<<32-1, 0)
		say(newer, heartbeat.Up, "newer", 5)
		want("newer", 7, 0)
		time.Sleep(time.Minute)
		say(older, heartbeat.Up, "older", 3)
		want("older", 8, 0)
		time.Sleep(30 * time.Second)
		want("older", 3, 30*time.Second) // the newer one is silent
		say(newer, heartbeat.Up, "newer", 4)
		want("newer", 7, 0)
		say(newer, heartbeat.Leaving, "newer", 4)
		want("newer", 3, 0)
		m.watch(reader, pod, "3.2") // which cut the other one
		want("newer", 0, 0)
	})
}

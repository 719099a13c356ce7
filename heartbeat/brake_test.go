package heartbeat_test

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
)

// Attack 44: a partition that keeps many beats away must not expire anybody,
// not even those whose time is up first.
func TestBrake(t *testing.T) {
	for _, tt := range []struct {
		name       string
		all, quiet int
		braked     bool
	}{
		{"all of a small mesh", 4, 4, false},
		{"five of a small mesh", 5, 5, true},
		{"at the share", 20, 6, false},
		{"above the share", 20, 7, true},
		{"everybody", 40, 40, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				voices := m.crowd(tt.all)
				m.beatFor(5*time.Minute, voices)
				if tt.quiet == tt.all {
					time.Sleep(5 * time.Minute)
				} else {
					// Those who fall silent had beaten all over the interval.
					rest := slices.Clone(voices)
					for i := range tt.quiet {
						rest[i*tt.all/tt.quiet] = nil
					}
					rest = slices.DeleteFunc(rest, func(v *voice) bool { return v == nil })
					m.beatFor(5*time.Minute, rest)
				}
				synctest.Wait()
				expired, alarms := m.registry.all(), m.seenAlarms()
				switch {
				case !tt.braked && (len(expired) != tt.quiet || len(alarms) != 0):
					t.Errorf("expired %d with alarms %+v, want %d and none", len(expired), alarms, tt.quiet)
				case tt.braked && len(expired) != 0:
					t.Errorf("expired %d before the brake, want 0", len(expired))
				case tt.braked && (len(alarms) != 1 || alarms[0].Kind != heartbeat.AlarmMassExpiry ||
					alarms[0].WouldExpire != tt.quiet || alarms[0].Watched != tt.all || len(alarms[0].Silent) != min(tt.quiet, 20)):
					t.Errorf("got alarms %+v, want one about %d of %d", alarms, tt.quiet, tt.all)
				}
				if got := m.Status(); (got.State == heartbeat.Held) != tt.braked || (got.Held != nil) != tt.braked {
					t.Errorf("status %+v, want held: %v", got, tt.braked)
				}
			})
		})
	}
}

// braked returns a mesh of 20 of which 10 fell silent, with the brake on.
func braked(t *testing.T) (m *mesh, rest []*voice) {
	t.Helper()
	m = start(t)
	voices := m.crowd(20)
	m.beatFor(time.Minute, voices)
	m.beatFor(2*time.Minute, voices[10:])
	if got := m.Status(); got.State != heartbeat.Held || got.SilentCount != 10 {
		t.Fatalf("got status %+v, want held with 10 silent", got)
	}
	m.wantCalls()
	return m, voices[10:]
}

func TestBrakeHoldsUntilAnOperatorDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rest := braked(t)
		defer m.end()
		m.beatFor(time.Hour, rest)
		m.wantCalls()
		if n := len(m.seenAlarms()); n != 1 {
			t.Errorf("got %d alarms, want 1", n)
		}
		// Leaving needs no judgement and is taken note of.
		m.hear(rest[0].beat(heartbeat.Leaving), "")
		m.wantCalls(call{what: "left", who: name(rest[0].id, rest[0].instance), epoch: "1.1"})
	})
}

func TestReleaseGivesEverybodyATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rest := braked(t)
		defer m.end()
		if err := m.Release(); err != nil {
			t.Fatal(err)
		}
		if got := m.Status(); got.State != heartbeat.Grace || got.GraceMS != 90_000 || got.SilentCount != 0 {
			t.Errorf("got status %+v, want a grace of 90 s", got)
		}
		m.beatFor(time.Minute, rest)
		m.wantCalls()
		// Still silent after the new timeout: the brake comes on again.
		m.beatFor(time.Minute, rest)
		m.wantCalls()
		if n := len(m.seenAlarms()); n != 2 {
			t.Errorf("got %d alarms, want 2", n)
		}
	})
}

func TestConfirmGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, rest := braked(t)
		defer m.end()
		if err := m.Confirm(); err != nil {
			t.Fatal(err)
		}
		m.beatFor(2*time.Minute, rest)
		synctest.Wait()
		if got := m.registry.all(); len(got) != 10 {
			t.Fatalf("expired %d, want the 10 that were confirmed: %s", len(got), show(got))
		}
		// What was confirmed covers nobody else.
		m.beatFor(5*time.Minute, rest[5:])
		synctest.Wait()
		if got := m.registry.all(); len(got) != 10 {
			t.Errorf("expired %d, want 10: five more of ten need another word", len(got))
		}
		if n := len(m.seenAlarms()); n != 2 {
			t.Errorf("got %d alarms, want 2", n)
		}
	})
}

// Slow deaths count together while they fall into one timeout, and who recovers
// after a confirmation counts anew.
func TestBrakeCountsOneTimeoutBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		every  time.Duration // between two deaths
		deaths int
		want   int
		braked bool
	}{
		{"ten within seconds", time.Second, 10, 0, true},
		{"one in a minute", time.Minute, 10, 10, false},
		{"four a timeout", 25 * time.Second, 10, 10, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := start(t)
				defer m.end()
				voices := m.crowd(30)
				end := time.Now().Add(20 * time.Minute)
				for i, v := range voices {
					go func() {
						last := end
						if i < tt.deaths {
							last = time.Now().Add(5*time.Minute + time.Duration(i)*tt.every)
						}
						// Phases over the whole interval.
						time.Sleep(time.Duration(i) * time.Second)
						for !time.Now().After(last) {
							m.hear(v.beat(heartbeat.Up), "")
							time.Sleep(30 * time.Second)
						}
					}()
				}
				time.Sleep(18 * time.Minute)
				synctest.Wait()
				got, state := m.registry.all(), m.Status().State
				if len(got) != tt.want || (state == heartbeat.Held) != tt.braked {
					t.Errorf("expired %d, state %q, want %d, held: %v", len(got), state, tt.want, tt.braked)
				}
				time.Sleep(5 * time.Minute)
			})
		})
	}
}

func TestWhoRecoversAfterAConfirmationCountsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		voices := m.crowd(20)
		m.beatFor(time.Minute, voices)
		m.beatFor(time.Minute, voices[10:])
		synctest.Wait()
		if err := m.Confirm(); err != nil {
			t.Fatal(err)
		}
		for _, v := range voices[1:10] {
			m.hear(v.beat(heartbeat.Up), "")
		}
		m.beatFor(5*time.Minute, voices[10:])
		m.wantCalls(call{what: "expire heartbeat-timeout", who: name(voices[0].id, voices[0].instance), epoch: "1.1"})
		if got := m.Status(); got.State != heartbeat.Held || got.SilentCount != 9 {
			t.Errorf("got status %+v, want held with 9 silent", got)
		}
	})
}

// Asking again and again while the registry is away is one death, not many.
func TestBrakeCountsADeathOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		m.registry.fail = func(n int) error {
			if n < 20 {
				return errors.New("away")
			}
			return nil
		}
		voices := m.crowd(20)
		m.beatFor(time.Minute, voices)
		m.beatFor(5*time.Minute, voices[2:])
		synctest.Wait()
		if n := len(m.registry.all()); n != 22 || m.Status().State != heartbeat.Judging {
			t.Errorf("%d calls in state %q, want 20 in vain and 2 more, judging", n, m.Status().State)
		}
	})
}

func TestDecisionsNeedTheBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		for what, err := range map[string]error{"Release": m.Release(), "Confirm": m.Confirm()} {
			if denial.Of(err) != denial.WrongState {
				t.Errorf("%s without the brake: %v, want %s", what, err, denial.WrongState)
			}
		}
	})
}

// What another replica expired, and the registry told this one to forget,
// counts for the brake here too.
func TestBrakeCountsWhatOthersExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := start(t)
		defer m.end()
		voices := m.crowd(20)
		m.beatFor(time.Minute, voices)
		m.beatFor(30*time.Second, voices[6:])
		for _, v := range voices[:6] {
			m.Forget(v.id, v.instance)
		}
		m.beatFor(90*time.Second, voices[7:])
		synctest.Wait()
		if got := m.registry.all(); len(got) != 0 || m.Status().State != heartbeat.Held {
			t.Errorf("expired %d in state %q, want the seventh of 20 to be held", len(got), m.Status().State)
		}
	})
}

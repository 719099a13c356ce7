package authcallout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/authcallout"
)

func TestSource(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1":             "10.0.0.1",
		"::ffff:10.0.0.1":      "10.0.0.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"2001:db8:1:2::9":      "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
		"":                     "",
		"pipe":                 "pipe",
	} {
		if got := authcallout.Source(in); got != want {
			t.Errorf("Source(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestServerInbox(t *testing.T) {
	for in, want := range map[string]bool{
		"$SYS._INBOX.aBcDeFgH.x":                true,
		"_GR_.cluster.server.$SYS._INBOX.abc.x": true,
		"":                                      false,
		"_INBOX.x":                              false,
		"$SYS.REQ.SERVER.x.KICK":                false,
		"$KV.MESH_AGENTS.reader":                false,
		"mesh.$SYS._INBOX.x":                    false,
	} {
		if got := authcallout.ServerInbox(in); got != want {
			t.Errorf("ServerInbox(%q): got %v, want %v", in, got, want)
		}
	}
}

func TestThrottleIsBounded(t *testing.T) {
	th := authcallout.NewThrottle()
	now := time.Unix(1000, 0)
	for i := range 3 * authcallout.MaxSources {
		th.Failed(fmt.Sprint(i), now)
	}
	if n := th.Sources(); n > authcallout.MaxSources {
		t.Errorf("got %d sources, want at most %d", n, authcallout.MaxSources)
	}
	for i := range 2 * authcallout.MaxKnown {
		th.Succeeded("x", fmt.Sprint(i))
	}
	if n := th.Known(); n != authcallout.MaxKnown {
		t.Errorf("got %d known keys, want %d", n, authcallout.MaxKnown)
	}
	// Those that failed least make room: the one that floods stays known.
	th = authcallout.NewThrottle()
	for i := range authcallout.MaxSources - 1 {
		th.Failed(fmt.Sprint(i), now)
	}
	now = now.Add(authcallout.FailureEvery)
	for range authcallout.FailureBurst {
		th.Failed("flood", now)
	}
	for i := range 100 {
		th.Failed(fmt.Sprint("new", i), now)
	}
	if ok, _, _ := th.Admits("flood", "", now); ok {
		t.Error("the flooding source was forgotten while idle ones were there")
	}
}

func TestThrottleSurvivesClockSteps(t *testing.T) {
	th := authcallout.NewThrottle()
	now := time.Unix(1000, 0)
	for range authcallout.FailureBurst {
		th.Failed("x", now)
	}
	if ok, _, _ := th.Admits("x", "", now.Add(-time.Hour)); ok {
		t.Error("a step back refilled the bucket")
	}
	if ok, report, _ := th.Admits("x", "", now.Add(authcallout.FailureEvery-1)); ok || !report {
		t.Errorf("got %v, report %v just before a token is due", ok, report)
	}
	if ok, _, _ := th.Admits("x", "", now.Add(authcallout.FailureEvery)); !ok {
		t.Error("got no token when it was due")
	}
	if ok, _, _ := th.Admits("x", "", now.Add(1000*time.Hour)); !ok {
		t.Error("got no token after weeks")
	}
}

func TestMemoryIsBounded(t *testing.T) {
	m := authcallout.NewMemory()
	put := func(i int) { m.Put(authcallout.Decision{ID: fmt.Sprint("d-", i), Key: fmt.Sprint(i)}) }
	for i := range authcallout.Remembered + 10 {
		put(i)
		if i == 5 {
			// Admitted and refused again: still one place.
			m.Forget("5")
			if _, ok := m.Get("5"); ok {
				t.Error("got a denial after an admission")
			}
			put(5)
		}
	}
	for i, want := range map[int]bool{0: false, 9: false, 10: true, authcallout.Remembered + 9: true} {
		if _, ok := m.Get(fmt.Sprint(i)); ok != want {
			t.Errorf("key %d: got %v, want %v", i, ok, want)
		}
	}
	if _, ok := m.Get("never"); ok {
		t.Error("got a denial of a key that was never refused")
	}
}

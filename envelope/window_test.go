package envelope_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

func TestFreshness(t *testing.T) {
	a := agent(t, "writer")
	narrow, err := envelope.NewWindow(time.Minute, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		age  time.Duration
		w    envelope.Window
		want denial.Reason
	}{
		{"now", 0, envelope.DefaultWindow(), ""},
		{"as old as allowed", limits.Window, envelope.DefaultWindow(), ""},
		{"too old", limits.Window + 1, envelope.DefaultWindow(), denial.Stale},
		{"as far ahead as allowed", -limits.Ahead, envelope.DefaultWindow(), ""},
		{"too far ahead", -limits.Ahead - 1, envelope.DefaultWindow(), denial.Future},
		{"a year ahead", -365 * 24 * time.Hour, envelope.DefaultWindow(), denial.Future},
		{"narrow", time.Minute, narrow, ""},
		{"too old for a narrow window", time.Minute + 1, narrow, denial.Stale},
		{"too far ahead for a narrow window", -time.Second - 1, narrow, denial.Future},
		{"no window", 0, envelope.Window{}, denial.Stale},
	} {
		if err := mustParse(t, a.message(t, t0)).CheckTime(t0.Add(c.age), c.w); denial.Of(err) != c.want {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

func TestExtremeTimestamps(t *testing.T) {
	a := agent(t, "writer")
	for _, ms := range []int64{0, 1, 1<<53 - 1} {
		u := mustParse(t, a.message(t, time.UnixMilli(ms)))
		if err := u.CheckTime(t0, envelope.DefaultWindow()); err == nil {
			t.Errorf("ts=%d is fresh", ms)
		}
	}
}

func TestWindowsAreNarrowerThanTheDefault(t *testing.T) {
	for _, c := range []struct{ past, ahead time.Duration }{
		{limits.Window + 1, 0}, {0, limits.Ahead + 1}, {-time.Second, 0}, {0, -time.Second}, {time.Microsecond, 0}, {0, time.Microsecond},
	} {
		if w, err := envelope.NewWindow(c.past, c.ahead); err == nil || w != (envelope.Window{}) {
			t.Errorf("%v, %v: got %v, %v", c.past, c.ahead, w, err)
		}
	}
	if w, err := envelope.NewWindow(0, 0); err != nil || w != envelope.DefaultWindow() {
		t.Errorf("got %v, %v, want the defaults", w, err)
	}
}

func TestBudget(t *testing.T) {
	a := agent(t, "writer")
	f := a.fields()
	f.Deadline = 30 * time.Second
	m, _ := a.sign(t, f, call, nil, "", nil)
	u, v := mustParse(t, m), a.mustVerify(t, m, nil)
	for _, c := range []struct {
		age, left time.Duration
		want      denial.Reason
	}{
		{-10 * time.Second, 30 * time.Second, ""}, // a slow clock gives no more than was said
		{0, 30 * time.Second, ""},
		{29 * time.Second, time.Second, ""},
		{30*time.Second - 1, 1, ""},
		{30 * time.Second, 0, denial.DeadlinePassed},
		{time.Minute, 0, denial.DeadlinePassed},
	} {
		if err := u.CheckTime(t0.Add(c.age), envelope.DefaultWindow()); denial.Of(err) != c.want {
			t.Errorf("%v: got %v, want %q", c.age, err, c.want)
		}
		if left, ok := v.Remaining(t0.Add(c.age)); left != c.left || !ok {
			t.Errorf("%v: got %v left, want %v", c.age, left, c.left)
		}
	}
	if _, ok := a.mustVerify(t, a.message(t, t0), nil).Remaining(t0); ok {
		t.Error("a message without dl has a budget")
	}
}

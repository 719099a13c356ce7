package envelope

import (
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// Window is how far a message's timestamp may lie from the receiver's clock. In
// the zero Window nothing is fresh.
type Window struct{ past, ahead time.Duration }

// DefaultWindow is limits.Window into the past and limits.Ahead into the future.
func DefaultWindow() Window { return Window{limits.Window, limits.Ahead} }

// NewWindow returns a narrower window, with 0 for a default. It can only be
// narrower: the shared replay store forgets what is older than the defaults.
func NewWindow(past, ahead time.Duration) (Window, error) {
	w := DefaultWindow()
	if past != 0 {
		w.past = past
	}
	if ahead != 0 {
		w.ahead = ahead
	}
	if w.past < time.Millisecond || w.past > limits.Window || w.ahead < time.Millisecond || w.ahead > limits.Ahead {
		return Window{}, fmt.Errorf("envelope: window of %v and %v ahead is not within %v and %v", past, ahead, limits.Window, limits.Ahead)
	}
	return w, nil
}

func (w Window) check(ts, now time.Time) error {
	switch age := now.Sub(ts); {
	case w == Window{}:
		return denial.New(denial.Stale, "no window is set")
	case age > w.past:
		return denial.New(denial.Stale, "%v old, of %v", age, w.past)
	case age < -w.ahead: // not -age: Sub gives the least Duration there is for a far future
		return denial.New(denial.Future, "%v ahead, of %v", ts.Sub(now), w.ahead)
	}
	return nil
}

// expiry is when a message sent at ts can no longer be fresh to any clock that
// differs by less than ahead, in Unix milliseconds.
func (w Window) expiry(ts time.Time) int64 { return ts.Add(w.past + w.ahead).UnixMilli() }

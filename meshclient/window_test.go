package meshclient_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// told is the other side of a window: it writes down what was sent.
type told struct {
	parts []string
	fail  error
}

func (s *told) say(part string, data []byte) error {
	if s.fail != nil {
		return s.fail
	}
	s.parts = append(s.parts, fmt.Sprintf("%s:%d", part, len(data)))
	return nil
}

// What is not confirmed is sent again after two seconds, and then as long again as
// it has waited, fifteen seconds at most; and the silence of the other side counts
// from its last word.
func TestWindowSendsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s told
		w := meshclient.NewWindow(s.say)
		ctx := t.Context()
		if err := errors.Join(w.Send(ctx, ctx, []byte("a")), w.Send(ctx, ctx, []byte("bc"))); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var at []string
		for range 60 {
			again, sign, silent, next, done := w.Due(time.Now())
			if len(again) > 0 {
				at = append(at, fmt.Sprintf("%.0f:%s", time.Since(start).Seconds(), strings.Join(again, ",")))
			}
			if sign || done || silent != time.Since(start) {
				t.Errorf("after %s: sign %v, done %v, silent for %s", time.Since(start), sign, done, silent)
			}
			if next.After(time.Now().Add(meshclient.SignEvery)) || !next.After(time.Now()) {
				t.Errorf("after %s: the next look is in %s", time.Since(start), time.Until(next))
			}
			time.Sleep(time.Second)
		}
		if want := []string{"2:1,2", "4:1,2", "8:1,2", "16:1,2", "31:1,2", "46:1,2"}; !slices.Equal(at, want) {
			t.Errorf("sent again at %v, want %v", at, want)
		}
		w.Confirmed(1, 40)
		if again, _, silent, _, _ := w.Due(time.Now().Add(meshclient.AgainMost)); !slices.Equal(again, []string{"2"}) || silent != meshclient.AgainMost {
			t.Errorf("once the first came: got %v, silent for %s", again, silent)
		}
		w.Confirmed(2, 40)
		if n, bytes, noted := w.Open(); n != 0 || bytes != 0 || noted != 0 {
			t.Errorf("%d parts of %d bytes are kept that came, noted as %d", n, bytes, noted)
		}
	})
}

// What is on a slow way, and comes one by one, is not sent again; what stops all
// others is.
func TestWindowOfASlowWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s told
		w := meshclient.NewWindow(s.say)
		for range 20 {
			if err := w.Send(t.Context(), t.Context(), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		for n := 1; n <= 15; n++ {
			time.Sleep(time.Second)
			if again, _, _, next, _ := w.Due(time.Now()); n > 2 && (len(again) > 0 || !next.After(time.Now())) {
				t.Errorf("after %d s: %v are sent again, and the next look is in %s", n, again, time.Until(next))
			}
			w.Confirmed(n, 40)
		}
		time.Sleep(meshclient.SignEvery)
		if again, _, _, _, _ := w.Due(time.Now()); !slices.Equal(again, []string{"16", "17", "18", "19", "20"}) {
			t.Errorf("once nothing more came: %v are sent again", again)
		}
	})
}

// Nothing is begun that the other side must refuse.
func TestWindowBoundsPieces(t *testing.T) {
	var s told
	w := meshclient.NewWindow(s.say)
	if err := w.Send(within(t, 10*time.Second), t.Context(), make([]byte, 64<<20+1)); !errors.Is(err, denial.TooLarge) || w.Sent() != 0 {
		t.Errorf("got %v and %d parts, want %s and none", err, w.Sent(), denial.TooLarge)
	}
}

// A sign of life is due at once where nothing was said at all, and then whenever
// nothing was said for two seconds, not for four.
func TestWindowSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s told
		w := meshclient.NewWindow(s.say)
		start, signs := time.Now(), 0
		for time.Since(start) < 20*time.Second {
			_, sign, _, next, _ := w.Due(time.Now())
			if sign {
				signs++
				if err := w.Put(nil, false); err != nil {
					t.Fatal(err)
				}
				w.Confirmed(signs, 0)
			}
			time.Sleep(time.Until(next))
		}
		if signs != 10 {
			t.Errorf("got %d signs of life in 20 s, want 10", signs)
		}
		if err := w.Put([]byte("end"), true); err != nil {
			t.Fatal(err)
		}
		w.Confirmed(signs+1, 0)
		if _, sign, _, _, done := w.Due(time.Now().Add(time.Minute)); sign || !done {
			t.Errorf("after the end: sign %v, done %v", sign, done)
		}
		if err := w.Put(nil, false); err == nil {
			t.Error("something follows the last part")
		}
	})
}

// Whoever confirms what was never sent is not heard, and room without end is not
// taken at its word.
func TestWindowBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s told
		w := meshclient.NewWindow(s.say)
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			for {
				if err := w.Send(ctx, t.Context(), []byte("x")); err != nil {
					failed <- err
					return
				}
			}
		}()
		synctest.Wait()
		if n := w.Sent(); n != meshclient.StreamParts {
			t.Errorf("%d parts were sent before the first word, want %d", n, meshclient.StreamParts)
		}
		for _, parts := range []int{-1, meshclient.StreamParts + 1, 1 << 40} {
			w.Confirmed(parts, 1<<40)
		}
		synctest.Wait()
		if n := w.Sent(); n != meshclient.StreamParts {
			t.Errorf("%d parts were sent for confirmations of parts that never were", n)
		}
		w.Confirmed(0, 1<<40)
		synctest.Wait()
		if n, _, _ := w.Open(); n != meshclient.OpenMost {
			t.Errorf("%d parts are kept, want %d", n, meshclient.OpenMost)
		}
		// Somebody else who waits for its turn is not held by the one before.
		short, stop := context.WithTimeoutCause(t.Context(), time.Second, denial.Overloaded)
		defer stop()
		if err := w.Send(short, t.Context(), nil); !errors.Is(err, denial.Overloaded) {
			t.Errorf("got %v, want the cause of its own context", err)
		}
		if err := w.Send(t.Context(), short, nil); !errors.Is(err, denial.Overloaded) {
			t.Errorf("got %v, want the cause of the handler's context", err)
		}
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v from the one before", err)
		}
	})
}

func TestWindowBoundsBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s told
		w := meshclient.NewWindow(s.say)
		big := make([]byte, meshclient.StreamBytes/2+1)
		go func() {
			for range 2 {
				if err := w.Send(t.Context(), t.Context(), big); err != nil {
					t.Error(err)
				}
			}
			if err := w.Send(t.Context(), t.Context(), make([]byte, 2*meshclient.StreamBytes)); err != nil {
				t.Error(err)
			}
		}()
		for n := 1; n <= 3; n++ { // each waits for the one before
			synctest.Wait()
			if got := w.Sent(); got != n {
				t.Errorf("got %d parts, want %d", got, n)
			}
			w.Confirmed(n, 100)
		}
	})
}

// A part that the server does not take for its size counts for nothing, also where
// somebody confirmed it who guessed its number.
func TestWindowTakesBackWhatIsTooLarge(t *testing.T) {
	for _, guessed := range []bool{false, true} {
		var w *meshclient.Window
		var s told
		w = meshclient.NewWindow(func(part string, data []byte) error {
			if len(data) < 100 {
				return s.say(part, data)
			}
			if guessed {
				w.Confirmed(2, 100)
			}
			return nats.ErrMaxPayload
		})
		ctx := t.Context()
		if err := w.Send(ctx, ctx, []byte("a")); err != nil {
			t.Fatal(err)
		}
		for _, last := range []bool{false, true} {
			if err := w.Put(make([]byte, 100), last); !errors.Is(err, denial.TooLarge) {
				t.Errorf("got %v, want too-large", err)
			}
		}
		if err := w.Put([]byte("end"), true); err != nil {
			t.Errorf("something shorter: %v", err)
		}
		if want := []string{"1:1", "2/2:3"}; !slices.Equal(s.parts, want) {
			t.Errorf("got %v, want %v", s.parts, want)
		}
		if _, bytes, noted := w.Open(); bytes != noted {
			t.Errorf("%d bytes are kept, noted as %d", bytes, noted)
		}
	}
}

// Whatever the other side says, what is kept is what was sent and not confirmed, in
// order and within its bounds.
func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 0, 0, 3, 2, 40, 1, 9, 4, 200, 5, 7})
	f.Add([]byte{2, 255, 255, 0, 0, 0, 6, 6})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var s told
		w := meshclient.NewWindow(s.say)
		next := func() (b byte) {
			if len(ops) > 0 {
				b, ops = ops[0], ops[1:]
			}
			return b
		}
		now := time.Now()
		ended, done := context.WithCancel(t.Context())
		done()
		last := false
		for len(ops) > 0 {
			before := w.Sent()
			switch op := next(); op % 7 {
			case 0:
				err := w.Put(make([]byte, next()), false)
				if (err == nil) == last {
					t.Fatalf("got %v after the last part: %v", err, last)
				}
			case 1:
				w.Confirmed(int(int8(next())), int(next())<<8)
			case 2:
				w.Confirmed(before, int(next()))
			case 3:
				s.fail = nats.ErrMaxPayload
				if err := w.Put(nil, next() > 100); err == nil {
					t.Fatal("what the server does not take was sent")
				}
				s.fail = nil
			case 4:
				now = now.Add(time.Duration(next()) * time.Second)
				w.Due(now)
			case 5:
				if err := w.Send(ended, t.Context(), nil); err == nil {
					t.Fatal("sent for somebody who no longer waits")
				}
			case 6:
				if err := w.Put(nil, true); (err == nil) == last {
					t.Fatalf("got %v from the last part, after one: %v", err, last)
				}
				last = true
			}
			n, bytes, noted := w.Open()
			if bytes != noted || n > w.Sent() || w.Sent() < before || w.Sent() > before+1 {
				t.Fatalf("%d parts of %d bytes are kept, noted as %d; the last is %d, after %d", n, bytes, noted, w.Sent(), before)
			}
		}
		if n, _, _ := w.Open(); w.Close() != n {
			t.Error("what is left is not what was kept")
		}
	})
}

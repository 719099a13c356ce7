package heartbeat_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/heartbeat"
)

// wire keeps the beats that a sender sent.
type wire struct {
	mu    sync.Mutex
	beats []heartbeat.Beat
	times []time.Time
	fail  error
}

func (w *wire) send(_ context.Context, b heartbeat.Beat) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beats, w.times = append(w.beats, b), append(w.times, time.Now())
	return w.fail
}

func (w *wire) setFail(err error) { w.mu.Lock(); defer w.mu.Unlock(); w.fail = err }

func (w *wire) sent() []heartbeat.Beat {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]heartbeat.Beat(nil), w.beats...)
}

func newSender(t *testing.T, w *wire, change ...func(*heartbeat.SenderConfig)) *heartbeat.Sender {
	t.Helper()
	cfg := heartbeat.SenderConfig{Agent: reader, Instance: pod, Epoch: "3.1", Client: "test/1",
		InFlight: func() int { return 2 }, Send: w.send, Log: zerolog.Nop()}
	for _, c := range change {
		c(&cfg)
	}
	s, err := heartbeat.NewSender(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSenderBeatsAtOnceAndEveryInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		begin := time.Now()
		s := newSender(t, &w)
		synctest.Wait()
		if got := w.sent(); len(got) != 1 || time.Since(begin) != 0 {
			t.Fatalf("got %d beats at the start, want 1 at once", len(got))
		}
		time.Sleep(time.Hour)
		s.Close()
		different := false
		for i, b := range w.sent() {
			want := heartbeat.Beat{Agent: reader, Instance: pod, Session: s.Session(), Epoch: "3.1",
				Sequence: uint64(i + 1), State: heartbeat.Up, InFlight: 2, Client: "test/1"}
			if b != want {
				t.Fatalf("beat %d is %+v, want %+v", i, b, want)
			}
			if i == 0 {
				continue
			}
			// Never longer than the interval: three beats fit into a timeout.
			pause := w.times[i].Sub(w.times[i-1])
			if pause > 30*time.Second || pause < 27*time.Second {
				t.Errorf("pause of %v, want between 27s and 30s", pause)
			}
			different = different || pause != w.times[1].Sub(w.times[0])
		}
		if n := len(w.sent()); n < 120 || n > 134 || !different {
			t.Errorf("got %d beats in an hour (jittered: %v), want 120 to 134, jittered", n, different)
		}
		n := len(w.sent())
		time.Sleep(time.Hour)
		if len(w.sent()) != n {
			t.Error("beats after Close")
		}
		s.Close()
	})
}

func TestSenderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		s := newSender(t, &w)
		time.Sleep(time.Minute)
		before := w.sent()
		w.setFail(errors.New("away"))
		if err := s.Leave(t.Context()); err == nil {
			t.Error("Leave hides that it could not send")
		}
		w.setFail(nil)
		for range 2 {
			if err := s.Leave(t.Context()); err != nil {
				t.Errorf("Leave: %v", err)
			}
		}
		time.Sleep(time.Hour)
		after := w.sent()[len(before):]
		if len(after) != 2 {
			t.Fatalf("got %d beats after Leave, want the failed one and the repeated one", len(after))
		}
		for i, b := range after {
			if b.State != heartbeat.Leaving || b.Sequence != before[len(before)-1].Sequence+uint64(i+1) {
				t.Errorf("got %s with sequence %d after %d", b.State, b.Sequence, before[len(before)-1].Sequence)
			}
		}
		s.Close()
	})
}

// A Send that hangs must hold up neither Leave nor Close.
func TestSenderStopsAHangingSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		s := newSender(t, &w, func(c *heartbeat.SenderConfig) {
			c.Send = func(ctx context.Context, b heartbeat.Beat) error {
				if b.State == heartbeat.Up {
					<-ctx.Done()
					return ctx.Err()
				}
				return w.send(ctx, b)
			}
		})
		time.Sleep(95 * time.Second)
		begin := time.Now()
		if err := s.Leave(t.Context()); err != nil || time.Since(begin) != 0 {
			t.Errorf("Leave: %v after %v, want nil at once", err, time.Since(begin))
		}
		// Each attempt had one interval and burnt its number.
		if got := w.sent(); len(got) != 1 || got[0].Sequence != 3 {
			t.Errorf("got %+v, want one leaving beat with sequence 3", got)
		}
	})
}

func TestSenderRefusesWhatTheMonitorWould(t *testing.T) {
	for what, change := range map[string]func(*heartbeat.SenderConfig){
		"epoch":  func(c *heartbeat.SenderConfig) { c.Epoch = "3" },
		"agent":  func(c *heartbeat.SenderConfig) { c.Agent = agentid.ID{} },
		"client": func(c *heartbeat.SenderConfig) { c.Client = "a\nb" },
	} {
		cfg := heartbeat.SenderConfig{Agent: reader, Instance: pod, Epoch: "3.1", Send: (&wire{}).send}
		change(&cfg)
		if s, err := heartbeat.NewSender(cfg); denial.Of(err) != denial.BadInput {
			t.Errorf("%s: NewSender = %v, %v, want %s", what, s, err, denial.BadInput)
		}
	}
	if _, err := heartbeat.NewSender(heartbeat.SenderConfig{Agent: reader, Instance: pod, Epoch: "3.1"}); err == nil {
		t.Error("NewSender without Send: got nil, want an error")
	}
}

// A beat that is asked for goes out at once, and the next one an interval later.
func TestPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w wire
		prompt := make(chan struct{}, 1)
		s := newSender(t, &w, func(c *heartbeat.SenderConfig) { c.Prompt = prompt })
		defer s.Close()
		time.Sleep(10 * time.Second)
		prompt <- struct{}{}
		synctest.Wait()
		if n := len(w.sent()); n != 2 {
			t.Fatalf("%d beats after one was asked for, want 2", n)
		}
		time.Sleep(26 * time.Second)
		if n := len(w.sent()); n != 2 {
			t.Errorf("%d beats 26 s later, want still 2", n)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := len(w.sent()); n != 3 {
			t.Errorf("%d beats an interval later, want 3", n)
		}
	})
}

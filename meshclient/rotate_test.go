package meshclient_test

import (
	"context"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
)

// Connections are replaced while calls and events run over them, because their
// user JWTs end. Nothing is lost, nothing comes twice, nothing fails.
func TestRotationLosesNothing(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, append(options(), meshtest.Session(8*time.Second))...)
	server := m.Agent("server", meshtest.Handles("do:work"), meshtest.Subscribes("ticks"))
	client := m.Agent("client", meshtest.Calls("do:work"), meshtest.Publishes("ticks"))
	handle(t, server, "do:work", echo)

	var mu sync.Mutex
	seen := map[uint64]int{}
	if err := server.Subscribe("ticks", func(_ context.Context, e *meshclient.Event) {
		mu.Lock()
		defer mu.Unlock()
		seen[binary.BigEndian.Uint64(e.Data)]++
	}); err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithTimeout(t.Context(), 14*time.Second)
	defer stop()
	var calls, published atomic.Uint64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for run.Err() == nil {
				if _, err := client.Call(t.Context(), "do:work", []byte("x")); err != nil {
					t.Errorf("call %d: %v", calls.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	wg.Go(func() {
		for run.Err() == nil {
			n := published.Add(1)
			if err := client.Publish(t.Context(), "ticks", binary.BigEndian.AppendUint64(nil, n)); err != nil {
				t.Errorf("event %d: %v", n, err)
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	wg.Wait()
	eventually(t, "the last event", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen[published.Load()] > 0
	})
	mu.Lock()
	defer mu.Unlock()
	for n := uint64(1); n <= published.Load(); n++ {
		if seen[n] != 1 {
			t.Errorf("event %d came %d times", n, seen[n])
		}
	}
	if server.Rotations() < 2 || client.Rotations() < 2 {
		t.Errorf("got %d and %d rotations, want at least two each", server.Rotations(), client.Rotations())
	}
	t.Logf("%d calls and %d events over %d and %d rotations", calls.Load(), published.Load(), server.Rotations(), client.Rotations())
}

//go:build unix

package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// burns uses up nonces until the test ends, and fails the test if one that was
// acknowledged is ever taken again: not by the server that takes over, nor by one
// that comes back.
func (w *world) burns(nc *nats.Conn) {
	ctx, cancel := context.WithCancel(w.ctx)
	var wg sync.WaitGroup
	var taken []string
	wg.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			key := fmt.Sprintf("$KV.MESH_REPLAY.read.chaos.nobody.n%d", n)
			if burn(ctx, nc, key) {
				taken = append(taken, key)
			}
			if len(taken) == 0 {
				continue
			}
			for _, again := range []string{taken[len(taken)-1], taken[rand.IntN(len(taken))]} {
				if burn(ctx, nc, again) {
					w.root.Errorf("%s was used twice", again)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	w.root.Cleanup(func() {
		cancel()
		wg.Wait()
		w.root.Logf("%d nonces were used", len(taken))
		if len(taken) < 1000 {
			w.root.Errorf("only %d nonces were used", len(taken))
		}
	})
}

// burn reports whether the store took a nonce for unused.
func burn(ctx context.Context, nc *nats.Conn, key string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m, err := nc.RequestWithContext(ctx, key, nil)
	if err != nil {
		return false
	}
	var ack struct {
		Seq       uint64 `json:"seq"`
		Duplicate bool   `json:"duplicate"`
		Error     any    `json:"error"`
	}
	return json.Unmarshal(m.Data, &ack) == nil && ack.Error == nil && ack.Seq > 0 && !ack.Duplicate
}

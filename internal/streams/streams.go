// Package streams makes JetStream streams that several may make at the same
// moment.
package streams

import (
	"context"
	"time"
)

// look is how long an answer is awaited before one looks whether the stream is
// there.
const look = 250 * time.Millisecond

// Make makes or changes a stream, and returns what create does. In a cluster, of
// two that make one stream at the same moment often neither gets an answer,
// although the stream is made; they would wait for all of their time, and meet
// again at the next. So after a moment without an answer Make looks for the stream
// by find, and once it is there has create run anew, which then changes what it
// finds.
//
// create must be safe to repeat, and is left alone for a repetition.
func Make[T any](ctx context.Context, create, find func(context.Context) (T, error)) (T, error) {
	type result struct {
		made T
		err  error
	}
	first, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		made, err := create(first)
		done <- result{made, err}
	}()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case r := <-done:
			return r.made, r.err
		case <-tick.C:
		}
		if _, err := seen(ctx, find); err == nil {
			break
		}
	}
	select {
	case r := <-done:
		return r.made, r.err // while it was looked for
	default:
		cancel()
		<-done
		return create(ctx)
	}
}

func seen[T any](ctx context.Context, find func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, look)
	defer cancel()
	return find(ctx)
}

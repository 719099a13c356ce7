package streams_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/streams"
)

// silent waits for an answer that does not come.
func silent(ctx context.Context) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestMake(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, tt := range map[string]struct {
		create []func(context.Context) (int, error) // by turn
		find   func(context.Context) (int, error)
		made   int
		err    error
	}{
		"answered": {[]func(context.Context) (int, error){func(context.Context) (int, error) { return 1, nil }}, silent, 1, nil},
		"refused":  {[]func(context.Context) (int, error){func(context.Context) (int, error) { return 0, broken }}, silent, 0, broken},
		"silent, but there": {[]func(context.Context) (int, error){silent, func(context.Context) (int, error) { return 2, nil }},
			func(context.Context) (int, error) { return 9, nil }, 2, nil},
		"silent, there and refused": {[]func(context.Context) (int, error){silent, func(context.Context) (int, error) { return 0, broken }},
			func(context.Context) (int, error) { return 9, nil }, 0, broken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var n atomic.Int64
			made, err := streams.Make(ctx, func(ctx context.Context) (int, error) { return tt.create[n.Add(1)-1](ctx) }, tt.find)
			if made != tt.made || !errors.Is(err, tt.err) {
				t.Errorf("got %d, %v, want %d, %v", made, err, tt.made, tt.err)
			}
			if int(n.Load()) != len(tt.create) {
				t.Errorf("asked %d times, want %d", n.Load(), len(tt.create))
			}
		})
	}
}

// Who hears nothing and finds nothing waits as long as he may.
func TestMakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	looked := make(chan struct{})
	var n atomic.Int64
	go func() {
		<-looked
		cancel()
	}()
	_, err := streams.Make(ctx, silent, func(ctx context.Context) (int, error) {
		if n.Add(1) == 2 {
			close(looked)
		}
		return 0, errors.New("not found")
	})
	if !errors.Is(err, context.Canceled) || n.Load() < 2 {
		t.Errorf("got %v after %d looks", err, n.Load())
	}
}

package demo

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/meshclient"
)

// seen is what a handler of read:logs was given last.
type seen struct{ correlation, parent, from string }

var errNotSeen = errors.New("the handler was given nothing")

// employ gives the honest agents their work.
func (s *stage) employ() error {
	for _, a := range s.readers() {
		err := a.handle("read:logs", func(_ context.Context, req *meshclient.Request) ([]byte, error) {
			s.lastRead.Store(&seen{req.Correlation, req.Parent, req.From.String()})
			return append([]byte("logs for "), req.Data...), nil
		})
		if err != nil {
			return err
		}
	}
	err := s.writer.handle("write:reports", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		s.written.Store(&seen{req.Correlation, req.Nonce, req.From.String()})
		r, err := s.writer.Call(ctx, "read:logs", req.Data)
		if err != nil {
			return nil, err
		}
		return append([]byte("report of "), r.Data...), nil
	})
	if err != nil {
		return err
	}
	if err := s.clerk.Subscribe("news", func(_ context.Context, e *meshclient.Event) { s.news <- e }); err != nil {
		return err
	}
	return s.employPlayers()
}

// employPlayers makes ping and pong call each other for ever.
func (s *stage) employPlayers() error {
	err := s.ping.handle("play:ping", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		r, err := s.ping.Call(ctx, "play:pong", req.Data)
		if err != nil {
			return nil, err
		}
		return r.Data, nil
	})
	if err != nil {
		return err
	}
	return s.pong.handle("play:pong", func(ctx context.Context, req *meshclient.Request) ([]byte, error) {
		r, err := s.pong.Call(ctx, "play:ping", req.Data)
		if err != nil {
			return nil, err
		}
		return r.Data, nil
	})
}

// sights is what the honest handlers were given.
type sights struct {
	lastRead atomic.Pointer[seen]
	written  atomic.Pointer[seen]
	news     chan *meshclient.Event
}

// working is the mesh as its users see it.
func working() chapter {
	return chapter{steps: []step{
		{
			name:     "signed-call",
			tried:    "clerk calls read:logs",
			expected: "one of those who handle it answers, and logs the call as verified",
			run:      signedCall,
		},
		{
			name:     "event-delivered",
			tried:    "writer publishes an event on the topic news",
			expected: "clerk, who subscribes it, gets it once and knows who sent it",
			run:      eventDelivered,
		},
		{
			name:     "nested-call-same-correlation",
			tried:    "clerk calls write:reports, and writer calls read:logs while it handles that",
			expected: "both calls carry one correlation ID, and the second names the first as its cause",
			run:      nestedCall,
		},
		{
			name:     "call-to-one-agent",
			tried:    "clerk calls read:logs four times and addresses archive, though reader handles it as well",
			expected: "archive answers each of them",
			run:      callToOne,
		},
		{
			name:     "looping-calls-stopped",
			tried:    "ping and pong call each other whenever they are called",
			expected: "the call tree ends at the hop limit and every caller on the way learns why",
			reason:   string(denial.Loop),
			run:      loopStopped,
		},
	}}
}

func signedCall(ctx context.Context, s *stage) (outcome, error) {
	from := s.journal.mark()
	r, err := s.clerk.Call(ctx, "read:logs", []byte("monday"))
	if err != nil {
		return outcome{}, err
	}
	if string(r.Data) != "logs for monday" {
		return outcome{}, fmt.Errorf("the answer is %q", r.Data)
	}
	l, err := s.journal.await(ctx, from, "the call as verified", fields(
		"audit", string(audit.Call), "verdict", string(audit.Accepted), "correlation", r.Correlation, "sender", "clerk", "agent", r.From.String()))
	if err != nil {
		return outcome{}, err
	}
	return outcome{actual: fmt.Sprintf("%s/%s answered; it logged nonce %s of clerk/%s", r.From, r.Instance, l.text("nonce"), l.text("instance"))}, nil
}

func eventDelivered(ctx context.Context, s *stage) (outcome, error) {
	if err := s.writer.Publish(ctx, "news", []byte("hello")); err != nil {
		return outcome{}, err
	}
	var e *meshclient.Event
	select {
	case e = <-s.news:
	case <-ctx.Done():
		return outcome{}, fmt.Errorf("no event came: %w", ctx.Err())
	}
	if e.From != s.writer.ID() || e.Instance != s.writer.Instance() || string(e.Data) != "hello" {
		return outcome{}, fmt.Errorf("got %q from %s", e.Data, e.From)
	}
	// Everything that was sent before a flush has come when it returns.
	if err := s.clerk.Flush(ctx); err != nil {
		return outcome{}, err
	}
	if n := len(s.news); n > 0 {
		return outcome{}, fmt.Errorf("it came %d times", n+1)
	}
	return outcome{actual: fmt.Sprintf("came once, %s after it was signed by writer/%s", time.Since(e.Sent).Round(time.Millisecond), e.Instance)}, nil
}

func nestedCall(ctx context.Context, s *stage) (outcome, error) {
	r, err := s.clerk.Call(ctx, "write:reports", []byte("tuesday"))
	if err != nil {
		return outcome{}, err
	}
	outer, inner := s.written.Load(), s.lastRead.Load()
	switch {
	case outer == nil || inner == nil:
		return outcome{}, errNotSeen
	case inner.from != "writer" || string(r.Data) != "report of logs for tuesday":
		return outcome{}, fmt.Errorf("the inner call came from %s, the answer is %q", inner.from, r.Data)
	case inner.correlation != r.Correlation || outer.correlation != r.Correlation:
		return outcome{}, fmt.Errorf("correlation IDs differ: %s, %s, %s", r.Correlation, outer.correlation, inner.correlation)
	case inner.parent != outer.parent: // of the outer call the nonce was kept
		return outcome{}, errors.New("the inner call does not name the outer one as its cause")
	}
	return outcome{actual: "clerk → writer → a reader under correlation " + r.Correlation}, nil
}

func callToOne(ctx context.Context, s *stage) (outcome, error) {
	before := s.archive.ran.Load()
	for range 4 {
		r, err := s.clerk.Call(ctx, "read:logs", nil, meshclient.To("archive"))
		if err != nil {
			return outcome{}, err
		}
		if r.From != s.archive.ID() {
			return outcome{}, fmt.Errorf("%s answered", r.From)
		}
	}
	if n := s.archive.ran.Load() - before; n != 4 {
		return outcome{}, fmt.Errorf("archive was given %d of 4 calls", n)
	}
	return outcome{actual: "archive answered 4 of 4"}, nil
}

func loopStopped(ctx context.Context, s *stage) (outcome, error) {
	players := []*actor{s.ping, s.pong}
	from, before := s.journal.mark(), ran(players)
	_, err := s.pong.Call(ctx, "play:ping", nil)
	reason := denial.Of(err)
	if err == nil || reason == "" {
		return outcome{}, fmt.Errorf("the first caller was told %v", err)
	}
	if _, err := s.journal.await(ctx, from, "that the last call was refused", fields(
		"audit", string(audit.Made), "verdict", string(audit.Refused), "reason", string(denial.Loop))); err != nil {
		return outcome{}, err
	}
	turns := ran(players) - before
	if turns != limits.Hops+1 {
		return outcome{}, fmt.Errorf("they took %d turns, of %d", turns, limits.Hops+1)
	}
	return outcome{fmt.Sprintf("stopped after %d turns", turns), string(reason)}, nil
}

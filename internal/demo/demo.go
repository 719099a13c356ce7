package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
)

// Schema is that of Report.
const Schema = "sealmesh.demo/v1"

// Times of the demo's mesh. The heartbeat is short, so that a death takes two
// seconds and not ninety.
const (
	heartbeatInterval = 700 * time.Millisecond
	startTimeout      = 30 * time.Second
	stepTimeout       = 10 * time.Second
)

// Step is one thing that was tried and what became of it.
type Step struct {
	Name     string  `json:"name"`
	Expected string  `json:"expected"`
	Actual   string  `json:"actual"`
	Reason   string  `json:"reason"` // stable code of the refusal that was seen; empty where nothing was refused
	OK       bool    `json:"ok"`
	MS       float64 `json:"ms"`

	Tried  string `json:"-"` // what was done, for people
	Number int    `json:"-"` // from 1
	Of     int    `json:"-"`
}

// Report is the outcome of all steps. OK is true if each of them agrees with
// what was expected.
type Report struct {
	Schema string `json:"schema"`
	OK     bool   `json:"ok"`
	Steps  []Step `json:"steps"`
}

// Options say who watches. Under the zero Options nobody does before the end.
type Options struct {
	Log      io.Writer     // gets what server, control plane and agents log, one JSON line each
	Level    zerolog.Level // the least level that Log gets
	Progress func(Step)    // called after each step

	sabotage sabotage
}

// sabotage makes the demo wrong on purpose, so that a test can see it notice.
type sabotage struct {
	tamper func(*nats.Msg) // in place of changing the payload
	until  string          // the last step to run
}

// step is one step before it ran. run returns what happened and the code of the
// refusal that it saw; an error says what happened instead, or why the step
// could not be tried.
type step struct {
	name     string
	tried    string
	expected string
	reason   string // code that must be seen; empty: nothing may be refused
	run      func(context.Context, *stage) (outcome, error)
}

type outcome struct{ actual, reason string }

// chapter is a group of steps with what has to be there for all of them.
type chapter struct {
	setup func(context.Context, *stage) error // may be nil
	steps []step
}

// story is everything in the order in which it is told.
func story() []chapter {
	return []chapter{
		working(), doors(), broker(), replies(), messages(), authority(), delegation(), lifetime(), revocation(),
	}
}

// Run plays the whole story. The error is about what surrounds it (no directory,
// no server); what disagrees is in the report.
func Run(ctx context.Context, o Options) (r Report, err error) {
	r = Report{Schema: Schema, Steps: []Step{}}
	dir, err := os.MkdirTemp("", "sealmesh-demo-")
	if err != nil {
		return r, fmt.Errorf("demo: %w", err)
	}
	defer func() {
		if e := os.RemoveAll(dir); e != nil && err == nil { // it holds keys, if only of a mesh that is gone
			err = fmt.Errorf("demo: %w", e)
		}
	}()
	s, err := raise(ctx, filepath.Join(dir, "mesh"), o)
	if err != nil {
		return r, fmt.Errorf("demo: starting the mesh: %w", err)
	}
	defer s.close()
	r.play(ctx, s, story(), o)
	return r, ctx.Err()
}

func (r *Report) play(ctx context.Context, s *stage, chapters []chapter, o Options) {
	of := 0
	for _, c := range chapters {
		of += len(c.steps)
	}
	r.OK = true
	for _, c := range chapters {
		failed := s.within(ctx, c.setup)
		for _, t := range c.steps {
			if ctx.Err() != nil {
				r.OK = false
				return
			}
			result := s.try(ctx, t, failed)
			result.Number, result.Of = len(r.Steps)+1, of
			r.OK = r.OK && result.OK
			r.Steps = append(r.Steps, result)
			if o.Progress != nil {
				o.Progress(result)
			}
			if t.name == o.sabotage.until {
				return
			}
		}
	}
}

// within runs a chapter's set-up.
func (s *stage) within(ctx context.Context, setup func(context.Context, *stage) error) error {
	if setup == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return setup(ctx, s)
}

// try runs one step and compares.
func (s *stage) try(ctx context.Context, t step, failed error) Step {
	out := Step{Name: t.name, Tried: t.tried, Expected: t.expected}
	if failed != nil {
		out.Actual = "could not be tried: " + failed.Error()
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	start := time.Now()
	got, err := t.run(ctx, s)
	out.MS = float64(time.Since(start).Microseconds()) / 1000
	out.Actual, out.Reason = got.actual, got.reason
	switch {
	case err != nil:
		out.Actual = err.Error()
	case got.reason != t.reason:
		out.Actual += fmt.Sprintf("; the reason is %q, not %q", got.reason, t.reason)
	default:
		out.OK = true
	}
	return out
}

package meshfile

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Rounds is how often a file is compared with the mesh before it is given up that
// somebody else keeps changing it.
const Rounds = 6

// ownCut is how long the answer to a step is awaited that closes the connection
// on which it would come. The record is written before anything is closed.
const ownCut = 3 * time.Second

// Applier brings a mesh in line with a file.
type Applier struct {
	Operate Operate
	Options
	// Did is called after each step, with the cut where there was one. May be nil.
	Did func(Step, *wire.CutResult)
}

// Report says what an Apply did.
type Report struct {
	Rounds      int // comparisons, the last of which found nothing to do where all went well
	Done        []Step
	Left        []Step // of the last plan, not done
	Surplus     []Change
	Unconfirmed []wire.CutResult // made, and not seen to have taken effect everywhere
}

// Apply compares and changes until nothing differs. Whoever else changes the mesh
// at the same time is met by comparing again; with others applying the same file
// all end well. An error comes with what was done until then, and another Apply
// goes on from there.
func (a *Applier) Apply(ctx context.Context, want *Mesh) (Report, error) {
	var r Report
	var last *met
	for r.Rounds < Rounds {
		have, err := Read(ctx, a.Operate, want)
		if denial.Of(err) == denial.ScopeNotHeld && a.resigned(&r, last) {
			return r, nil
		}
		if err != nil {
			return r, err
		}
		r.Rounds++
		p := NewPlan(want, have, a.Options)
		r.Left, r.Surplus = p.Steps, p.Surplus
		if last != nil && last.silent && !slices.ContainsFunc(p.Steps, last.step.alike) {
			a.did(&r, last.step, nil)
		}
		if p.Refused != nil {
			return r, p.Refused
		}
		if len(p.Steps) == 0 {
			return r, nil
		}
		if last, err = a.carryOut(ctx, &r); err != nil {
			return r, err
		}
	}
	var why error = denial.Conflict
	if last != nil {
		why = last.err
	}
	return r, fmt.Errorf("meshfile: somebody else changes the mesh at the same time: %w", why)
}

// resigned reports whether the last thing that was done took from the one who
// applies the right to apply, so that it can no longer look. That was the end of
// the plan.
func (a *Applier) resigned(r *Report, last *met) bool {
	switch {
	case last != nil && last.silent && a.resigns(last.step):
		r.Left = nil
		a.did(r, last.step, nil)
		return true
	case last == nil && len(r.Done) > 0:
		return a.resigns(r.Done[len(r.Done)-1])
	}
	return false
}

func (a *Applier) resigns(s Step) bool {
	return s.Agent() == a.Self && s.Kind() == Ungrant && slices.Contains(s.Request.Rights.Call, adminScope)
}

// met is a step that failed in a way that only comparing again explains.
type met struct {
	step   Step
	err    error
	silent bool // nobody said no: the answer did not come
}

// carryOut does what is left until something fails. A step that somebody else
// came before is no failure, and neither is one whose own effect took the answer
// away.
func (a *Applier) carryOut(ctx context.Context, r *Report) (*met, error) {
	for len(r.Left) > 0 {
		s := r.Left[0]
		answer, err := a.operate(ctx, s)
		if err != nil {
			err = fmt.Errorf("meshfile: %s %s: %w", s.Kind(), s.name(), err)
			silent := denial.Of(err) == "" && a.cutsItself(s)
			if ctx.Err() == nil && (silent || overtaken(err)) {
				return &met{s, err, silent}, nil
			}
			return nil, err
		}
		r.Left = r.Left[1:]
		a.did(r, s, cutOf(s, answer))
	}
	return nil, nil
}

func (a *Applier) operate(ctx context.Context, s Step) (json.RawMessage, error) {
	if a.cutsItself(s) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ownCut)
		defer cancel()
	}
	return a.Operate(ctx, s.Request)
}

// cutsItself reports whether the step closes the connection that it is asked for
// on.
func (a *Applier) cutsItself(s Step) bool {
	return s.Agent() == a.Self && !a.Self.IsZero() && (s.Kind() == Ungrant || s.Cuts > 0)
}

func (a *Applier) did(r *Report, s Step, cut *wire.CutResult) {
	r.Done = append(r.Done, s)
	if cut != nil && !cut.Confirmed {
		r.Unconfirmed = append(r.Unconfirmed, *cut)
	}
	if a.Did != nil {
		a.Did(s, cut)
	}
}

// overtaken reports whether a step may have been refused because of what somebody
// else did since the mesh was read.
func overtaken(err error) bool {
	switch denial.Of(err) {
	case denial.AlreadyExists, denial.NotFound, denial.UnlistedAgent, denial.Conflict, denial.WrongState, denial.BeyondOwn:
		return true
	}
	return false
}

// alike reports whether o does the same sort of thing to the same agent or topic.
func (s Step) alike(o Step) bool {
	return s.Kind() == o.Kind() && s.Agent() == o.Agent() && s.Changes[0].Topic == o.Changes[0].Topic
}

// takes reports whether the step is an operation that answers with a cut.
func (s Step) takes() bool {
	return !s.Agent().IsZero() && (s.Kind() == Ungrant || s.Kind() == Remove)
}

func cutOf(s Step, answer json.RawMessage) *wire.CutResult {
	if !s.takes() {
		return nil
	}
	var cut wire.CutResult
	if json.Unmarshal(answer, &cut) != nil {
		cut = wire.CutResult{Agent: s.Agent()} // what it says is not known, so nothing is confirmed
	}
	return &cut
}

func (s Step) name() string {
	if t := s.Changes[0].Topic; t != "" {
		return fmt.Sprintf("topic %q", t)
	}
	return fmt.Sprintf("agent %q", s.Agent())
}

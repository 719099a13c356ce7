package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

const (
	// cutsAtOnce is how many agents are cut at the same time.
	cutsAtOnce = 4
	// cutsTell is how often people are told how far it is.
	cutsTell = 2 * time.Second
)

// cutsDoc is what was done to several agents.
type cutsDoc struct {
	Schema  string           `json:"schema"` // sealmesh.cuts/v1
	DryRun  bool             `json:"dry_run,omitempty"`
	Done    int              `json:"done_before"` // that were what they were to be already
	Results []wire.CutResult `json:"results"`
	Failed  []cutFailure     `json:"failed"`
}

type cutFailure struct {
	Agent agentid.ID `json:"agent"`
	Error failure    `json:"error"`
}

const cutsSchema = "sealmesh.cuts/v1"

// cutSelected does an operation to the agents that a selector names, several at a
// time and the one that acts last. It may be interrupted at any time and run again:
// what was done stays done, and is not done twice.
func (a *app) cutSelected(ctx context.Context, c *cobra.Command, s *selector, did string, req wire.AdminRequest) error {
	log := a.shotLog()
	if a.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, a.timeout)
		defer cancel()
	}
	begin, stop := a.deadline(ctx, adminTimeout)
	defer stop()
	m, err := a.connect(begin, adminID, log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	found, err := s.find(begin, c, m, req.Op)
	if err != nil {
		return err
	}
	for _, n := range found.notes {
		fmt.Fprintln(a.stderr, "sealmesh: "+n) //nolint:errcheck // nowhere left to say it
	}
	if !req.DryRun {
		if err := s.confirm(a, c, found, did); err != nil {
			return err
		}
	}
	r := cutsRun{app: a, mesh: m, did: did, req: req}
	r.doc = cutsDoc{Schema: cutsSchema, DryRun: req.DryRun, Done: found.done, Results: []wire.CutResult{}, Failed: []cutFailure{}}
	return r.run(ctx, found.agents)
}

type cutsRun struct {
	app  *app
	mesh *meshclient.Mesh
	did  string
	req  wire.AdminRequest

	mu  sync.Mutex
	doc cutsDoc
}

func (r *cutsRun) run(ctx context.Context, agents []agentid.ID) error {
	told := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(cutsTell)
		defer tick.Stop()
		for {
			select {
			case <-told:
				return
			case <-tick.C:
				r.mu.Lock()
				n := len(r.doc.Results) + len(r.doc.Failed)
				r.mu.Unlock()
				fmt.Fprintf(r.app.stderr, "sealmesh: %d of %s done\n", n, count(len(agents), "agent")) //nolint:errcheck // nowhere left to say it
			}
		}
	}()
	// Whoever acts is cut when nothing is left to do: it could do no more.
	var last []agentid.ID
	if n := len(agents) - 1; n >= 0 && agents[n] == r.mesh.ID() {
		agents, last = agents[:n], agents[n:]
	}
	next := make(chan agentid.ID)
	var wg sync.WaitGroup
	for range min(cutsAtOnce, len(agents)) {
		wg.Go(func() {
			for id := range next {
				r.one(ctx, id)
			}
		})
	}
	for _, id := range agents {
		next <- id
	}
	close(next)
	wg.Wait()
	for _, id := range last {
		r.one(ctx, id)
	}
	close(told)
	<-ended
	return r.total()
}

// one cuts one agent, and says so.
func (r *cutsRun) one(ctx context.Context, id agentid.ID) {
	var res wire.CutResult
	err := ctx.Err()
	if err == nil {
		once, cancel := context.WithTimeout(ctx, adminTimeout)
		req := r.req
		req.Target = id.String()
		res, err = operateOn[wire.CutResult](once, r.mesh, req)
		cancel()
		err = outOfTime(ctx, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		f := cutFailure{id, failureOf(err)}
		r.doc.Failed = append(r.doc.Failed, f)
		fmt.Fprintf(r.app.stderr, "sealmesh: %s: %s\n", id, clean(f.Error.Message)) //nolint:errcheck // nowhere left to say it
		return
	}
	res.Delegates = some(res.Delegates)
	if res.DryRun {
		res.Closes, res.Would = some(res.Closes), some(res.Would)
	}
	r.doc.Results = append(r.doc.Results, res)
	if !r.app.json {
		io.WriteString(r.app.stdout, r.line(res)+"\n") //nolint:errcheck // the total says it again, and fails
	}
}

// line is what became of one agent.
func (r *cutsRun) line(res wire.CutResult) string {
	if res.DryRun {
		s := fmt.Sprintf("%s: would close %s", res.Agent, count(len(res.Closes), "connection"))
		if others := res.Would; len(others) > 1 {
			s += fmt.Sprintf(", and take or leave rights of %s", count(len(others)-1, "other agent"))
		}
		return s + unconfirmed(res)
	}
	s := fmt.Sprintf("%s %s: epoch %d, %s closed, %.0f ms", res.Agent, r.did, res.Epoch, count(res.Cut, "connection"), res.MS)
	if len(res.Delegates) > 0 {
		s += fmt.Sprintf(", %s lost what it had lent", count(len(res.Delegates), "agent"))
	}
	return s + unconfirmed(res)
}

func unconfirmed(res wire.CutResult) string {
	if res.Confirmed {
		return ""
	}
	return clean(", not confirmed: " + orDash(strings.Join(res.Unreachable, " ")))
}

// total ends a run: with an error where anything is not as it should be.
func (r *cutsRun) total() error {
	closed, open := 0, 0
	for _, res := range r.doc.Results {
		if closed += res.Cut; !res.Confirmed {
			open++
		}
	}
	if err := r.app.show(r.doc, func(w io.Writer) {
		what := r.did
		if r.doc.DryRun {
			fmt.Fprintln(w, "dry run: nothing was changed")
			what = "would be " + r.did
		}
		fmt.Fprintf(w, "%s %s, %s", count(len(r.doc.Results), "agent"), what, count(closed, "connection"))
		if r.doc.Done > 0 {
			fmt.Fprintf(w, "; %d had been before", r.doc.Done)
		}
		if n := len(r.doc.Failed); n > 0 {
			fmt.Fprintf(w, "; %d failed", n)
		}
		if open > 0 {
			fmt.Fprintf(w, "; %d not confirmed", open)
		}
		fmt.Fprintln(w)
	}); err != nil {
		return err
	}
	if len(r.doc.Failed)+open == 0 {
		return nil
	}
	fmt.Fprintln(r.app.stderr, "sealmesh: not all of it is done, or confirmed\nhint: run the command again; what is done is not done twice") //nolint:errcheck // nowhere left to say it
	return &said{exitFailed}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// logs is the one right of the story.
const logs = "read:logs"

// tell tells the story: what each of the agents tries, and what comes of it.
func tell(ctx context.Context, m *mesh, t *teller) (err error) {
	c, err := gather(ctx, m)
	defer func() { err = errors.Join(err, c.close()) }()
	if err != nil {
		return err
	}
	reads := func(a *agent) {
		answer, err := a.reads(ctx)
		t.works(a.name()+" reads", answer, err)
	}
	came := func(a *agent) {
		path, err := a.path(ctx)
		t.works("the right of "+a.name()+" came by", path, err)
	}
	nothing := func(a *agent) {
		_, err := a.reads(ctx)
		t.refused(a.name()+" reads", err, denial.ScopeNotHeld)
	}

	t.chapter("Before anything is lent: only orchestrator holds the right")
	reads(c.orchestrator)
	nothing(c.researcher)
	nothing(c.scout)
	nothing(c.assistant)

	t.chapter("orchestrator lends it to researcher for ten minutes, to be passed on once")
	_, err = c.orchestrator.lends(ctx, c.researcher, meshclient.Grant{Scopes: []string{logs}, Delegatable: []string{logs}, Depth: 1, For: 10 * time.Minute})
	t.works("orchestrator lends to researcher", logs, err)
	reads(c.researcher)
	came(c.researcher)
	nothing(c.assistant)

	t.chapter("researcher lends it on to scout for one minute, and no further")
	once := meshclient.Grant{Scopes: []string{logs}, For: time.Minute}
	lent, err := c.researcher.lends(ctx, c.scout, once)
	t.works("researcher lends to scout", logs, err)
	if err != nil {
		return t.end() // there is nothing to take back
	}
	reads(c.scout)
	came(c.scout)

	t.chapter("Nobody lends more than it was lent")
	_, err = c.scout.Delegate(ctx, "assistant", once)
	t.refused("scout lends it on to assistant", err, denial.NotDelegatable)
	_, err = c.researcher.Delegate(ctx, "assistant", meshclient.Grant{Scopes: []string{"write:reports"}})
	t.refused("researcher lends write:reports, which it does not hold", err, denial.BeyondOwn)
	_, err = c.researcher.Delegate(ctx, "orchestrator", once)
	t.refused("researcher lends back to orchestrator", err, denial.DelegationCycle)
	nothing(c.assistant)

	// Either side may hear of a cut first: scout's client, or who answers it.
	gone := []denial.Reason{denial.ScopeNotHeld, denial.TokenTakenBack, denial.DelegatorCut}

	t.chapter("researcher takes it back: scout is refused within a second, researcher is not")
	refusals := watch(ctx, 2*t.within, c.scout)
	t.works("researcher ends what it lent", "ended", lent.End(ctx))
	r := <-refusals
	t.refused("scout reads", r.err, gone...)
	t.fast("from End to the refusal", r.after)
	reads(c.researcher)

	t.chapter("The operator revokes orchestrator: what it lent dies with it, at every depth")
	_, err = c.researcher.lends(ctx, c.scout, once)
	t.works("researcher lends to scout again", logs, err)
	reads(c.scout)
	watched := []*agent{c.researcher, c.scout, c.orchestrator}
	refusals = watch(ctx, 2*t.within, watched...)
	t.works("the operator revokes orchestrator", "revoked", m.operator(ctx, "agent", "revoke", "orchestrator", "--reason", "compromised"))
	slowest := time.Duration(0)
	for range watched {
		r := <-refusals
		c.refusals[r.who] = r.err
		slowest = max(slowest, r.after)
	}
	t.refused("researcher reads", c.refusals[c.researcher], gone...)
	t.refused("scout reads", c.refusals[c.scout], gone...)
	t.refused("orchestrator reads", c.refusals[c.orchestrator], append(gone, denial.Revoked)...)
	t.fast("from the command to the last refusal", slowest)
	_, err = connect(ctx, m, "orchestrator")
	t.refused("orchestrator connects anew", err, denial.Revoked)
	return t.end()
}

// refusal is the first that an agent met, and how long after the watch began.
type refusal struct {
	who   *agent
	err   error
	after time.Duration
}

// watch lets agents read again and again until they are refused, or for most. Who
// is cut while it waits for an answer would wait on, so no call may take long.
func watch(ctx context.Context, most time.Duration, agents ...*agent) <-chan refusal {
	out := make(chan refusal, len(agents))
	began := time.Now()
	for _, a := range agents {
		go func() {
			for {
				once, cancel := context.WithTimeout(ctx, most/10)
				_, err := a.reads(once)
				cancel()
				took := time.Since(began)
				if denial.Of(err) != "" || took > most || ctx.Err() != nil {
					out <- refusal{a, err, took}
					return
				}
			}
		}()
	}
	return out
}

// gather registers the agents, as an operator would, and connects them.
func gather(ctx context.Context, m *mesh) (*cast, error) {
	c := &cast{refusals: map[*agent]error{}}
	for _, part := range []struct {
		name   string
		agent  **agent
		rights []string
	}{
		{"archive", &c.archive, []string{"--handle", logs}},
		{"orchestrator", &c.orchestrator, []string{"--call", logs, "--may-delegate", logs}},
		{"researcher", &c.researcher, nil},
		{"scout", &c.scout, nil},
		{"assistant", &c.assistant, nil},
	} {
		if err := m.operator(ctx, append([]string{"agent", "add", part.name, "--enroll"}, part.rights...)...); err != nil {
			return c, err
		}
		a, err := connect(ctx, m, part.name)
		if err != nil {
			return c, err
		}
		*part.agent = a
		c.all = append(c.all, a)
	}
	return c, c.archive.Handle(logs, func(_ context.Context, r *meshclient.Request) ([]byte, error) {
		return fmt.Appendf(nil, "%s for %s", r.Data, r.From), nil
	})
}

// cast are the agents of the story.
type cast struct {
	archive, orchestrator, researcher, scout, assistant *agent

	all      []*agent
	refusals map[*agent]error
}

// close says goodbye for those who still can.
func (c *cast) close() (err error) {
	for _, a := range c.all {
		if e := a.Close(); denial.Of(e) == "" && !errors.Is(e, meshclient.ErrUnavailable) {
			err = errors.Join(err, e)
		}
	}
	return err
}

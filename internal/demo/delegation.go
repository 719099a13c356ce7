package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

// delegation is about rights that one agent lends another. Trainee holds
// read:logs itself, so the broker carries its calls under whatever chain it
// names, and what is seen is the judgement of those who receive them.
func delegation() chapter {
	return chapter{
		setup: lendForMoments,
		steps: []step{
			{
				name:     "delegated-call",
				tried:    "boss lends read:logs to temp, who has no rights, and temp calls it",
				expected: "temp is refused before, and answered as soon as boss has lent",
				run:      delegatedCall,
			},
			{
				name:     "delegation-beyond-own",
				tried:    "a pod of boss signs a delegation of write:reports, which boss does not hold",
				expected: "the control plane does not store it, and archive, whom it is for, does not take it",
				reason:   string(denial.BeyondOwn),
				run:      func(ctx context.Context, s *stage) (outcome, error) { return forgedDelegation(ctx, s, "write:reports") },
			},
			{
				name:     "delegation-of-undelegatable",
				tried:    "a pod of boss signs a delegation of audit:books, which boss holds and may not pass on",
				expected: "the control plane does not store it, and archive, whom it is for, does not take it",
				reason:   string(denial.NotDelegatable),
				run:      func(ctx context.Context, s *stage) (outcome, error) { return forgedDelegation(ctx, s, "audit:books") },
			},
			{
				name:     "delegation-ended-early",
				tried:    "boss takes back what it lent temp and trainee, and both go on using it",
				expected: "temp, who has nothing else, is cut off; a reader refuses trainee's call under that chain",
				reason:   string(denial.TokenTakenBack),
				run:      endedEarly,
			},
			{
				name:     "expired-token",
				tried:    "trainee calls under a chain that boss lent it for moments, before and after its end",
				expected: "answered before, refused after",
				reason:   string(denial.TokenExpired),
				run:      expiredToken,
			},
		},
	}
}

// lendForMoments makes the loan that ends while the other steps run, and sees it
// work.
func lendForMoments(ctx context.Context, s *stage) error {
	var err error
	if s.short, err = s.boss.Delegate(ctx, "trainee", meshclient.Grant{Scopes: []string{"read:logs"}, For: 3500 * time.Millisecond}); err != nil {
		return err
	}
	return s.trainee.works(ctx, "read:logs", s.short.Chains()[0])
}

// readLogs is what boss lends.
var readLogs = meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute}

// lend has boss lend to an agent and waits until that has taken it.
func (s *stage) lend(ctx context.Context, to *actor, g meshclient.Grant) (*meshclient.Delegation, error) {
	from := s.journal.mark()
	lent, err := s.boss.Delegate(ctx, to.ID().String(), g)
	if err != nil {
		return nil, err
	}
	_, err = s.journal.await(ctx, from, "that "+to.ID().String()+" took the delegation", fields(
		"audit", string(audit.Note), "verdict", string(audit.Accepted), "agent", to.ID().String(), "sender", "boss"))
	return lent, err
}

func delegatedCall(ctx context.Context, s *stage) (outcome, error) {
	if _, err := s.temp.Call(ctx, "read:logs", nil); denial.Of(err) != denial.ScopeNotHeld {
		return outcome{}, fmt.Errorf("before the delegation temp was told %v", err)
	}
	start := time.Now()
	var err error
	if s.lent, err = s.lend(ctx, s.temp, readLogs); err != nil {
		return outcome{}, err
	}
	before := ran(s.readers())
	r, err := s.temp.Call(ctx, "read:logs", []byte("wednesday"))
	if err != nil {
		return outcome{}, err
	}
	if n := ran(s.readers()) - before; n != 1 || string(r.Data) != "logs for wednesday" {
		return outcome{}, fmt.Errorf("%d handlers ran and the answer is %q", n, r.Data)
	}
	return outcome{actual: fmt.Sprintf("%s before; answered %s after boss began to lend", denial.ScopeNotHeld, time.Since(start).Round(time.Millisecond))}, nil
}

// token is a capability token as the format has it. Package capability signs
// none that breaks a rule, so a forger writes its own.
type token struct {
	jws.Head
	ID           string   `json:"jti"`
	Agent        string   `json:"agent"`
	Parent       string   `json:"parent,omitempty"`
	Capabilities []string `json:"capabilities"`
	Delegatable  []string `json:"delegatable"`
	Depth        int64    `json:"depth"`
	NotBefore    int64    `json:"nbf"`
	Expires      int64    `json:"exp"`
}

// forge signs a delegation of a scope to an agent, under the instance's own root
// token and with its own genuine key, and asks no rule whether it may.
func (p *intruder) forge(ctx context.Context, to, scope string) (string, error) {
	parent, err := p.Reader(p.nc).Chain(ctx, p.Record.Tokens[0])
	if err != nil {
		return "", err
	}
	now := time.Now()
	text, err := jws.Sign(&token{
		Head: jws.Head{Kind: "token", IssuedAt: now.Unix()}, ID: envelope.NewNonce(), Agent: to, Parent: jws.Digest(parent),
		Capabilities: []string{scope}, Delegatable: []string{}, NotBefore: now.Unix(), Expires: now.Add(time.Minute).Unix(),
	}, p.Pair)
	if err != nil {
		return "", err
	}
	return parent + "~" + p.Dir.Info.Passport + "~" + text, nil
}

// store has the control plane store a chain and returns why it did not, nothing
// if it did.
func (p *intruder) store(ctx context.Context, chain string) (string, error) {
	a, err := p.ask(ctx, wire.SelfChainPut, wire.ChainPut{Chain: chain})
	if err != nil {
		return "", err
	}
	if a.err == "" {
		return "", nil
	}
	var f wire.Failure
	if err := json.Unmarshal(a.data, &f); err != nil {
		return "", fmt.Errorf("refused with %s: %w", a.err, err)
	}
	return string(f.Reason), nil
}

func forgedDelegation(ctx context.Context, s *stage, scope string) (outcome, error) {
	p := s.bossPod
	// The control: by the same hand, what boss may pass on is stored.
	good, err := p.forge(ctx, "trainee", "read:logs")
	if err != nil {
		return outcome{}, err
	}
	if refusal, err := p.store(ctx, good); err != nil || refusal != "" {
		return outcome{}, fmt.Errorf("the control, a delegation that is allowed, failed: %s %w", refusal, err)
	}
	chain, err := p.forge(ctx, "archive", scope)
	if err != nil {
		return outcome{}, err
	}
	from := s.journal.mark()
	stored, err := p.store(ctx, chain)
	if err != nil {
		return outcome{}, err
	}
	if _, err := s.journal.await(ctx, from, "the refusal at the control plane", fields(
		"audit", string(audit.Call), "scope", wire.SelfChainPut, "sender", "boss", "reason", stored)); err != nil {
		return outcome{}, err
	}
	body, err := json.Marshal(wire.DelegationNote{Chain: chain})
	if err != nil {
		return outcome{}, err
	}
	m, err := p.sign(p.Space.Note(p.ID, s.archive.ID(), wire.NoteDelegation), envelope.Fields{}, body)
	if err != nil {
		return outcome{}, err
	}
	reason, err := s.refused(ctx, []*actor{s.archive}, audit.Note, func() error { return p.send(m) })
	if err != nil {
		return outcome{}, err
	}
	if reason != stored {
		return outcome{}, fmt.Errorf("the control plane says %q, archive %q", stored, reason)
	}
	return outcome{"the control plane and archive both refused it", reason}, nil
}

func endedEarly(ctx context.Context, s *stage) (outcome, error) {
	lent, err := s.boss.Delegate(ctx, "trainee", readLogs)
	if err != nil {
		return outcome{}, err
	}
	chain := lent.Chains()[0]
	if err := s.trainee.works(ctx, "read:logs", chain); err != nil {
		return outcome{}, err
	}
	rests, err := s.infiltrate(ctx, s.temp.dir, presenting(s.lent.Chains()))
	if err != nil {
		return outcome{}, err
	}
	if err := rests.works(ctx, "read:logs", s.lent.Chains()[0]); err != nil {
		return outcome{}, err
	}
	start := time.Now()
	if err := together(
		func() error { return lent.End(ctx) },
		func() error { return s.lent.End(ctx) },
	); err != nil {
		return outcome{}, err
	}
	took := time.Since(start)
	if err := s.nothingLeft(ctx, rests); err != nil {
		return outcome{}, err
	}
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return s.trainee.call("read:logs", chain, nil) })
	if err != nil {
		return outcome{}, err
	}
	return outcome{fmt.Sprintf("both were taken back in %s; temp's connection was closed and its next one may not call; trainee's call was refused", took.Round(time.Millisecond)), reason}, nil
}

// nothingLeft sees a connection that rested on what temp was lent be closed, and
// the next one without the right, whatever it presents.
func (s *stage) nothingLeft(ctx context.Context, rests *intruder) error {
	if err := rests.cut(ctx); err != nil {
		return err
	}
	again, err := s.infiltrate(ctx, s.temp.dir, presenting(s.lent.Chains()))
	if err != nil {
		return err
	}
	before := ran(s.readers())
	subj := again.Space.Call(again.ID, "read.logs")
	m, err := again.sign(subj, envelope.Fields{Token: s.lent.Chains()[0]}, nil)
	if err != nil {
		return err
	}
	if err := again.barred(ctx, subj, func() error { return again.nc.PublishMsg(m) }); err != nil {
		return err
	}
	if _, err := s.temp.Call(ctx, "read:logs", nil); denial.Of(err) == "" {
		return fmt.Errorf("temp was told %v", err)
	}
	if n := ran(s.readers()) - before; n != 0 {
		return fmt.Errorf("temp's call was handled %d times", n)
	}
	return nil
}

func expiredToken(ctx context.Context, s *stage) (outcome, error) {
	select {
	// The receiver counts whole seconds of its own clock.
	case <-time.After(time.Until(s.short.Expires.Truncate(time.Second)) + 20*time.Millisecond):
	case <-ctx.Done():
		return outcome{}, ctx.Err()
	}
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return s.trainee.call("read:logs", s.short.Chains()[0], nil) })
	if err != nil {
		return outcome{}, err
	}
	return outcome{"it worked while it lived; refused after its end", reason}, nil
}

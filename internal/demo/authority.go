package demo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

var noRights registry.Rights

// authority is about calls by those who are who they say and may not do it.
func authority() chapter {
	return chapter{steps: []step{
		{
			name:     "scope-not-held",
			tried:    "mallory calls pay:invoice, which it does not hold, and read:logs under a token that does not cover it",
			expected: "the broker refuses the first; a reader, who gets to see the second, refuses that",
			reason:   string(denial.ScopeNotHeld),
			run:      scopeNotHeld,
		},
		{
			name:     "wildcard-scope",
			tried:    "the operator grants read:* in a hand-made request, and a pod of boss signs a delegation of it",
			expected: "the control plane refuses both: there are no wildcards, anywhere",
			reason:   string(denial.WildcardScope),
			run:      wildcardScope,
		},
		{
			name:     "stolen-token",
			tried:    "mallory calls read:logs and names clerk's token, which it read off a message",
			expected: "a reader refuses: a token is worth something to its holder alone",
			reason:   string(denial.NotHolder),
			run:      stolenToken,
		},
	}}
}

func scopeNotHeld(ctx context.Context, s *stage) (outcome, error) {
	p := s.mallory
	if len(p.Record.Tokens) != 2 {
		return outcome{}, fmt.Errorf("mallory has %d root tokens, not 2", len(p.Record.Tokens))
	}
	subj := p.Space.Call(p.ID, "pay.invoice")
	m, err := p.sign(subj, envelope.Fields{Token: p.Record.Tokens[0]}, []byte("pay 50 to mallory"))
	if err != nil {
		return outcome{}, err
	}
	before := ran(s.banks())
	if err := p.barred(ctx, subj, func() error { return p.nc.PublishMsg(m) }); err != nil {
		return outcome{}, err
	}
	if n := ran(s.banks()) - before; n != 0 {
		return outcome{}, fmt.Errorf("bank paid %d times", n)
	}
	if err := p.works(ctx, "read:logs", p.Record.Tokens[1]); err != nil {
		return outcome{}, err
	}
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return p.call("read:logs", p.Record.Tokens[0], nil) })
	if err != nil {
		return outcome{}, err
	}
	return outcome{"the server refused the one (" + permissionsViolation + "), a reader the other; no handler ran", reason}, nil
}

func wildcardScope(ctx context.Context, s *stage) (outcome, error) {
	admin, err := s.mesh.Admin(ctx)
	if err != nil {
		return outcome{}, err
	}
	from := s.journal.mark()
	_, err = admin.Call(ctx, wire.AdminScope, []byte(`{"op":"grant","target":"mallory","rights":{"call":["read:*"]}}`))
	if err == nil {
		return outcome{}, errors.New("the right was granted")
	}
	granted := string(denial.Of(err))
	if _, err := s.journal.await(ctx, from, "the refused operation", fields("audit", string(audit.Call), "scope", wire.AdminScope, "reason", granted)); err != nil {
		return outcome{}, err
	}
	v, err := s.show(ctx, "mallory")
	if err != nil {
		return outcome{}, err
	}
	if !slices.Equal(v.Call, scopes("play:ping", "read:logs")) {
		return outcome{}, fmt.Errorf("mallory may now call %v", v.Call)
	}
	chain, err := s.bossPod.forge(ctx, "mallory", "read:*")
	if err != nil {
		return outcome{}, err
	}
	delegated, err := s.bossPod.store(ctx, chain)
	if err != nil {
		return outcome{}, err
	}
	if delegated != granted {
		return outcome{fmt.Sprintf("the delegation was refused with %q", delegated), granted}, errors.New("the two were refused for different reasons")
	}
	return outcome{"both refused; mallory's rights are what they were", granted}, nil
}

func stolenToken(ctx context.Context, s *stage) (outcome, error) {
	v, err := s.mallory.read(s.captured)
	if err != nil {
		return outcome{}, err
	}
	token := v.Fields().Token
	// The control: in the hands of its holder the token is good.
	if err := s.clerkPod.works(ctx, "read:logs", token); err != nil {
		return outcome{}, err
	}
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return s.mallory.call("read:logs", token, nil) })
	if err != nil {
		return outcome{}, err
	}
	return outcome{"refused by a reader, while the same token works for clerk", reason}, nil
}

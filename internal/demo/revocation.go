package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/bare"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

// revocation is about what an operator takes away.
func revocation() chapter {
	return chapter{steps: []step{
		{
			name:     "suspended-then-resumed",
			tried:    "the operator suspends writer, and resumes it later",
			expected: "writer's connections are closed and new ones refused; after that it comes back by itself and is answered",
			reason:   string(denial.Suspended),
			run:      suspendedThenResumed,
		},
		{
			name:     "one-instance-revoked-other-works",
			tried:    "the operator revokes one of reader's two instances",
			expected: "that one is cut off for ever; the other goes on answering",
			reason:   string(denial.Revoked),
			run:      instanceRevoked,
		},
		{
			name:     "revoked-agent-cut-off",
			tried:    "the operator revokes mallory, who is connected and whose calls are answered",
			expected: "its connection is closed within moments and it cannot come back",
			reason:   string(denial.Revoked),
			run:      agentRevoked,
		},
		{
			name:     "denial-explained",
			tried:    "mallory asks the control plane why, over HTTPS; so do clerk, a stranger, and somebody with mallory's name and no key",
			expected: "mallory is told reason and denial ID; the others learn nothing about it",
			reason:   string(denial.Revoked),
			run:      denialExplained,
		},
		{
			name:     "revoked-delegator-cuts-delegate",
			tried:    "boss lends to temp, temp lends on to trainee, and the operator revokes temp",
			expected: "trainee's connection that rests on it is closed, and a reader refuses its call under that chain",
			reason:   string(denial.DelegatorCut),
			run:      delegatorRevoked,
		},
	}}
}

func suspendedThenResumed(ctx context.Context, s *stage) (outcome, error) {
	thief, err := s.infiltrate(ctx, s.writer.dir)
	if err != nil {
		return outcome{}, err
	}
	cut, err := s.mesh.Cut(ctx, wire.OpSuspend, "writer", "demo")
	if err != nil {
		return outcome{}, err
	}
	if err := thief.cut(ctx); err != nil {
		return outcome{}, err
	}
	l, err := s.turnedAway(ctx, bare.Entry{Dir: s.writer.dir}, thief.Key.PublicKey())
	if err != nil {
		return outcome{}, err
	}
	before := ran(s.readers())
	if _, err := s.writer.Call(ctx, "read:logs", nil); denial.Of(err) != denial.Suspended {
		return outcome{}, fmt.Errorf("suspended, writer was told %v", err)
	}
	if n := ran(s.readers()) - before; n != 0 {
		return outcome{}, fmt.Errorf("its call was handled %d times", n)
	}
	resumed := time.Now()
	if err := s.mesh.Operate(ctx, wire.AdminRequest{Op: wire.OpResume, Target: "writer"}, nil); err != nil {
		return outcome{}, err
	}
	if err := eventually(ctx, "the return of writer", func() bool { return s.writer.Away() == nil }); err != nil {
		return outcome{}, err
	}
	if _, err := s.writer.Call(ctx, "read:logs", nil); err != nil {
		return outcome{}, fmt.Errorf("resumed, writer was told %w", err)
	}
	return outcome{
		fmt.Sprintf("%d connections closed, %.0f ms from the command; back and answered %s after resume", cut.Cut, cut.MS, time.Since(resumed).Round(time.Millisecond)),
		l.text("reason"),
	}, nil
}

func instanceRevoked(ctx context.Context, s *stage) (outcome, error) {
	gone := s.reader2.Instance()
	cut, err := s.mesh.Cut(ctx, wire.OpRevoke, "reader/"+gone.String(), "demo")
	if err != nil {
		return outcome{}, err
	}
	d, err := agentdir.Open(s.reader2.dir)
	if err != nil {
		return outcome{}, err
	}
	key, err := d.Key()
	if err != nil {
		return outcome{}, err
	}
	pub, err := key.PublicKey()
	if err != nil {
		return outcome{}, err
	}
	// Its client comes back as often as it likes; this is one try more.
	l, err := s.turnedAway(ctx, bare.Entry{Dir: s.reader2.dir}, pub)
	if err != nil {
		return outcome{}, err
	}
	if err := eventually(ctx, "that the revoked instance knows", func() bool { return errors.Is(s.reader2.Away(), denial.Revoked) }); err != nil {
		return outcome{}, err
	}
	for range 4 {
		r, err := s.clerk.Call(ctx, "read:logs", nil, meshclient.To("reader"))
		if err != nil {
			return outcome{}, fmt.Errorf("the other instance: %w", err)
		}
		if r.Instance != s.reader.Instance() {
			return outcome{}, fmt.Errorf("instance %s answered", r.Instance)
		}
	}
	return outcome{
		fmt.Sprintf("%s was cut off, %.0f ms from the command; %s answered 4 of 4", gone, cut.MS, s.reader.Instance()), l.text("reason"),
	}, nil
}

func agentRevoked(ctx context.Context, s *stage) (outcome, error) {
	p := s.mallory
	if err := p.works(ctx, "read:logs", p.Record.Tokens[1]); err != nil {
		return outcome{}, err
	}
	start := time.Now()
	cut, err := s.mesh.Cut(ctx, wire.OpRevoke, "mallory", "demo")
	if err != nil {
		return outcome{}, err
	}
	if err := p.cut(ctx); err != nil {
		return outcome{}, err
	}
	took := time.Since(start)
	if !cut.Confirmed {
		return outcome{}, fmt.Errorf("the cut is not confirmed: %v could not be reached", cut.Unreachable)
	}
	l, err := s.turnedAway(ctx, bare.Entry{Dir: p.Dir.Path}, p.Key.PublicKey())
	if err != nil {
		return outcome{}, err
	}
	return outcome{fmt.Sprintf("connection closed and confirmed %s after the command was sent; a new one refused", took.Round(time.Millisecond)), l.text("reason")}, nil
}

// inquire asks the control plane over HTTPS what it thinks of a key. The request
// claims to be the agent's and is signed with the key; spoil changes it after.
func (s *stage) inquire(ctx context.Context, agent agentid.ID, key jws.Signer, spoil func(string) string) (wire.SelfStatus, wire.Failure, error) {
	var status wire.SelfStatus
	var failure wire.Failure
	proof, err := jws.Sign(&wire.SelfClaims{
		Head:  jws.Head{Kind: wire.KindSelf, IssuedAt: time.Now().Unix()},
		Agent: agent, Audience: s.mesh.Dir.Config.TrustDomain,
	}, key)
	if err != nil {
		return status, failure, err
	}
	if spoil != nil {
		proof = spoil(proof)
	}
	d, err := agentdir.Open(s.clerk.dir)
	if err != nil {
		return status, failure, err
	}
	source, err := d.Source()
	if err != nil {
		return status, failure, err
	}
	u, err := url.Parse(s.mesh.Plane.URL())
	if err != nil {
		return status, failure, err
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: source.Roots(), ServerName: u.Hostname()}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.JoinPath(wire.PathSelf).String(), bytes.NewReader([]byte(proof)))
	if err != nil {
		return status, failure, err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return status, failure, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	body, err := io.ReadAll(io.LimitReader(resp.Body, limits.HTTPBody))
	if err != nil {
		return status, failure, err
	}
	if resp.StatusCode == http.StatusOK {
		return status, failure, json.Unmarshal(body, &status)
	}
	return status, failure, json.Unmarshal(body, &failure)
}

func denialExplained(ctx context.Context, s *stage) (outcome, error) {
	p := s.mallory
	l, err := s.turnedAway(ctx, bare.Entry{Dir: p.Dir.Path}, p.Key.PublicKey())
	if err != nil {
		return outcome{}, err
	}
	told, _, err := s.inquire(ctx, p.ID, p.Pair, nil)
	if err != nil {
		return outcome{}, err
	}
	if told.Denial == "" || told.Denial != l.text("denial") || string(told.Reason) != l.text("reason") {
		return outcome{}, fmt.Errorf("mallory was told %q and denial %q; logged are %q and %q", told.Reason, told.Denial, l.text("reason"), l.text("denial"))
	}
	stranger, err := nkeys.CreateUser()
	if err != nil {
		return outcome{}, err
	}
	for who, ask := range map[string]struct {
		key   jws.Signer
		spoil func(string) string
	}{
		"clerk":                {s.clerkPod.Pair, nil},
		"a stranger":           {stranger, nil},
		"somebody without key": {p.Pair, otherSignature},
	} {
		status, failure, err := s.inquire(ctx, p.ID, ask.key, ask.spoil)
		if err != nil {
			return outcome{}, err
		}
		if status != (wire.SelfStatus{}) || failure.Denial != "" || failure.Reason == "" || failure.Reason == told.Reason {
			return outcome{}, fmt.Errorf("%s was told %+v %+v", who, status, failure)
		}
	}
	return outcome{fmt.Sprintf("mallory was told denial %s; three others were told nothing", told.Denial), string(told.Reason)}, nil
}

// otherSignature replaces the signature of a document by one of the same form.
func otherSignature(proof string) string {
	b := []byte(proof)
	i := len(b) - 80
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

func delegatorRevoked(ctx context.Context, s *stage) (outcome, error) {
	onward := readLogs
	onward.Delegatable = onward.Scopes
	if _, err := s.lend(ctx, s.temp, onward); err != nil {
		return outcome{}, err
	}
	lent, err := s.temp.Delegate(ctx, "trainee", meshclient.Grant{Scopes: onward.Scopes, For: onward.For / 2})
	if err != nil {
		return outcome{}, err
	}
	chain := lent.Chains()[0]
	rests, err := s.infiltrate(ctx, s.trainee.Dir.Path, presenting(lent.Chains()))
	if err != nil {
		return outcome{}, err
	}
	if err := rests.works(ctx, "read:logs", chain); err != nil {
		return outcome{}, err
	}
	start := time.Now()
	cut, err := s.mesh.Cut(ctx, wire.OpRevoke, "temp", "demo")
	if err != nil {
		return outcome{}, err
	}
	if err := rests.cut(ctx); err != nil {
		return outcome{}, err
	}
	took := time.Since(start)
	if !slices.Contains(cut.Delegates, s.trainee.ID) {
		return outcome{}, fmt.Errorf("the cut names %v as delegates", cut.Delegates)
	}
	reason, err := s.refused(ctx, s.readers(), audit.Call, func() error { return s.trainee.call("read:logs", chain, nil) })
	if err != nil {
		return outcome{}, err
	}
	// The control: what trainee holds itself it still has.
	if err := s.trainee.works(ctx, "read:logs", s.trainee.Record.Tokens[0]); err != nil {
		return outcome{}, err
	}
	return outcome{fmt.Sprintf("connection closed %s after the command was sent; the chain is refused, trainee's own right is not", took.Round(time.Millisecond)), reason}, nil
}

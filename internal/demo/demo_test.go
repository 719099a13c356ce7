package demo_test

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/demo"
)

// names are those that other people's scripts look for.
var names = []string{
	"signed-call", "event-delivered", "nested-call-same-correlation", "call-to-one-agent", "looping-calls-stopped",
	"unlisted-agent", "nkey-without-certificate", "nkey-of-one-certificate-of-another", "bad-nonce-signature",
	"forged-sender-subject", "record-overwrite-through-the-server", "agent-certificate-opens-no-route",
	"forged-reply", "reply-from-wrong-agent",
	"tampered-payload", "tampered-envelope", "moved-to-another-subject", "replayed", "replayed-to-another-replica", "stale-timestamp",
	"scope-not-held", "wildcard-scope", "stolen-token",
	"delegated-call", "delegation-beyond-own", "delegation-of-undelegatable", "delegation-ended-early", "expired-token",
	"clean-exit-is-not-death", "dead-agent-cut-off", "beat-does-not-revive", "readmitted-by-attestation",
	"suspended-then-resumed", "one-instance-revoked-other-works", "revoked-agent-cut-off", "denial-explained", "revoked-delegator-cuts-delegate",
}

func run(t *testing.T, edit func(demo.Options) demo.Options) demo.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	o := demo.Options{Progress: func(s demo.Step) {
		t.Logf("%2d/%d %-36s ok=%-5t %7.1f ms [%s] %s", s.Number, s.Of, s.Name, s.OK, s.MS, s.Reason, s.Actual)
	}}
	if os.Getenv("MESH_LOG") != "" {
		o.Log = os.Stderr
	}
	if edit != nil {
		o = edit(o)
	}
	r, err := demo.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestStory(t *testing.T) {
	start := time.Now()
	r := run(t, nil)
	t.Logf("took %s", time.Since(start))
	if r.Schema != demo.Schema {
		t.Errorf("got schema %q, want %q", r.Schema, demo.Schema)
	}
	var got []string
	for _, s := range r.Steps {
		got = append(got, s.Name)
		if !s.OK {
			t.Errorf("%s: expected %q, got %q (reason %q)", s.Name, s.Expected, s.Actual, s.Reason)
		}
	}
	if !slices.Equal(got, names) {
		t.Errorf("got steps %q, want %q", got, names)
	}
	if !r.OK {
		t.Error("the report says that steps disagree")
	}
}

// A step fails when the attack succeeds: here the thief delivers the order as
// clerk signed it, and bank pays.
func TestStoryNotices(t *testing.T) {
	r := run(t, demo.Sabotaged)
	if r.OK || len(r.Steps) == 0 {
		t.Fatal("an attack that succeeded was not noticed")
	}
	last := r.Steps[len(r.Steps)-1]
	if last.Name != "tampered-payload" || last.OK {
		t.Errorf("got step %q with ok=%t, want tampered-payload to fail", last.Name, last.OK)
	}
	for _, s := range r.Steps[:len(r.Steps)-1] {
		if !s.OK {
			t.Errorf("%s: expected %q, got %q", s.Name, s.Expected, s.Actual)
		}
	}
}

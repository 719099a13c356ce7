package controlplane_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/controlplane"
	"github.com/sealmesh/sealmesh/pki"
)

// hinting is an error with a hint, as those of Vault are.
type hinting struct{ error }

func (hinting) Hint() string { return "vault operator unseal" }

// What stands in the way of certificates is logged when it begins, once a minute
// while it lasts, and when it is over.
func TestIssuerReport(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := time.Now()
	report := controlplane.ReportIssuer(zerolog.New(&log), func() time.Time { return now })
	sealed, away := hinting{errors.New("sealed")}, errors.New("away")
	for i, step := range []struct {
		err  error
		wait time.Duration
		want string // of the new line, empty: none
	}{
		{nil, 0, ""},
		{sealed, 0, "vault operator unseal"},
		{sealed, time.Second, ""},
		{sealed, time.Minute, "sealed"},
		{away, time.Second, "away"},
		{nil, time.Second, "can be issued again"},
		{nil, time.Hour, ""},
		{away, 0, "away"},
	} {
		now = now.Add(step.wait)
		log.Reset()
		report(step.err)
		if got := log.String(); (got == "") != (step.want == "") || !strings.Contains(got, step.want) {
			t.Errorf("step %d: got the line %q, want %q", i, got, step.want)
		}
	}
}

// runner is an issuer elsewhere that says when it runs and when no more.
type runner struct {
	pki.Issuer
	began, ended chan struct{}
}

func newRunner() *runner { return &runner{began: make(chan struct{}), ended: make(chan struct{})} }

func (r *runner) Run(ctx context.Context, _ time.Duration, _ func(error)) {
	close(r.began)
	<-ctx.Done()
	close(r.ended)
}

// An issuer that has to be run is, as long as it is in use and no longer.
func TestIssuerIsTended(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	first, second := newRunner(), newRunner()
	use, done := controlplane.TendIssuer(ctx, first)
	<-first.began
	use(second)
	<-first.ended
	<-second.began
	cancel()
	<-second.ended
	<-done
}

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/demo"
)

// demoTimeout ends a demo that hangs; it takes a few seconds.
const demoTimeout = 3 * time.Minute

func newDemo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Tell the whole story on a temporary mesh",
		Long: `Starts a mesh in a temporary directory (embedded nats-server, TLS, JetStream,
control plane), lets agents call, publish and delegate on it, and attacks it:
tampering, replay, forged senders and replies, stolen keys and tokens, silence.
Each step says what was tried, what had to happen and what happened; a refusal
counts only where the one who refused said so and nothing was done.

Exits with 0 only if every step agrees with what was expected.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(c.Context(), demoTimeout)
			defer cancel()
			start := a.now()
			o := demo.Options{Progress: a.demoStep}
			if log := a.shotLog(); log.GetLevel() != zerolog.Disabled {
				o.Log, o.Level = a.stderr, log.GetLevel()
			}
			r, err := demo.Run(ctx, o)
			if err != nil {
				return err
			}
			if err := a.show(r, func(w io.Writer) { demoSummary(w, r, a.now().Sub(start)) }); err != nil {
				return err
			}
			if !r.OK {
				return &said{exitFailed}
			}
			return nil
		},
	}
}

// demoStep tells of one step as soon as it is over: in full to people, in one
// line beside the document where a person looks on.
func (a *app) demoStep(s demo.Step) {
	verdict := "ok  "
	if !s.OK {
		verdict = "FAIL"
	}
	head := fmt.Sprintf("%2d/%d %s %s (%.0f ms)\n", s.Number, s.Of, verdict, s.Name, s.MS)
	if a.json {
		if isTerminal(a.stderr) {
			io.WriteString(a.stderr, head) //nolint:errcheck // progress
		}
		return
	}
	reason := ""
	if s.Reason != "" {
		reason = " [" + s.Reason + "]"
	}
	//nolint:errcheck // progress
	fmt.Fprintf(a.stdout, "%s      tried     %s\n      expected  %s\n      happened  %s%s\n", head, s.Tried, s.Expected, clean(s.Actual), reason)
}

func demoSummary(w io.Writer, r demo.Report, took time.Duration) {
	agree := 0
	for _, s := range r.Steps {
		if s.OK {
			agree++
		}
	}
	//nolint:errcheck // a strings.Builder takes everything
	fmt.Fprintf(w, "\n%d of %d steps as expected, in %.1f s\n", agree, len(r.Steps), took.Seconds())
}

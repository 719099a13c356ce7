package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

func newMonitor(a *app) *cobra.Command {
	return group("monitor", "Look at the heartbeat monitor, and decide when it is held",
		newMonitorStatus(a), newMonitorRelease(a), newMonitorConfirm(a))
}

func operateMonitor(ctx context.Context, a *app, verb, reason string) (wire.MonitorStatus, error) {
	s, err := operate[wire.MonitorStatus](ctx, a, wire.AdminRequest{Op: wire.OpMonitor, Monitor: verb, Reason: reason})
	if denial.Of(err) == denial.WrongState {
		return s, &hinted{err, a.suggest("monitor status") + " shows how it fares"}
	}
	s.Replicas, s.Missing = some(s.Replicas), some(s.Missing)
	for i := range s.Replicas {
		r := &s.Replicas[i]
		r.Silent, r.Flooding = some(r.Silent), some(r.Flooding)
	}
	return s, err
}

// decide takes the brake off at all replicas. Where that is not sure of one of
// them, the command has failed: it holds on, or puts the brake on again.
func (a *app) decide(ctx context.Context, verb, reason, done string) error {
	s, err := operateMonitor(ctx, a, verb, reason)
	if err != nil {
		return err
	}
	partly := len(s.Missing) > 0
	for _, r := range s.Replicas {
		partly = partly || r.Hold != ""
	}
	if err := a.show(s, func(w io.Writer) {
		if partly {
			done = "not at every replica: repeat it once they answer"
		}
		fmt.Fprintln(w, done)
		a.writeMonitor(w, s)
	}); err != nil {
		return err
	}
	if partly {
		return &said{exitFailed}
	}
	return nil
}

func (a *app) writeMonitor(w io.Writer, s wire.MonitorStatus) {
	answered := fmt.Sprintf("%d of %d answered", len(s.Replicas), len(s.Replicas)+len(s.Missing))
	if len(s.Missing) > 0 {
		answered += "; not " + listed(s.Missing)
	}
	table(w,
		[]string{"state", orDash(clean(s.State))},
		[]string{"replicas", answered},
		[]string{"interval", span(s.IntervalMS) + ", time-out " + span(s.TimeoutMS)},
	)
	fmt.Fprintln(w)
	rows := [][]string{{"REPLICA", "HOST", "STATE", "WATCHED", "SILENT", "WOULD EXPIRE", "CANARY", "HELD SINCE"}}
	for _, r := range s.Replicas {
		canary := "none yet"
		if r.CanaryMS >= 0 {
			canary = span(r.CanaryMS) + " ago"
		}
		state := r.State
		if r.State == "grace" {
			state += " for " + span(r.GraceMS)
		}
		rows = append(rows, []string{
			clean(r.Replica), orDash(clean(r.Host)), clean(state), strconv.Itoa(r.Watched), strconv.Itoa(r.SilentCount),
			strconv.Itoa(r.WouldExpire), canary, when(r.HeldSince),
		})
	}
	table(w, rows...)
	for _, r := range s.Replicas {
		if r.SilentCount > 0 {
			more := ""
			if n := r.SilentCount - len(r.Silent); n > 0 {
				more = fmt.Sprintf(" and %d more", n)
			}
			fmt.Fprintf(w, "silent for %s: %s%s\n", clean(r.Replica), listed(r.Silent), more)
		}
		if len(r.Flooding) > 0 {
			fmt.Fprintf(w, "ALARM: flooded with beats by %s; sealmesh agent suspend takes them out\n", listed(r.Flooding))
		}
	}
	for _, r := range s.Replicas {
		if r.Hold != "" {
			writeHeld(w, a.suggest("monitor release"), a.suggest("monitor confirm"))
			break
		}
	}
}

func writeHeld(w io.Writer, release, confirm string) {
	fmt.Fprintf(w, "  they live, and could not be heard: %s\n  they are dead, and may expire:     %s\n", release, confirm)
}

// span prints milliseconds for people.
func span(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d > 10*time.Second {
		d = d.Round(time.Second)
	}
	return d.String()
}

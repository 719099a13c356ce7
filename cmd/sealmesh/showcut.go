package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// showCut prints what an operation that took authority away has done. A cut
// that not every server confirmed is a failure: the record says no already,
// but somewhere a connection may still be open.
func (a *app) showCut(did string, r wire.CutResult) error {
	r.Delegates, r.Servers = some(r.Delegates), some(r.Servers)
	if r.DryRun {
		return a.showDryRun(r)
	}
	if err := a.show(r, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s: epoch %d, %s closed, %.0f ms\n", r.Agent, did, r.Epoch, count(r.Cut, "connection"), r.MS)
		if len(r.Delegates) > 0 {
			list := make([]string, len(r.Delegates))
			for i, d := range r.Delegates {
				list[i] = d.String()
			}
			fmt.Fprintf(w, "what it had lent ended too: %s\n", listed(list))
		}
		writeServers(w, r)
	}); err != nil {
		return err
	}
	return a.confirmed(r, "not every server confirmed the cut")
}

// confirmed fails where not every server was heard.
func (a *app) confirmed(r wire.CutResult, what string) error {
	if r.Confirmed {
		return nil
	}
	if len(r.Unreachable) > 0 {
		what += "; not reached: " + strings.Join(r.Unreachable, ", ")
	}
	hint := "run the command again"
	switch {
	case r.DryRun:
	case r.Bound != nil:
		what = "nobody can close connections in this mesh, which has no system account; the last one ends by itself, by " + when(r.Bound)
		hint = "receivers refuse the agent already"
	default:
		hint = "it is tried again until every server has confirmed it; " + a.suggest("status") + " shows it until then"
	}
	fmt.Fprintf(a.stderr, "sealmesh: %s\nhint: %s\n", clean(what), clean(hint)) //nolint:errcheck // nowhere left to say it
	return &said{exitUnavailable}
}

// writeServers prints what a cut did at each server where something went wrong at
// one.
func writeServers(w io.Writer, r wire.CutResult) {
	if r.Confirmed || len(r.Servers) == 0 {
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{{"SERVER", "NAME", "ASKED", "CLOSED", "LEFT"}}
	for _, s := range r.Servers {
		asked, left := "yes", strconv.Itoa(s.Left)
		if !s.Asked {
			asked, left = "no answer", "?"
		}
		rows = append(rows, []string{clean(s.Server), orDash(s.Name), asked, strconv.Itoa(s.Closed), left})
	}
	table(w, rows...)
}

// writePending prints the cuts that were not confirmed yet.
func writePending(w io.Writer, list []wire.PendingCut) {
	for _, c := range list {
		why := "not every connection is closed"
		switch {
		case c.Bound != nil:
			why = "the last connection ends by itself, by " + when(c.Bound)
		case len(c.Unreachable) > 0:
			why = "not reached: " + listed(c.Unreachable)
		}
		fmt.Fprintf(w, "the cut of %s is not confirmed since %s: %s\n", c.Agent, when(&c.Since), why)
	}
}

// writeInsecure prints what takes protection away, and who came in all the same.
func writeInsecure(w io.Writer, s wire.MeshStatus) {
	for _, name := range s.Insecure {
		fmt.Fprintf(w, "insecure: %s is set\n", clean(name))
	}
	if s.Unlisted > 0 {
		fmt.Fprintf(w, "%s that no control plane had listed closed since this one started: somebody else may be able to admit connections\n", count(int(min(s.Unlisted, 1<<31)), "connection"))
	}
}

// boundOf prints how long a cut connection may go on.
func boundOf(s wire.MeshStatus) string {
	if s.RevocationBoundMS == 0 {
		return "closed at once"
	}
	return "not closed: at the broker they go on for up to " + (time.Duration(s.RevocationBoundMS) * time.Millisecond).String()
}

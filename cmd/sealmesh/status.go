package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// statusDoc is sealmesh.status/v1.
type statusDoc struct {
	wire.MeshStatus
	Healthy bool `json:"healthy"` // there is no ALARM
}

func newStatus(a *app) *cobra.Command {
	quiet := false
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how the mesh is: exit 0 fine, 1 something is wrong, 4 out of reach",
		Long: `Show how the mesh is, on one screen. What somebody has to look at now is a line that
begins with ALARM.

Exit code 0: nothing is wrong; 1: there is an ALARM; 4: the mesh cannot be reached, or
nobody lets agents in. With --quiet nothing is printed while nothing is wrong, so that
cron sends mail only then.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := operate[wire.MeshStatus](c.Context(), a, wire.AdminRequest{Op: wire.OpStatus})
			if err != nil {
				return err
			}
			s.Servers, s.Alarms = some(s.Servers), some(s.Alarms)
			s.PendingCuts, s.Expires = some(s.PendingCuts), some(s.Expires)
			s.ControlPlanes, s.Streams = some(s.ControlPlanes), some(s.Streams)
			s.MissingServers, s.Denied = some(s.MissingServers), some(s.Denied)
			troubles := s.Troubles()
			if quiet && len(troubles) == 0 {
				return nil
			}
			if err := a.show(statusDoc{s, len(troubles) == 0}, func(w io.Writer) { a.writeStatus(w, s, troubles) }); err != nil {
				return err
			}
			if len(troubles) > 0 {
				return &said{exitFailed}
			}
			return nil
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "print nothing while nothing is wrong")
	return c
}

func (a *app) writeStatus(w io.Writer, s wire.MeshStatus, troubles []wire.Trouble) {
	servers := listed(s.Servers)
	if len(s.MissingServers) > 0 {
		servers += "; not heard of: " + listed(s.MissingServers)
	}
	table(w,
		[]string{"agents", tally(s.Agents)},
		[]string{"instances", tally(s.Instances)},
		[]string{"sessions", strconv.Itoa(s.Sessions)},
		[]string{"servers", servers},
		[]string{"monitor", clean(fmt.Sprintf("%s, %d watched, %d silent, %d held", s.Monitor.State, s.Monitor.Watched, s.Monitor.Silent, s.Monitor.Held))},
		[]string{"streams", streamsOf(s.Streams)},
		[]string{"feed", "last tick " + span(s.FeedLagMS) + " ago"},
		[]string{"used nonces", replayed(s.Replay)},
		[]string{"cut connections", boundOf(s)},
		[]string{"denials", denialsOf(s)},
		[]string{"revision", strconv.FormatUint(s.Revision, 10)},
		[]string{"version", orDash(s.Version)},
		[]string{"time", when(&s.Time)},
	)
	writePlanes(w, s.ControlPlanes)
	writeNext(w, s.Expires)
	for _, t := range troubles {
		line := "ALARM: " + t.What
		switch {
		case t.Command != "":
			line += " (" + a.suggest("%s", t.Command) + ")"
		case t.Remedy != "":
			line += "; " + t.Remedy
		}
		fmt.Fprintln(w, clean(line))
	}
	if s.Monitor.State == "held" {
		writeHeld(w, a.suggest("monitor release"), a.suggest("monitor confirm"))
	}
	writePending(w, s.PendingCuts)
	writeInsecure(w, s)
	writeOlder(w, s.OlderRecords)
}

// writePlanes prints the replicas of the control plane.
func writePlanes(w io.Writer, list []wire.ControlPlane) {
	fmt.Fprintln(w)
	rows := [][]string{{"CONTROL PLANE", "HOST", "VERSION", "SINCE", "AT SERVER", "FEED", "PENDING CUTS"}}
	for _, c := range list {
		rows = append(rows, []string{
			clean(c.Replica), orDash(clean(c.Host)), orDash(clean(c.Version)), when(&c.Since), orDash(clean(c.Server)),
			span(c.FeedLagMS) + " ago", strconv.Itoa(c.PendingCuts),
		})
	}
	table(w, rows...)
}

// streamsOf sums up how the copies of the streams fare.
func streamsOf(list []wire.StreamView) string {
	if len(list) == 0 {
		return orDash("")
	}
	leads := map[string]int{}
	var flaws []string
	for _, s := range list {
		if s.Leader != "" {
			leads[s.Leader]++
		}
		switch {
		case !s.Quorum:
			flaws = append(flaws, s.Stream+" cannot be written")
		case len(s.Offline) > 0:
			flaws = append(flaws, s.Stream+" has no copy on "+strings.Join(s.Offline, ", "))
		case len(s.Behind) > 0:
			flaws = append(flaws, s.Stream+" is behind on "+strings.Join(s.Behind, ", "))
		}
	}
	out := count(len(list), "stream")
	if len(leads) > 0 {
		var by []string
		for _, name := range slices.Sorted(maps.Keys(leads)) {
			by = append(by, fmt.Sprintf("%s (%d)", name, leads[name]))
		}
		out += ", led by " + strings.Join(by, ", ")
	}
	if len(flaws) == 0 {
		return clean(out + ", all copies complete")
	}
	return clean(out + "; " + strings.Join(flaws, "; "))
}

// reasonsShown is how many reasons of denials are printed; --json has all of them.
const reasonsShown = 4

// denialsOf says what was refused lately, and why.
func denialsOf(s wire.MeshStatus) string {
	total := uint64(0)
	for _, c := range s.ControlPlanes {
		total += c.Denials
	}
	out := fmt.Sprintf("%d since the control planes started", total)
	var by []string
	for i, d := range s.Denied {
		if i == reasonsShown {
			by = append(by, fmt.Sprintf("%d more reasons", len(s.Denied)-i))
			break
		}
		by = append(by, fmt.Sprintf("%.1f %s", d.PerMinute, d.Reason))
	}
	if len(by) > 0 {
		out += "; a minute lately: " + strings.Join(by, ", ")
	}
	return clean(out)
}

// expiresShown is how much of what ends next is printed; --json has all of it.
const expiresShown = 3

// writeNext prints what ends next, but for what is an alarm already.
func writeNext(w io.Writer, list []wire.Ending) {
	for i, e := range list {
		if i < expiresShown && !e.Soon {
			fmt.Fprintf(w, "next: %s %s ends %s\n", clean(e.What), clean(e.Name), when(&e.NotAfter))
		}
	}
}

// replayed prints how the store of used nonces is.
func replayed(r *wire.ReplayView) string {
	if r == nil {
		return orDash("")
	}
	out := fmt.Sprintf("%d of at most %d", r.Nonces, r.Most)
	if r.Raises > 0 {
		out += fmt.Sprintf(", older calls refused %d times, last because %s", r.Raises, r.Reason)
	}
	return clean(out)
}

// tally prints counts by name, the names in order.
func tally[K ~string](m map[K]int) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			list = append(list, strconv.Itoa(m[k])+" "+string(k))
		}
	}
	return listed(list)
}

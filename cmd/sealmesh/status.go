package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how the mesh is",
		Args:  takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := operate[wire.MeshStatus](c.Context(), a, wire.AdminRequest{Op: wire.OpStatus})
			if err != nil {
				return err
			}
			s.Servers, s.Alarms = some(s.Servers), some(s.Alarms)
			s.PendingCuts, s.Expires = some(s.PendingCuts), some(s.Expires)
			return a.show(s, func(w io.Writer) {
				table(w,
					[]string{"agents", tally(s.Agents)},
					[]string{"instances", tally(s.Instances)},
					[]string{"sessions", strconv.Itoa(s.Sessions)},
					[]string{"servers", listed(s.Servers)},
					[]string{"monitor", clean(fmt.Sprintf("%s, %d watched, %d silent, %d held", s.Monitor.State, s.Monitor.Watched, s.Monitor.Silent, s.Monitor.Held))},
					[]string{"used nonces", replayed(s.Replay)},
					[]string{"cut connections", boundOf(s)},
					[]string{"denials", strconv.FormatUint(s.Denials, 10) + " since the control plane started"},
					[]string{"revision", strconv.FormatUint(s.Revision, 10)},
					[]string{"version", orDash(s.Version)},
					[]string{"time", when(&s.Time)},
				)
				writeExpires(w, s.Expires)
				a.writeHeldOrBlind(w, s.Monitor)
				writeAlarms(w, s.Alarms)
				writePending(w, s.PendingCuts)
				writeInsecure(w, s)
				writeOlder(w, s.OlderRecords)
			})
		},
	}
}

// expiresShown is how much of what ends next is printed; --json has all of it.
const expiresShown = 3

// writeExpires prints what ends next, and all that ends soon.
func writeExpires(w io.Writer, list []wire.Ending) {
	for i, e := range list {
		line := fmt.Sprintf("%s %s ends %s", clean(e.What), clean(e.Name), when(&e.NotAfter))
		switch {
		case e.Soon:
			fmt.Fprintln(w, "ALARM: "+line+" and has not been renewed")
		case i < expiresShown:
			fmt.Fprintln(w, "next: "+line)
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

package main

import (
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newAgentJoinLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls [ID]",
		Aliases: []string{"list"},
		Short:   "List the join tokens that are out",
		Long: `List the join tokens that still let somebody in, of one agent or of all: by a
handle, which sealmesh agent join cancel takes. The tokens themselves are nowhere
but where they were sent.`,
		Args: takes(0, 1, "[ID]"),
		RunE: func(c *cobra.Command, args []string) error {
			req := wire.AdminRequest{Op: wire.OpJoins}
			if len(args) == 1 {
				id, err := agentArg(c, args[0])
				if err != nil {
					return err
				}
				req.Target = id.String()
			}
			list, err := operate[wire.JoinList](c.Context(), a, req)
			if err != nil {
				return err
			}
			return a.showJoins(list)
		},
	}
}

// showJoins prints join tokens by their handles.
func (a *app) showJoins(list wire.JoinList) error {
	list.Joins = some(list.Joins)
	return a.show(list, func(w io.Writer) {
		rows := [][]string{{"HANDLE", "AGENT", "USED", "LEFT", "EXPIRES", "BY"}}
		for _, j := range list.Joins {
			rows = append(rows, []string{
				clean(j.Handle), j.Agent.String(), strconv.Itoa(j.Used), strconv.Itoa(max(0, j.Uses-j.Used)), when(&j.Expires), orDash(j.By),
			})
		}
		table(w, rows...)
		if list.More > 0 {
			fmt.Fprintf(w, "and %s more; name an agent to see fewer\n", count(list.More, "join token"))
		}
	})
}

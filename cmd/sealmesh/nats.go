package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

func newNATS(a *app) *cobra.Command {
	return group("nats", "Look after the nats-servers", newNATSReload(a), newNATSShow(a), newNATSCheck(a))
}

// rollLook is how often the state of a roll is asked for.
const rollLook = 250 * time.Millisecond

// rollAsk bounds one such question.
const rollAsk = 5 * time.Second

func newNATSReload(a *app) *cobra.Command {
	var wait bool
	var reason string
	c := &cobra.Command{
		Use:   "reload",
		Short: "Have the nats-servers read their files anew, one after another",
		Long: `Have every nats-server read its configuration and its certificates anew, one
after another. A reload cuts the connections of that server's agents, who come back
by themselves; the next server waits until they are back and what is stored is in
order. The control plane does this by itself after it renewed a certificate. It
goes on where the command ends; --wait waits for its end.

Some of its settings nats-server takes only when it starts, as the issuer and the
xkey of the callout. A server in whose file one of those changed refuses the whole
file until it is restarted: its state is restart then, and nobody was cut.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := a.deadline(c.Context(), 0)
			defer cancel()
			roll, err := a.roll(ctx, wire.AdminRequest{Op: wire.OpRoll, Roll: "start", Reason: reason})
			if err != nil {
				return err
			}
			if wait {
				if roll, err = a.follow(ctx, roll); err != nil {
					return err
				}
			}
			return a.showRoll(roll)
		},
	}
	c.Flags().BoolVar(&wait, "wait", false, "wait until all have, and say how far it is")
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	return c
}

func newNATSShow(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show how far the last reload of the nats-servers is",
		Args:  takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			roll, err := a.roll(c.Context(), wire.AdminRequest{Op: wire.OpRoll, Roll: "status"})
			if err != nil {
				return err
			}
			return a.showRoll(roll)
		},
	}
}

func (a *app) roll(ctx context.Context, req wire.AdminRequest) (wire.Roll, error) {
	roll, err := operate[wire.Roll](ctx, a, req)
	if denial.Of(err) == denial.WrongState {
		return roll, &hinted{err, a.suggest("nats status") + " shows how far the servers are"}
	}
	roll.Servers = some(roll.Servers)
	return roll, err
}

// follow asks until a roll is over, and says what each server does. The connection
// over which it asks is cut as all others are, and comes back.
func (a *app) follow(ctx context.Context, roll wire.Roll) (wire.Roll, error) {
	said := map[string]string{}
	for {
		for _, s := range roll.Servers {
			if said[s.Name] != s.State && s.State != wire.ServerWaiting && !a.json {
				fmt.Fprintln(a.stdout, rollLine(s))
			}
			said[s.Name] = s.State
		}
		if roll.State != wire.RollRunning {
			return roll, nil
		}
		select {
		case <-ctx.Done():
			return roll, outOfTime(ctx, ctx.Err())
		case <-time.After(rollLook):
		}
		// What is under way to a control plane whose own server is reloaded is lost.
		try, cancel := context.WithTimeout(ctx, rollAsk)
		now, err := a.roll(try, wire.AdminRequest{Op: wire.OpRoll, Roll: "status"})
		cancel()
		switch {
		case errors.Is(err, meshclient.ErrUnavailable) && ctx.Err() == nil:
			continue
		case err != nil:
			return roll, err
		case now.ID != roll.ID:
			return roll, errors.New("another reload has begun meanwhile; how this one ended is in the log of the control plane")
		}
		roll = now
	}
}

func rollLine(s wire.RollServer) string {
	switch s.State {
	case wire.ServerReloading:
		return fmt.Sprintf("%s: reads its files; %d clients", clean(s.Name), s.Clients)
	case wire.ServerSettling:
		return fmt.Sprintf("%s: has read them; waiting for its clients", clean(s.Name))
	case wire.ServerDone:
		return fmt.Sprintf("%s: done after %s", clean(s.Name), span(int64(s.MS)))
	case wire.ServerRestart:
		return fmt.Sprintf("%s: refuses its files until it is restarted", clean(s.Name))
	case wire.ServerAway:
		return fmt.Sprintf("%s: away; it reads its files when it starts", clean(s.Name))
	}
	return fmt.Sprintf("%s: %s", clean(s.Name), clean(s.State))
}

func (a *app) showRoll(roll wire.Roll) error {
	if err := a.show(roll, func(w io.Writer) {
		state := roll.State
		if roll.Why != "" {
			state += " (" + roll.Why + ")"
		}
		table(w, []string{"reload", clean(state)}, []string{"began", when(roll.Began)}, []string{"ended", when(roll.Ended)})
		if len(roll.Servers) > 0 {
			fmt.Fprintln(w)
			rows := [][]string{{"SERVER", "STATE", "CLIENTS", "NOT BACK", "TOOK", "CERTIFICATE UNTIL"}}
			for _, s := range roll.Servers {
				rows = append(rows, []string{clean(s.Name), clean(s.State), strconv.Itoa(s.Clients), strconv.Itoa(s.Missing), span(int64(s.MS)), when(s.NotAfter)})
			}
			table(w, rows...)
			for _, s := range roll.Servers {
				if s.Detail != "" {
					fmt.Fprintf(w, "%s: %s\n", clean(s.Name), clean(s.Detail))
				}
			}
		}
		restart, stopped := roll.RestartNeeded()
		if len(restart) > 0 {
			fmt.Fprintf(w, "ALARM: restart %s, one after another: until then it takes no change of its files, new certificates included\n", listed(restart))
		}
		if roll.State == wire.RollFailed && (stopped || len(restart) == 0) {
			fmt.Fprintf(w, "ALARM: it stopped there, and the servers behind were left alone: %s\n", clean(roll.Error))
		}
	}); err != nil {
		return err
	}
	if roll.State == wire.RollFailed {
		return &said{exitFailed}
	}
	return nil
}

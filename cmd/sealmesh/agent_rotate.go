package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

const (
	// rotateLook is how often it is looked who has rotated.
	rotateLook = time.Second
	// rotateSlack is how long after the last one's turn it is waited for.
	rotateSlack = time.Minute
)

// rotationDoc is what became of a rotation.
type rotationDoc struct {
	Schema string          `json:"schema"` // sealmesh.rotation/v1
	OverMS int64           `json:"over_ms"`
	Told   []rotatedDoc    `json:"told"`
	Away   []wire.AwayView `json:"away"`
	Waited bool            `json:"waited"` // new_serial says who has rotated
}

type rotatedDoc struct {
	wire.RotationView
	NewSerial string `json:"new_serial,omitempty"`
}

func newAgentRotate(a *app) *cobra.Command {
	var all, wait bool
	var over time.Duration
	var reason string
	c := &cobra.Command{
		Use:   "rotate ID[/INSTANCE] | --all",
		Short: "Have agents replace certificate, TLS key and connection now",
		Long: `Have the connected instances of an agent, one instance, or with --all those of
every agent renew their certificates, with new TLS keys, and replace their
connections. They lose no message by it, and no rights.

Each instance has a moment of its own within --over; unless that is given, one
second for every 20 instances and at least five. Who is not connected is listed as
away: it renews when it comes back, at half of its certificate's life or after its
end. A stock client hears of none of it.

With --wait it ends when all that were told have new certificates, or a minute
after the last one's turn with exit code 4.`,
		Args: takes(0, 1, "ID, ID/INSTANCE or --all"),
		RunE: func(c *cobra.Command, args []string) error {
			req := wire.AdminRequest{Op: wire.OpRotate, Over: over, Reason: reason}
			switch {
			case all == (len(args) == 1):
				return usage(c, "name either an agent or --all")
			case over < 0 || over > wire.RotateMost:
				return usage(c, "--over is 0s to %s", wire.RotateMost)
			case !all:
				target, err := targetArg(c, args[0])
				if err != nil {
					return err
				}
				req.Target = target
			}
			return a.rotate(c.Context(), req, wait)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "every agent")
	c.Flags().DurationVar(&over, "over", 0, "spread it over this time, for example 10m")
	c.Flags().BoolVar(&wait, "wait", false, "end when all that were told have rotated")
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	return c
}

func (a *app) rotate(ctx context.Context, req wire.AdminRequest, wait bool) error {
	begin, stop := a.deadline(ctx, adminTimeout)
	defer stop()
	log := a.shotLog()
	m, err := a.connect(begin, adminID, log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	doc := rotationDoc{Schema: wire.RotationSchema, Told: []rotatedDoc{}, Away: []wire.AwayView{}, Waited: wait}
	for {
		page, err := operateOn[wire.Rotation](begin, m, req)
		if err != nil {
			return err
		}
		doc.OverMS = page.OverMS
		for _, v := range page.Told {
			doc.Told = append(doc.Told, rotatedDoc{RotationView: v})
		}
		doc.Away = append(doc.Away, page.Away...)
		if page.Next.IsZero() || page.Next.String() <= req.After.String() {
			break
		}
		// The next page is of the same rotation.
		req.After, req.Over = page.Next, time.Duration(page.OverMS)*time.Millisecond
	}
	if wait {
		waiting, cancel := a.deadline(ctx, time.Duration(doc.OverMS)*time.Millisecond+rotateSlack)
		defer cancel()
		if err := a.awaitRotation(waiting, m, req.Target, &doc); err != nil {
			return err
		}
	}
	if err := a.show(doc, func(w io.Writer) { writeRotation(w, doc) }); err != nil {
		return err
	}
	if open := doc.open(); wait && open > 0 {
		fmt.Fprintf(a.stderr, "sealmesh: %s did not rotate in time\nhint: sealmesh agent show ID says where they are; run the command again for those\n", count(open, "instance")) //nolint:errcheck // nowhere left to say it
		return &said{exitUnavailable}
	}
	return nil
}

// open counts who was told, can hear of it, and has not rotated.
func (d *rotationDoc) open() (n int) {
	for _, v := range d.Told {
		if v.NewSerial == "" && !v.Stock {
			n++
		}
	}
	return n
}

// awaitRotation looks until all that were told have another certificate, or time is
// up, which is no error yet.
func (a *app) awaitRotation(ctx context.Context, m *meshclient.Mesh, target string, doc *rotationDoc) error {
	tick := time.NewTicker(rotateLook)
	defer tick.Stop()
	for last := -1; doc.open() > 0; {
		if n := doc.open(); n != last && !a.json {
			fmt.Fprintf(a.stderr, "sealmesh: %d of %s rotated\n", len(doc.Told)-n, count(len(doc.Told), "instance")) //nolint:errcheck // nowhere left to say it
			last = n
		}
		select {
		case <-ctx.Done():
			return outOfRotation(ctx)
		case <-tick.C:
		}
		agents, err := rotating(ctx, m, target)
		if err != nil {
			if ctx.Err() != nil {
				return outOfRotation(ctx)
			}
			continue // who acts may be replacing its own connection
		}
		serials := map[string]string{}
		for _, v := range agents {
			for _, i := range v.Instances {
				serials[v.Agent.String()+"/"+i.Instance.String()] = i.CertificateSerial
			}
		}
		for i, v := range doc.Told {
			if s := serials[v.Agent.String()+"/"+v.Instance.String()]; s != "" && s != v.Serial {
				doc.Told[i].NewSerial = s
			}
		}
	}
	return nil
}

// outOfRotation tells an interruption from time that is up.
func outOfRotation(ctx context.Context) error {
	if err := ctx.Err(); err == context.Canceled { //nolint:errorlint // a context's own
		return err
	}
	return nil
}

// rotating reads the agents that a rotation is about.
func rotating(ctx context.Context, m *meshclient.Mesh, target string) ([]wire.AgentView, error) {
	if target == "" {
		list, err := wire.ListAgents(ctx, func(ctx context.Context, req wire.AdminRequest) (wire.AgentList, error) {
			return operateOn[wire.AgentList](ctx, m, req)
		})
		return list.Agents, err
	}
	id, _, err := agentid.ParseTarget(target)
	if err != nil {
		return nil, err
	}
	v, err := operateOn[wire.AgentView](ctx, m, wire.AdminRequest{Op: wire.OpShow, Target: id.String()})
	return []wire.AgentView{v}, err
}

func writeRotation(w io.Writer, doc rotationDoc) {
	for _, v := range doc.Told {
		line := fmt.Sprintf("%s/%s: ", v.Agent, v.Instance)
		switch {
		case v.NewSerial != "":
			line += "rotated, serial " + v.NewSerial
		case v.Stock:
			line += "may be a stock client, which hears nothing of this"
		case doc.Waited:
			line += "has not rotated"
		default:
			line += "rotates in " + (time.Duration(v.DelayMS) * time.Millisecond).String()
		}
		fmt.Fprintln(w, clean(line)) //nolint:errcheck // a strings.Builder takes everything
	}
	fmt.Fprintf(w, "%s told, over %s", count(len(doc.Told), "instance"), time.Duration(doc.OverMS)*time.Millisecond) //nolint:errcheck // likewise
	if len(doc.Away) > 0 {
		var list []string
		for _, v := range doc.Away {
			list = append(list, fmt.Sprintf("%s/%s (%s)", v.Agent, v.Instance, v.State))
		}
		slices.Sort(list)
		fmt.Fprintf(w, "; away: %s", clean(strings.Join(list, ", "))) //nolint:errcheck // likewise
	}
	fmt.Fprintln(w) //nolint:errcheck // likewise
}

package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/meshclient"
)

// eventDoc is sealmesh.event/v1.
type eventDoc struct {
	Schema      string           `json:"schema"`
	From        agentid.ID       `json:"from"`
	Instance    agentid.Instance `json:"instance"`
	Topic       string           `json:"topic"`
	Correlation string           `json:"correlation"`
	Nonce       string           `json:"nonce"`
	Sent        time.Time        `json:"sent"`
	Sequence    uint64           `json:"sequence,omitempty"` // of stored events, from here on
	Stored      *time.Time       `json:"stored,omitempty"`
	Redelivered bool             `json:"redelivered,omitempty"`
	payload
}

func newSubscribe(a *app) *cobra.Command {
	most, durable := 0, ""
	c := &cobra.Command{
		Use:   "subscribe TOPIC",
		Short: "Print the verified events of a topic",
		Long: `Print the payload of every verified event of a topic, one after the other, each
on its own line, until SIGINT or SIGTERM or --count events. With --json each is
one document on one line.

With --durable the subscription has a name and outlives the command: the next one
under that name begins with what was published since the last one ended, in order,
for as long as the topic keeps it. The topic must be durable (sealmesh topic add).
An event is acknowledged once it is printed; what could not be printed comes
again. Several commands under one name share the events.

Standard output has what was verified and nothing else. Messages that are refused
are told on standard error, a line for each sender and reason, with how many there
were in a second; with --json as sealmesh.refused/v1.`,
		Args: takes(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, args []string) error {
			topic := args[0]
			if _, err := capability.SubscribeOf(topic); err != nil {
				return badScope(c, err)
			}
			if most < 0 {
				return usage(c, "--count must not be negative")
			}
			var opts []meshclient.SubscribeOption
			if c.Flags().Changed("durable") {
				if _, err := agentid.Parse(durable); err != nil {
					return usage(c, "--durable needs a name of lower case letters, digits and hyphens")
				}
				opts = append(opts, meshclient.Durable(durable))
			}
			return a.subscribe(c.Context(), topic, most, opts...)
		},
	}
	c.Flags().IntVar(&most, "count", 0, "end after so many events")
	c.Flags().StringVar(&durable, "durable", "", "name of a durable subscription: also what came while nobody listened")
	return c
}

func (a *app) subscribe(ctx context.Context, topic string, most int, opts ...meshclient.SubscribeOption) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := 0
	var failed error
	// Events come one at a time, and the last has been printed when serve is back.
	take := func(_ context.Context, e *meshclient.Event) {
		if failed != nil || most > 0 && seen >= most {
			e.Retry(0) // it is for whoever subscribes next
			return
		}
		if failed = a.event(e); failed != nil {
			e.Retry(0)
			cancel()
		}
		if seen++; seen == most {
			cancel()
		}
	}
	err := a.serve(ctx, func(m *meshclient.Mesh) error {
		if err := m.Subscribe(topic, take, opts...); err != nil {
			return a.lacking(err, m.ID(), "--subscribe "+topic)
		}
		log := a.runLog()
		log.Info().Str("agent", m.ID().String()).Str("self", m.Instance().String()).Str("topic", topic).Msg("subscribed")
		return nil
	})
	if err != nil {
		return err
	}
	return failed
}

func (a *app) event(e *meshclient.Event) error {
	if a.json {
		d := eventDoc{
			Schema: "sealmesh.event/v1", From: e.From, Instance: e.Instance, Topic: e.Topic, Correlation: e.Correlation,
			Nonce: e.Nonce, Sent: e.Sent.UTC(), Sequence: e.Sequence, Redelivered: e.Redelivered, payload: payloadOf(e.Data),
		}
		if e.Sequence != 0 {
			at := e.Stored.UTC()
			d.Stored = &at
		}
		return writeJSON(a.stdout, d, false)
	}
	data := e.Data
	if len(data) == 0 || data[len(data)-1] != '\n' {
		data = append(data[:len(data):len(data)], '\n')
	}
	_, err := a.stdout.Write(data)
	return err
}

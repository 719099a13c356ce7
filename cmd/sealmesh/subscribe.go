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
	payload
}

func newSubscribe(a *app) *cobra.Command {
	most := 0
	c := &cobra.Command{
		Use:   "subscribe TOPIC",
		Short: "Print the verified events of a topic",
		Long: `Print the payload of every verified event of a topic, one after the other, each
on its own line, until SIGINT or SIGTERM or --count events. With --json each is
one document on one line.`,
		Args: takes(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, args []string) error {
			topic := args[0]
			if _, err := capability.SubscribeOf(topic); err != nil {
				return badScope(c, err)
			}
			if most < 0 {
				return usage(c, "--count must not be negative")
			}
			return a.subscribe(c.Context(), topic, most)
		},
	}
	c.Flags().IntVar(&most, "count", 0, "end after so many events")
	return c
}

func (a *app) subscribe(ctx context.Context, topic string, most int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := 0
	var failed error
	// Events come one at a time, and the last has been printed when serve is back.
	take := func(_ context.Context, e *meshclient.Event) {
		if failed != nil || most > 0 && seen >= most {
			return
		}
		if failed = a.event(e); failed != nil {
			cancel()
		}
		if seen++; seen == most {
			cancel()
		}
	}
	err := a.serve(ctx, func(m *meshclient.Mesh) error {
		if err := m.Subscribe(topic, take); err != nil {
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
		return writeJSON(a.stdout, eventDoc{
			"sealmesh.event/v1", e.From, e.Instance, e.Topic, e.Correlation, e.Nonce, e.Sent.UTC(), payloadOf(e.Data),
		}, false)
	}
	data := e.Data
	if len(data) == 0 || data[len(data)-1] != '\n' {
		data = append(data[:len(data):len(data)], '\n')
	}
	_, err := a.stdout.Write(data)
	return err
}

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/meshclient"
)

// publishDoc is sealmesh.publish/v1.
type publishDoc struct {
	Schema      string  `json:"schema"`
	Topic       string  `json:"topic"`
	Correlation string  `json:"correlation"`
	Size        int     `json:"size"`
	MS          float64 `json:"ms"`
}

func newPublish(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "publish TOPIC [PAYLOAD|-]",
		Short: "Publish one event",
		Long: `Publish one event. On a durable topic the command ends once the event is stored;
where that could not be found out (exit code 4) it may be stored or not, and
publishing again makes a second event.`,
		Args: takes(1, 2, "TOPIC [PAYLOAD|-]"),
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := capability.PublishOf(args[0]); err != nil {
				return badScope(c, err)
			}
			data, err := a.payloadArg(args)
			if err != nil {
				return err
			}
			return a.publish(c.Context(), args[0], data)
		},
	}
}

func (a *app) publish(ctx context.Context, topic string, data []byte) error {
	ctx, cancel := a.deadline(ctx, meshclient.DefaultConnectTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, "", log)
	if err != nil {
		return err
	}
	defer leave(m, log)
	start, correlation := time.Now(), envelope.NewCorrelation()
	if err := m.Publish(meshclient.WithCorrelation(ctx, correlation), topic, data); err != nil {
		return &correlated{a.lacking(err, m.ID(), "--publish "+topic), correlation}
	}
	if err := m.Flush(ctx); err != nil {
		return &correlated{err, correlation}
	}
	return a.show(publishDoc{"sealmesh.publish/v1", topic, correlation, len(data), millis(time.Since(start))}, func(w io.Writer) {
		if a.verbose {
			fmt.Fprintf(w, "published %d bytes on %s\n", len(data), topic)
		}
	})
}

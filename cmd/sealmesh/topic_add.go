package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// defaultMaxAge is how long the events of a durable topic are kept unless the
// operator says otherwise.
const defaultMaxAge = 7 * 24 * time.Hour

func newTopicAdd(a *app) *cobra.Command {
	var age time.Duration
	c := &cobra.Command{
		Use:   "add TOPIC",
		Short: "Store the events of a topic for those who are away",
		Long: `Store the events of a topic, so that durable subscriptions get those of the time
when nobody listened. For a topic that is durable already, change how long its
events are kept.`,
		Args: takes(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := topicArg(c, args[0])
			if err != nil {
				return err
			}
			if age < time.Second || age%time.Second != 0 {
				return usage(c, "--max-age is in whole seconds, at least one")
			}
			list, err := operate[wire.TopicList](c.Context(), a, wire.AdminRequest{
				Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: name, MaxAge: int64(age / time.Second)},
			})
			if err != nil {
				return err
			}
			return a.showTopics(list)
		},
	}
	c.Flags().DurationVar(&age, "max-age", defaultMaxAge, "how long an event is kept")
	return c
}

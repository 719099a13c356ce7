package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newTopicRm(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "rm TOPIC",
		Aliases: []string{"remove"},
		Short:   "Make a topic an ordinary one again",
		Long: `Make a topic an ordinary one again: what is published reaches those who listen,
and nobody else. Durable subscriptions stay and get nothing of it until it is
durable again. What is stored of it is handed out no more and goes when it is too
old.`,
		Args: takes(1, 1, "TOPIC"),
		RunE: func(c *cobra.Command, args []string) error {
			name, err := topicArg(c, args[0])
			if err != nil {
				return err
			}
			list, err := operate[wire.TopicList](c.Context(), a, wire.AdminRequest{Op: wire.OpTopicRemove, Topic: &registry.Topic{Topic: name}})
			if denial.Of(err) == denial.NotFound {
				return &hinted{err, "sealmesh topic ls lists the durable topics"}
			}
			if err != nil {
				return err
			}
			return a.showTopics(list)
		},
	}
}

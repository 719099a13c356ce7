package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
)

func newTopicLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the durable topics",
		Args:    takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := operate[wire.TopicList](c.Context(), a, wire.AdminRequest{Op: wire.OpTopics})
			if err != nil {
				return err
			}
			return a.showTopics(list)
		},
	}
}

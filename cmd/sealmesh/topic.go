package main

import (
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/wire"
)

func newTopic(a *app) *cobra.Command {
	return group("topic", "Say which topics are durable", newTopicAdd(a), newTopicLs(a), newTopicRm(a))
}

// topicArg reads a topic from the command line.
func topicArg(c *cobra.Command, s string) (string, error) {
	if _, err := capability.PublishOf(s); err != nil {
		return "", badScope(c, err)
	}
	return s, nil
}

func (a *app) showTopics(list wire.TopicList) error {
	list.Topics = some(list.Topics)
	for i := range list.Topics {
		list.Topics[i].Durables = some(list.Topics[i].Durables)
	}
	return a.show(list, func(w io.Writer) {
		rows := [][]string{{"TOPIC", "KEPT", "STORED", "DURABLE SUBSCRIPTIONS"}}
		for _, t := range list.Topics {
			kept := (time.Duration(t.MaxAgeMS) * time.Millisecond).String()
			rows = append(rows, []string{clean(t.Topic), kept, strconv.FormatUint(t.Stored, 10), listed(t.Durables)})
		}
		table(w, rows...)
	})
}

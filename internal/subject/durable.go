package subject

import "github.com/sealmesh/sealmesh/agentid"

// Events matches every event.
func (s Space) Events() string { return s.join(string(Event), ">") }

// NoEvent is a subject of events on which nobody can speak: its sender is a
// reserved name.
func (s Space) NoEvent() string { return s.join(string(Event), "sealmesh", "none") }

// Consumer is the name of an agent's durable subscription at the stream of
// durable topics. No agent ID and no name has an underscore, so that it cannot
// be taken for another's.
func Consumer(agent agentid.ID, name string) string { return agent.String() + "_" + name }

// Pull is the request subject at which a consumer of the stream of durable topics
// hands out what is stored.
func Pull(consumer string) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + EventsStream + "." + consumer
}

// ConsumerInfo is the request subject at which such a consumer describes itself.
func ConsumerInfo(consumer string) string {
	return "$JS.API.CONSUMER.INFO." + EventsStream + "." + consumer
}

// Acks are the subjects by which what a consumer handed out is acknowledged, in
// both forms that servers use: the second has the domain and the account before
// the stream.
func Acks(consumer string) []string {
	const tail = ".*.*.*.*.*" // delivered, stream sequence, consumer sequence, time, pending
	return []string{
		"$JS.ACK." + EventsStream + "." + consumer + tail,
		"$JS.ACK.*.*." + EventsStream + "." + consumer + tail,
	}
}

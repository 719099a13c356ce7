package natsconf

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// ReplayAge is how long a burnt nonce stays burnt for a freshness window: a
// message is accepted from limits.Ahead before its time to window after it, and
// the rest is for clocks that are checked at different moments.
func ReplayAge(window time.Duration) time.Duration {
	return window + limits.Ahead + 30*time.Second
}

// requestInfo is the room for the header that nats-server puts on what it takes
// from another account, Nats-Request-Info with the account and a round trip time.
// A stream of several replicas counts it as part of the message, one of a single
// replica takes it off first.
const requestInfo = 80

// Replay is the first-write-wins stream behind the replay bucket. Create it
// through the StoreAPI prefix. It looks like a KV bucket to readers, but nobody,
// the control plane included, can take a nonce back: second writes, deletes,
// purges, rollups and per-message TTLs are refused, age alone reopens a key.
//
// A write is empty and has no header; the message size refuses any other,
// because a Nats-Msg-Id would make the server call a second write a success
// ("duplicate") and a payload would fill the disk. With several replicas the
// server's own header needs room, in which a short one of the writer fits as
// well: it deceives nobody but its writer, who could as well not ask, and not
// even him after a moment, which is all that such IDs are remembered for.
//
// Where it is full nothing new is burnt, so that calls are refused and the
// server, which keeps the registry as well, is not harmed. Nothing is pushed out:
// with an old limit on its size, whoever may burn could have it forget.
func Replay(window time.Duration, replicas int) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name:                 subject.KVStream(ReplayBucket),
		Description:          "nonces of calls, first write wins",
		Subjects:             []string{subject.KV(ReplayBucket, ">")},
		Storage:              jetstream.FileStorage,
		Replicas:             replicas,
		MaxMsgs:              limits.ReplayRecords,
		MaxBytes:             limits.ReplayBytes,
		MaxMsgsPerSubject:    1,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		DenyDelete:           true,
		DenyPurge:            true,
		MaxAge:               ReplayAge(window),
		AllowDirect:          false, // a read must come from the leader, and only that crosses the border
		MaxMsgSize:           1,     // zero would be unlimited
	}
	if replicas > 1 {
		c.MaxMsgSize, c.Duplicates = requestInfo, 100*time.Millisecond // the shortest that there is
	}
	return c
}

// Events is the stream of durable topics in STORE. Create it through the
// StoreAPI prefix. A message is stored once, for ever as it was signed: nobody
// deletes, purges or rolls up, and a copy within twice the freshness window is
// refused by its Nats-Msg-Id, which is the nonce. What one sender has on one
// topic is bounded; past that its events are refused, so that nobody pushes out
// what others said.
func Events(space subject.Space, topics []string, maxAge time.Duration, replicas int) jetstream.StreamConfig {
	c := jetstream.StreamConfig{
		Name:        EventsStream,
		Description: "events of durable topics",
		// A consumer without a topic waits for this one, on which nobody speaks: an
		// empty filter would be all of them.
		Subjects:             []string{space.NoEvent()},
		Storage:              jetstream.FileStorage,
		Replicas:             replicas,
		MaxMsgsPerSubject:    limits.EventsPerSender,
		Discard:              jetstream.DiscardNew,
		DiscardNewPerSubject: true,
		DenyDelete:           true,
		DenyPurge:            true,
		// Not shorter than copies have to be told apart.
		MaxAge:      max(maxAge, 2*limits.Window),
		Duplicates:  2 * limits.Window,
		MaxMsgSize:  limits.EventBytes,
		AllowDirect: false,
	}
	for _, t := range topics {
		c.Subjects = append(c.Subjects, space.EventFilter(t))
	}
	if replicas > 1 {
		c.MaxMsgSize += requestInfo
	}
	return c
}

// Audit is the stream of verdicts in CTRL: signed batches of records by every
// instance, oldest out first.
//
// It has no acknowledgements, for the reason that [Beats] has none. Nobody deletes
// or purges, the control plane included, and the server takes neither back later.
// Nor does it bound what one instance writes: one that writes more than its share
// pushes out the oldest records, of whomever they are. So whoever reads says from
// when on there is anything.
func Audit(space subject.Space, maxAge time.Duration, maxBytes int64, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        AuditStream,
		Description: "verdicts of every instance, in signed batches",
		Subjects:    []string{space.AuditFilter()},
		Storage:     jetstream.FileStorage,
		Compression: jetstream.S2Compression,
		Replicas:    replicas,
		MaxAge:      maxAge,
		MaxBytes:    maxBytes,
		MaxMsgSize:  limits.AuditMessage,
		Discard:     jetstream.DiscardOld,
		DenyDelete:  true,
		DenyPurge:   true,
		NoAck:       true,
	}
}

// Beats is the stream of heartbeats in CTRL, one message a subject.
//
// It has no acknowledgements. The import that feeds it carries reply subjects
// that agents choose, and the server sends an acknowledgement without asking
// whether its receiver may be written to: aimed at a record, it would overwrite
// that record.
func Beats(space subject.Space, replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              BeatsStream,
		Description:       "last heartbeat of every instance",
		Subjects:          []string{space.BeatFilter()},
		Storage:           jetstream.FileStorage,
		Replicas:          replicas,
		MaxMsgsPerSubject: 1,
		MaxAge:            24 * time.Hour,
		MaxMsgSize:        8 << 10,
		NoAck:             true,
	}
}

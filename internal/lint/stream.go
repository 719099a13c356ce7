package lint

import (
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/limits"
)

// keeps is a stream that the mesh has.
type keeps struct {
	account  string
	subjects []string // patterns that its subjects lie in
	must     bool     // it is always there
	agents   bool     // agents write it
}

func streams(prefix string) map[string]keeps {
	bucket := func(name string) keeps {
		return keeps{account: Control, subjects: []string{"$KV." + name + ".>"}, must: true}
	}
	return map[string]keeps{
		"KV_MESH_AGENTS":   bucket("MESH_AGENTS"),
		"KV_MESH_CHAINS":   bucket("MESH_CHAINS"),
		"KV_MESH_SESSIONS": bucket("MESH_SESSIONS"),
		"KV_MESH_JOINS":    bucket("MESH_JOINS"),
		"MESH_BEATS":       {Control, []string{prefix + ".beat.*.*"}, true, true},
		"MESH_AUDIT":       {Control, []string{prefix + ".audit.*.*"}, true, true},
		"KV_MESH_REPLAY":   {Store, []string{"$KV.MESH_REPLAY.>"}, true, true},
		// A subscription without a topic waits at the first of these.
		"MESH_EVENTS": {Store, []string{prefix + ".event.sealmesh.none", prefix + ".event.*.>"}, false, true},
	}
}

const (
	remedyStream  = "bring the stream back to what the mesh made it; nats stream info shows what it is"
	remedyForeign = "keep streams of your own in an account of their own"
)

// checkStreams proves of every stream in the accounts that the control plane
// manages that agents write only what is theirs, that the server sends nothing on
// and acknowledges nowhere in their name, and that what is stored stays.
func checkStreams(r *Report, s Snapshot) {
	known := streams(s.Prefix)
	seen := map[string]bool{}
	for _, st := range s.Streams {
		r.Checked.Streams++
		c := st.Config
		k, ours := known[c.Name]
		line := "stream " + c.Name + " in " + st.Account
		found := func(code Code, sev Severity, subj, why, remedy string) {
			r.add(Finding{code, sev, "", subj, line, why, remedy})
		}
		if ours && k.account == st.Account {
			seen[c.Name] = true
		} else {
			ours = false
			found(StreamUnknown, Warning, strings.Join(c.Subjects, " "), "no stream of the mesh has that name there", remedyForeign)
		}
		messages, requests := s.arrives(st.Account)
		written := meetsAny(messages, c.Subjects) || meetsAny(requests, c.Subjects)
		if ours {
			for _, subj := range c.Subjects {
				if !slices.ContainsFunc(k.subjects, func(p string) bool { return covers(split(p), split(subj)) }) {
					found(StreamSubjects, Error, subj, "it stores what is not its own", remedyStream)
				}
			}
			if len(c.Subjects) == 0 {
				found(StreamSubjects, Error, k.subjects[0], "it stores nothing", remedyStream)
			}
		}
		if written && (!ours || !k.agents) {
			found(StreamReached, Error, strings.Join(c.Subjects, " "), "what agents send crosses into it", remedyStream)
		}
		if !c.NoAck && meetsAny(messages, c.Subjects) {
			found(StreamAcknowledges, Error, strings.Join(c.Subjects, " "),
				"the import carries the reply subject of the agent that sends, and the server acknowledges there without asking: aimed at a record, it overwrites the record", "set no_ack")
		}
		if written || ours && k.agents {
			for _, why := range forgets(c, st.Account == Store) {
				found(StreamForgets, Error, strings.Join(c.Subjects, " "), why, remedyStream)
			}
		}
		checkSpeech(s, st, found)
		switch {
		case !ours:
		case c.Name == "KV_MESH_REPLAY":
			checkReplay(c, found)
		case c.Name == "MESH_AUDIT" && !(c.DenyDelete && c.DenyPurge):
			found(StreamForgets, Error, strings.Join(c.Subjects, " "), "deny_delete and deny_purge are not both set: records of who did what can be taken out", remedyStream)
		case c.Name == "MESH_EVENTS":
			checkEvents(s, c, found)
		case c.Name == "KV_MESH_AGENTS":
			checkRecords(s.Prefix, c, found)
		}
	}
	for name, k := range known {
		if k.must && !seen[name] {
			r.add(Finding{StreamMissing, Error, "", strings.Join(k.subjects, " "), "stream " + name + " in " + k.account,
				"it is not there", "restart the control plane, which makes it; what it held is gone: see Backup in docs/operations.md"})
		}
	}
}

// forgets returns by what an agent that writes a stream could take away, hide or
// write over what is in it.
func forgets(c jetstream.StreamConfig, stored bool) []string {
	var out []string
	bad := func(is bool, why string) {
		if is {
			out = append(out, why)
		}
	}
	bad(c.AllowRollup, "allow_rollup_hdrs: a message with the header Nats-Rollup deletes all before it")
	bad(c.AllowMsgTTL, "allow_msg_ttl: a message may say when it ends")
	bad(c.AllowMsgCounter, "allow_msg_counter: a message changes what others counted")
	bad(c.AllowMsgSchedules, "allow_msg_schedules: a message makes the server publish another one, later, in another's name")
	bad(c.AllowAtomicPublish, "allow_atomic: unfinished batches hold the stream")
	bad(c.AllowBatchPublish, "allow_batched: the server answers where the batch says")
	bad(c.Retention != jetstream.LimitsPolicy, "retention: what one takes is gone for the others")
	bad(c.Sealed, "sealed: nothing is stored")
	if !stored {
		return out
	}
	bad(!c.DenyDelete, "deny_delete is not set")
	bad(!c.DenyPurge, "deny_purge is not set")
	bad(c.MaxMsgsPerSubject <= 0, "max_msgs_per_subject: one sender may fill it")
	bad(c.Discard != jetstream.DiscardNew || !c.DiscardNewPerSubject, "discard: new messages push out old ones")
	bad(c.NoAck, "no_ack: nobody learns whether it was stored")
	bad(c.PersistMode == jetstream.AsyncPersistMode, "persist_mode: it is acknowledged before it is stored")
	bad(c.Storage != jetstream.FileStorage, "storage: it is forgotten when the server restarts")
	return out
}

type foundFunc func(code Code, sev Severity, subj, why, remedy string)

// checkSpeech proves that the server moves nothing out of a stream by itself.
func checkSpeech(s Snapshot, st Stream, found foundFunc) {
	c := st.Config
	all := strings.Join(c.Subjects, " ")
	if c.SubjectTransform != nil {
		found(StreamSpeaks, Error, c.SubjectTransform.Destination, "subject_transform: what is stored appears under another subject, and its sender token is no longer its sender's", remedyStream)
	}
	if rp := c.RePublish; rp != nil && (st.Account != Control || c.Name != "KV_MESH_AGENTS") {
		why := "republish: the server repeats what is stored"
		if meetsAny(s.leaves(st.Account), []string{rp.Destination}) {
			why += " to agents"
		}
		found(StreamSpeaks, Error, rp.Destination, why, remedyStream)
	}
	sources := c.Sources
	if c.Mirror != nil {
		sources = append([]*jetstream.StreamSource{c.Mirror}, sources...)
	}
	for _, src := range sources {
		sev, why := Warning, "it copies stream "+quoted(src.Name)+", past who may write here and past what that one refuses"
		if _, ours := streams(s.Prefix)[c.Name]; ours || len(src.SubjectTransforms) > 0 || src.External != nil {
			sev = Error
		}
		found(StreamSpeaks, sev, all, why, remedyStream)
	}
}

func checkReplay(c jetstream.StreamConfig, found foundFunc) {
	bad := func(is bool, why string) {
		if is {
			found(StreamForgets, Error, "$KV.MESH_REPLAY.>", why, remedyStream)
		}
	}
	bad(c.MaxMsgsPerSubject != 1, "max_msgs_per_subject: a nonce could be used twice")
	size := int32(1)
	if c.Replicas > 1 {
		size = 80 // the server's own header counts there
	}
	bad(c.MaxMsgSize <= 0 || c.MaxMsgSize > size, "max_msg_size: a write may carry headers, and with Nats-Msg-Id a second one succeeds")
	bad(c.MaxAge < limits.Window+limits.Ahead, "max_age: a nonce is forgotten while its message is still fresh, or never")
	bad(c.MaxMsgs <= 0 || c.MaxBytes <= 0, "max_msgs, max_bytes: who fills it fills the disk that the registry needs")
	bad(c.MaxMsgs > 0 && c.MaxMsgs < limits.ReplayRecords || c.MaxBytes > 0 && c.MaxBytes < limits.ReplayBytes,
		"max_msgs, max_bytes: who fills it stops everybody, and with so little sooner than it must be")
}

func checkEvents(s Snapshot, c jetstream.StreamConfig, found foundFunc) {
	if c.Duplicates < 2*limits.Window || c.MaxAge < c.Duplicates {
		found(StreamForgets, Error, strings.Join(c.Subjects, " "), "duplicate_window, max_age: a copy of a fresh message would be stored again", remedyStream)
	}
	for _, subj := range c.Subjects {
		topic, ok := strings.CutPrefix(subj, s.Prefix+".event.*.")
		if ok && !slices.Contains(s.Topics, topic) {
			found(StreamSubjects, Warning, subj, "no durable topic has that name", "restart the control plane, which sets the stream right")
		}
	}
}

// checkRecords proves that the record of an agent stays until the control plane
// writes another, and that everybody hears of it: a tombstone that is evicted is
// an agent that comes back.
func checkRecords(prefix string, c jetstream.StreamConfig, found foundFunc) {
	const subj = "$KV.MESH_AGENTS.>"
	bad := func(is bool, why string) {
		if is {
			found(StreamForgets, Error, subj, why, remedyStream)
		}
	}
	bad(c.MaxAge != 0 || c.AllowMsgTTL, "max_age, allow_msg_ttl: a revocation would end by itself")
	bad(c.MaxMsgs > 0 || c.MaxBytes > 0, "max_msgs, max_bytes: a revocation could be pushed out")
	bad(c.MaxMsgsPerSubject != 1, "max_msgs_per_subject: older records of an agent come back when the newest goes")
	if c.RePublish == nil || !covers(split(c.RePublish.Source), split(subj)) || c.RePublish.Destination != prefix+".feed.agents.>" || c.RePublish.HeadersOnly {
		found(StreamSpeaks, Error, prefix+".feed.agents.>", "it is not republished as the feed: clients do not hear of a revocation", remedyStream)
	}
}

package natsconf

import "github.com/sealmesh/sealmesh/internal/subject"

// The accounts.
const (
	Control = "CTRL"  // the control plane and its streams; one user
	Mesh    = "MESH"  // the agents; users come from the auth callout only
	Storage = "STORE" // what is stored for agents; no users
	System  = "SYS"   // the server's own events and requests; one user
)

// The control plane's buckets that agents can read, the heartbeat stream, and,
// in STORE, the replay bucket and the stream of durable topics.
const (
	AgentsBucket = subject.AgentsBucket
	ChainsBucket = subject.ChainsBucket
	BeatsStream  = "MESH_BEATS"
	AuditStream  = "MESH_AUDIT"
	ReplayBucket = subject.ReplayBucket
	EventsStream = subject.EventsStream
)

// StoreAPI is the JetStream API prefix by which the control plane's connection,
// which is in CTRL, manages streams in STORE (jetstream.NewWithAPIPrefix).
//
// Streams and consumers can be created, changed, listed and deleted through it,
// and single messages read from the leader. What needs a second subject or a
// second answer fails, and not always loudly: writes of a jetstream.KeyValue
// time out, its watchers and Keys see an empty bucket, a pull gets one message
// whatever its batch, and reads of a stream with AllowDirect have no responders.
const StoreAPI = "STORE.JS.API"

// SystemInbox is the inbox prefix that the system user's connection must use
// (nats.CustomInboxPrefix); it may subscribe no other.
const SystemInbox = "_INBOX_system"

// ControlStreams are the streams of CTRL, without which nothing goes.
func ControlStreams() []string {
	return []string{
		subject.KVStream(AgentsBucket), subject.KVStream(ChainsBucket), subject.KVStream(subject.SessionsBucket),
		subject.KVStream(subject.JoinsBucket), BeatsStream, AuditStream,
	}
}

// StoredStreams are those of STORE. The one of events is there with a durable topic.
func StoredStreams() []string { return []string{subject.KVStream(ReplayBucket), EventsStream} }

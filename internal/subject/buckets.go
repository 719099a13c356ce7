package subject

// The KV buckets that subjects and grants name. The control plane's account owns
// the first four; the fifth is the agents' store of used nonces.
const (
	AgentsBucket   = "MESH_AGENTS"
	ChainsBucket   = "MESH_CHAINS"
	SessionsBucket = "MESH_SESSIONS"
	JoinsBucket    = "MESH_JOINS"
	ReplayBucket   = "MESH_REPLAY"
)

// EventsStream holds the events of durable topics.
const EventsStream = "MESH_EVENTS"

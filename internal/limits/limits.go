// Package limits holds every size limit of Sealmesh's formats in one place.
// Parsers check them before they allocate or decode, so that what a stranger
// claims never sizes a buffer. Tests sit at each limit and one past it.
package limits

import "time"

// The envelope (docs/spec/envelope.md).
const (
	// Envelope is the longest Mesh-Envelope value in bytes.
	Envelope = 1024
	// Signature is the longest Mesh-Signature value in bytes. A batch
	// signature with its Merkle path is the longest form.
	Signature = 512
	// Subject is the longest subject in bytes.
	Subject = 512
	// Payload is the largest payload of one message in bytes; the server's
	// max_payload may be lower.
	Payload = 8 << 20
	// AppHeaders is the most application headers a message may carry.
	AppHeaders = 32
	// AppHeaderBytes is the most bytes that all of them may take together.
	AppHeaderBytes = 8 << 10
	// ContentType is the longest content type in bytes.
	ContentType = 64
	// Hops is how deep a call tree may grow before a call is refused as a loop.
	Hops = 16
	// Behalf is on behalf of how many agents one call may be made.
	Behalf = 8
	// Parts is the most parts of one streamed reply, and of one payload in parts.
	Parts = 1 << 20
	// SystemHeaders is the most header lines of NATS itself and of tracing that
	// one message may carry beside the mesh's own and the application's.
	SystemHeaders = 32
	// ErrorCode is the longest error code of a reply in bytes.
	ErrorCode = 40
	// Body is the largest payload in bytes of a request that sends it in parts. A
	// handler makes room for no more than the request says, and the request for no
	// more than this.
	Body = 64 << 20
	// Budget is the longest time that a caller may say it waits.
	Budget = 24 * time.Hour
)

// Capability chains (docs/spec/capability.md).
const (
	// Document is the longest signed document (a JWT) in bytes.
	Document = 32 << 10
	// Depth is the most delegations under one root token.
	Depth = 8
	// Chain is the longest serialised chain in bytes.
	Chain = 64 << 10
	// Scopes is the most scopes in one list of a token.
	Scopes = 256
	// ScopeSegments is the most dot-separated segments of a resource.
	ScopeSegments = 8
	// Scope is the longest scope in bytes.
	Scope = 160
	// Presented is the most chain digests that a connect may present; the
	// server's control line bounds them as well.
	Presented = 64
	// Grant is the most bytes that all subjects of one connection's grant may
	// take together, so that the answer to the server fits into one message.
	Grant = 256 << 10
)

// The registry.
const (
	// Labels is the most labels of an agent.
	Labels = 32
	// LabelText is the longest key or value of a label in bytes.
	LabelText = 128
	// Reason is the longest reason text an operator may give, in bytes.
	Reason = 256
	// LiveTokens is the most root tokens of one agent.
	LiveTokens = 64
	// Voided is the most voided delegations that one record lists.
	Voided = 256
	// UploadedChains is the most delegated chains one agent may have stored.
	UploadedChains = 256
	// JoinRuleText is the longest issuer, audience or subject of a join rule in bytes.
	JoinRuleText = 512
	// Instances is the most instances of one agent that are not gone.
	Instances = 256
	// Plain is the most plain subjects of one agent to publish, and the most to
	// subscribe.
	Plain = 64
)

// Durable topics.
const (
	// Topics is the most durable topics of a mesh.
	Topics = 256
	// Durables is the most durable subscriptions of one agent.
	Durables = 16
	// DurableTopics is the most topics of one durable subscription.
	DurableTopics = 32
	// EventAge is the longest that an event may be stored. Chains by which events
	// of durable topics were published are kept as long after their own end.
	EventAge = 30 * 24 * time.Hour
	// EventBytes is the largest event of a durable topic, headers and all: senders
	// times topics times EventsPerSender of them may lie on the server's disk.
	EventBytes = 64 << 10
	// KeptChains is the most chains of one agent that are kept after their end
	// because events of durable topics may rest on them.
	KeptChains = 4096
	// EventsPerSender is how many events of one sender on one topic are stored at
	// a time.
	EventsPerSender = 100_000
)

// Freshness of live messages.
const (
	// Window is how old a live message may be.
	Window = 5 * time.Minute
	// Ahead is how far in the future its timestamp may lie.
	Ahead = 30 * time.Second
	// RestartSlack is how far before its own start a receiver still takes
	// messages that nothing but its memory protects against replay.
	RestartSlack = 2 * time.Second
	// Nonces is how many used nonces one receiver remembers unless configured:
	// 12,000 messages a second over the whole window.
	Nonces = 1 << 22
	// NoncesPerSender is how many of those one sender may occupy.
	NoncesPerSender = 1 << 20
	// BurnsPerSender is how many calls and asks of one sender one receiver takes
	// within the time for which the shared store remembers them: 1,400 a second. A
	// receiver so gives one sender no more than an eighth of the store.
	BurnsPerSender = 1 << 19
	// ReplayRecords is how many used nonces the shared store holds: of 11,000 calls
	// a second in the whole mesh. Each takes 500 to 700 bytes of the server's
	// memory.
	ReplayRecords = 1 << 22
	// ReplayBytes is how many bytes they take together on the server's disk. What
	// is burnt is a subject, whose length its writer chooses.
	ReplayBytes = 1 << 29
	// StoredNonces is how many nonces of stored messages one durable subscription
	// remembers: of 3,000 messages a second over the whole window.
	StoredNonces = 1 << 20
)

// Certificates (package pki).
const (
	// Certificates is the most certificates in one chain or bundle.
	Certificates = 16
	// CertificateText is the longest PEM text of a chain or bundle in bytes.
	CertificateText = 64 << 10
	// CSR is the longest PEM text of a certificate request in bytes.
	CSR = 8 << 10
	// SecretFile is the longest secret file in bytes.
	SecretFile = 64 << 10
	// Hosts is the most host names and addresses of one server certificate.
	Hosts = 64
)

// HTTPBody is the largest request body of the control plane's HTTPS endpoint.
const HTTPBody = 64 << 10

// The audit.
const (
	// AuditRecords is the most records of one signed batch.
	AuditRecords = 256
	// AuditBatch is the most bytes that the records of one batch take together.
	AuditBatch = 48 << 10
	// AuditMessage is the largest message of the audit stream in bytes, headers and
	// all.
	AuditMessage = 64 << 10
	// AuditRecord is the longest record in bytes.
	AuditRecord = 4 << 10
	// AuditText is the longest text that one field of a record may hold, in bytes.
	AuditText = 512
	// AuditBacklog is the most bytes of records that wait in a process for the
	// server. What comes beyond is left out and counted.
	AuditBacklog = 1 << 20
)

// What a client remembers over a restart.
const (
	// Floors is of how many agents and instances it remembers the highest epoch.
	Floors = 1 << 14
	// FloorsText is the longest text of all of them in bytes.
	FloorsText = 4 << 20
)

// Heartbeats.
const (
	// Beat is the longest payload of a heartbeat in bytes.
	Beat = 1 << 10
	// BeatMessage is the longest message of one in bytes, envelope and all.
	BeatMessage = 8 << 10
	// ClientVersion is the longest client version in bytes.
	ClientVersion = 64
)

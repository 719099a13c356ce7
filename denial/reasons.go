package denial

// Refusals of a message, in the order in which a receiver checks
// (docs/spec/envelope.md).
const (
	// TooLarge: a part of the message exceeds its limit.
	TooLarge Reason = "too-large"
	// BadEnvelope: a header is missing, doubled or not in its one valid form.
	BadEnvelope Reason = "bad-envelope"
	// BadVersion: the envelope is of a version that this receiver does not speak.
	BadVersion Reason = "bad-version"
	// WrongSubject: the subject does not belong to the subscription it came in
	// on, or not to this mesh.
	WrongSubject Reason = "wrong-subject"
	// SenderMismatch: the subject's sender is not the one who signed.
	SenderMismatch Reason = "sender-mismatch"
	// ForeignDelivery: the message came out of a stream, and not on a pull of this
	// receiver's own.
	ForeignDelivery Reason = "foreign-delivery"
	// Loop: the call tree is deeper than the hop limit.
	Loop Reason = "loop"
	// Stale: the timestamp is older than the window.
	Stale Reason = "stale"
	// Future: the timestamp lies further ahead than clocks may differ.
	Future Reason = "future"
	// DeadlinePassed: the caller no longer waits for this.
	DeadlinePassed Reason = "deadline"
	// UnlistedAgent: the registry does not know the agent.
	UnlistedAgent Reason = "unlisted-agent"
	// UnlistedKey: the registry does not know the key as an instance of the agent.
	UnlistedKey Reason = "unlisted-key"
	// Pending: the agent is registered and was never admitted.
	Pending Reason = "pending"
	// Suspended: an operator suspended the agent.
	Suspended Reason = "suspended"
	// Expired: the heartbeat monitor expired the agent or instance.
	Expired Reason = "expired"
	// Revoked: the agent or instance is revoked, for ever.
	Revoked Reason = "revoked"
	// StaleEpoch: the epoch is lower than the current one.
	StaleEpoch Reason = "stale-epoch"
	// FeedStale: nothing was heard from the control plane for longer than the
	// grace, and the peer's record could not be read afresh.
	FeedStale Reason = "feed-stale"
	// RegistryUnavailable: the peer's record could not be read.
	RegistryUnavailable Reason = "registry-unavailable"
	// BadRecord: a registry document is not signed by the authority.
	BadRecord Reason = "bad-record"
	// Replayed: the nonce was seen before.
	Replayed Reason = "replayed"
	// ReplayUnavailable: the memory or the shared store of used nonces could not
	// decide.
	ReplayUnavailable Reason = "replay-unavailable"
	// BadSignature: the signature is not the named key's over this message.
	BadSignature Reason = "bad-signature"
	// NoToken: the message names no capability chain and needs one.
	NoToken Reason = "no-token"
	// ScopeNotHeld: the capability chain does not cover the scope.
	ScopeNotHeld Reason = "scope-not-held"
	// UnmatchedReply: nobody waits for this reply.
	UnmatchedReply Reason = "unmatched-reply"
	// WrongResponder: the reply was signed by somebody who was not asked or may
	// not handle the scope.
	WrongResponder Reason = "wrong-responder"
	// BrokenStream: a part of a streamed reply is missing, doubled, out of order
	// or from another signer.
	BrokenStream Reason = "broken-stream"
	// CannotOpen: the payload is not sealed to this instance, or not for this
	// message of this sender (docs/spec/sealed.md).
	CannotOpen Reason = "cannot-open"
	// RateLimited: the sender caused more look-ups than it may.
	RateLimited Reason = "rate-limited"
)

// Refusals of a capability chain (docs/spec/capability.md).
const (
	// BadScope: the text is not a scope.
	BadScope Reason = "bad-scope"
	// WildcardScope: the scope has a wildcard or an all-style shortcut.
	WildcardScope Reason = "wildcard-scope"
	// BadToken: the document is not in its one valid form.
	BadToken Reason = "bad-token"
	// WrongKind: a valid document of another kind.
	WrongKind Reason = "wrong-kind"
	// UnknownSigner: signed by a key that no pinned root certifies for this
	// purpose at this time.
	UnknownSigner Reason = "unknown-signer"
	// UnknownChain: no chain is stored under this digest.
	UnknownChain Reason = "unknown-chain"
	// BrokenChain: the tokens and passports do not belong to each other.
	BrokenChain Reason = "broken-chain"
	// NotHolder: the chain belongs to another agent.
	NotHolder Reason = "not-holder"
	// BeyondOwn: the token grants what the delegator does not hold.
	BeyondOwn Reason = "beyond-own"
	// NotDelegatable: the delegator holds it and may not pass it on.
	NotDelegatable Reason = "not-delegatable"
	// DepthExceeded: no delegations are left.
	DepthExceeded Reason = "depth-exceeded"
	// DelegationCycle: the token goes back to an agent that is in the chain.
	DelegationCycle Reason = "delegation-cycle"
	// BeyondWindow: the token lives longer than the one it derives from.
	BeyondWindow Reason = "beyond-window"
	// TokenExpired: the token's time is over.
	TokenExpired Reason = "token-expired"
	// TokenNotYet: the token's time has not come.
	TokenNotYet Reason = "token-not-yet-valid"
	// TokenTakenBack: the root token is no longer live, or the delegation was
	// voided.
	TokenTakenBack Reason = "token-taken-back"
	// DelegatorCut: an agent or key in the chain has lost its standing.
	DelegatorCut Reason = "delegator-cut"
)

// Refusals of a connection.
const (
	// BadRequest: the callout request is not from the server it names.
	BadRequest Reason = "bad-request"
	// Overloaded: the request waited past its expiry.
	Overloaded Reason = "overloaded"
	// ConnectionType: this kind of connection is not allowed.
	ConnectionType Reason = "connection-type"
	// ForeignCredentials: the connection presents a user, a password or a user
	// JWT, or a token that is not a list of chain digests.
	ForeignCredentials Reason = "foreign-credentials"
	// NoKey: the connection presents no nkey.
	NoKey Reason = "no-nkey"
	// BadNonceSignature: the nkey did not sign this connection's nonce.
	BadNonceSignature Reason = "bad-nonce-signature"
	// NoCertificate: the connection presents no verified client certificate.
	NoCertificate Reason = "no-certificate"
	// BadCertificate: the certificate is not one agent's of this mesh.
	BadCertificate Reason = "bad-certificate"
	// IdentityMismatch: nkey, certificate and record do not name one agent.
	IdentityMismatch Reason = "identity-mismatch"
	// OlderRecord: the agent's record is genuine and older than one that was seen:
	// the registry went back.
	OlderRecord Reason = "older-record"
	// EpochRaced: the agent was cut while its connection was being answered.
	EpochRaced Reason = "epoch-raced"
	// Flapping: the instance expired and came back too often; it is let in again
	// later.
	Flapping Reason = "flapping"
	// SessionTaken: the instance is connected from another host, or twice already,
	// and its agent has one session at a time.
	SessionTaken Reason = "session-taken"
	// Internal: the control plane failed and refused to be safe.
	Internal Reason = "internal"
)

// Refusals of an operation.
const (
	// BadInput: the request is malformed.
	BadInput Reason = "bad-input"
	// BadPlain: the subject cannot be a plain right.
	BadPlain Reason = "bad-plain"
	// Conflict: somebody else changed the record at the same time, too often.
	Conflict Reason = "conflict"
	// AlreadyExists: the name is taken.
	AlreadyExists Reason = "already-exists"
	// NotFound: no such agent, instance, token or topic.
	NotFound Reason = "not-found"
	// WrongState: the record's status does not allow the change.
	WrongState Reason = "wrong-state"
	// ReservedName: the name belongs to the mesh.
	ReservedName Reason = "reserved-name"
	// BadJoinToken: the join token is unknown, used up, expired or bound to
	// another host's keys.
	BadJoinToken Reason = "bad-join-token"
	// QuotaExceeded: a limit of the agent is reached.
	QuotaExceeded Reason = "quota-exceeded"
)

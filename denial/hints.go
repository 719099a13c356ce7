package denial

// Hint returns what the one who was refused, or its operator, can do about a
// reason; empty where nothing helps.
func Hint(r Reason) string {
	switch r {
	case Suspended:
		return "an operator suspended this agent; sealmesh agent resume ID lifts it"
	case Expired:
		return "the agent stopped sending heartbeats; it comes back by connecting again, or by sealmesh agent resume ID"
	case Flapping:
		return "it stops sending heartbeats again and again; it is let in by itself after a while, or by sealmesh agent resume ID at once"
	case SessionTaken:
		return "another connection of this instance is open; one host has the place at a time, until it leaves or falls silent. Where both should run, sealmesh agent join ID makes an instance of its own"
	case Revoked:
		return "revocation is final; sealmesh agent join ID makes a new instance of an agent, and sealmesh agent add ID --replace gives a revoked name new keys"
	case Pending:
		return "the agent has no enrolled instance yet; sealmesh agent join ID makes a join token"
	case UnlistedAgent:
		return "register it with sealmesh agent add ID"
	case UnlistedKey:
		return "this directory's keys were never enrolled, or the name was given new keys; run sealmesh enroll again"
	case ScopeNotHeld, NoToken:
		return "sealmesh agent grant ID --call SCOPE gives the right"
	case BadCertificate, NoCertificate, IdentityMismatch:
		return "key and certificate must be those of one enrolled agent; run sealmesh enroll again"
	case NotDelegatable:
		return "sealmesh agent grant ID --may-delegate SCOPE allows passing it on"
	case WildcardScope, BadScope:
		return "a scope is verb:resource, for example read:logs; wildcards do not exist"
	case BadPlain:
		return "a plain right is one literal subject outside the mesh, for example legacy.orders; between agents --call, --handle, --publish and --subscribe give rights"
	case Loop:
		return "agents call each other in a circle; look at the trace of the correlation ID"
	case BrokenStream:
		return "parts of the answer did not fit together, so it was given up; the same call again may bring a whole one"
	case CannotOpen:
		return "the sender's view of this agent's instances may be old; it asks for a new one and tries again by itself"
	case BadJoinToken:
		return "sealmesh agent join ID makes a new join token"
	case ReplayUnavailable, RegistryUnavailable, FeedStale:
		return "the control plane or JetStream cannot be reached; sealmesh status shows more"
	case OlderRecord:
		return "the registry was put back to an older state; sealmesh status lists its older records, and sealmesh agent suspend ID or revoke ID sets one right"
	case AlreadyExists:
		return "sealmesh agent show ID shows it; sealmesh agent grant ID changes its rights"
	case NotFound:
		return "sealmesh agent ls lists what there is"
	}
	return ""
}

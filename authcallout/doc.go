// Package authcallout implements the door of the mesh: it turns the connect
// request that nats-server hands over (its auth callout) into a short-lived
// user JWT or a denial, and it compiles scopes into NATS permissions.
//
// Laws of the grant compiler, [Compile]:
//
//   - It is pure and total: the same agent, instance and scopes give the same
//     sorted lines, and every line says which scope it comes from.
//   - The third token of every message subject that an agent may publish is its
//     own ID, so the broker itself keeps agents off each other's subjects.
//   - Token counts are exact. There is no bare ">", no stream management, no
//     $SYS, of $JS.API exactly the reads listed in [Compile], and of $KV exactly
//     the replay keys of the scopes that the agent handles.
//   - There is never an allow_responses: it is a universal publish right for
//     whoever can get a message delivered to its holder.
//   - Both sides are always explicit, because to nats-server an absent list
//     means everything.
//   - Every line is checked again, against a grammar written independently of
//     the compiler, before the grant leaves the package.
//
// Laws of the service:
//
//   - Fail closed. A request is admitted only after every check; an error, a
//     panic, a time-out or an unknown value is a denial.
//   - nats-server verifies neither the nonce signature of an nkey that it does
//     not know nor anything about the certificate but its chain, so the service
//     verifies both itself. The nkey, the certificate and the registry record
//     must name one agent; the name in the CONNECT line counts for nothing.
//   - An xkey is mandatory. Requests that are not sealed to it are refused, and
//     every answer is sealed to the server that asked.
//   - The session is written to the registry, and the record read again, before
//     the JWT is signed. An agent that is cut meanwhile is so either denied or
//     has a session that the cutter finds.
//   - What a refused client can learn is a random denial ID. The reason goes to
//     the log, to the audit and to [Service.LastDenial], which answers only for
//     keys whose possession was proved.
//
// Lifecycle: [Start] returns once the subscription stands at the server;
// [Service.Close] stops taking requests, answers those already taken, and waits
// for its goroutines. The connection belongs to the caller and stays open.
package authcallout

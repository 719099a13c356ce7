// Package meshclient is what an agent author imports: connect as an agent,
// handle and make calls, publish and subscribe, delegate.
//
//	mesh, err := meshclient.Connect(ctx, meshclient.As("reader"))
//	mesh.Handle("read:logs", tail)
//	mesh.Run(ctx)
//
// Laws:
//
//   - Whatever a handler is given was verified: who signed it, that it is fresh
//     and was never seen, that its sender is active and holds the scope. There
//     is no switch that turns this off.
//   - A call made inside a handler, with the handler's context, belongs to the
//     same call tree: correlation ID, parent and depth travel by themselves.
//   - The client outlives its control plane. It never gives up on an outage; it
//     says [Denied] where it was refused and [ErrUnavailable] where it could not
//     find out.
//
// Lifecycle: [Connect] blocks until the agent is connected and knows itself.
// [Mesh.Run] blocks until its context ends and then closes. [Mesh.Close] drains,
// says goodbye, which is not death, and waits for every goroutine; it may be
// called more than once. A Mesh is safe for concurrent use.
package meshclient

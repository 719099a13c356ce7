// Package lint proves over a whole mesh, from the outside, that no agent reaches
// what it must not: not by a line of its grant, not through what crosses the
// border between accounts, not through a stream or a consumer that stores or
// sends on its behalf.
//
// It is written from what nats-server does with a subject and from a list of
// what is private, and shares nothing with the code that compiles grants: a
// mistake there has to get past a proof that never heard of it. Subjects are
// spelled out here for the same reason.
//
// [Check] is a pure function of a [Snapshot]; [Permits] is what nats-server
// answers to one attempt under a grant.
package lint

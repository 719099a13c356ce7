// Package stock implements the tests that run Sealmesh as its users do: the real
// nats-server of its own module on the configuration that init wrote, the real
// sealmesh program beside it, and NATS clients that know nothing of Sealmesh.
//
//   - restart: whatever is restarted, in whatever order, the same agents, rights,
//     chains and epochs are there, and those who were connected find back.
//   - foreign: a stock client may do what its grant says, and nothing else.
//   - shutdown: programs end in order when they are asked to, and say clearly why
//     they do not start.
//
// Package kill, below, is about ends without any order.
package stock

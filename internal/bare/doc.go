// Package bare connects as an instance without the client: a plain NATS
// connection and the instance's keys. Whoever holds it can do what the broker lets
// that instance do, and sign whatever it likes, which is what a compromised agent
// can. The demo's intruders and the benchmarks of a cut are made of it.
package bare

// Package scale holds what takes minutes and many instances: how much the
// heartbeat monitor costs in a large mesh, and how soon it notices. Its test runs
// with `make monitor-scale` alone, and is skipped otherwise.
package scale

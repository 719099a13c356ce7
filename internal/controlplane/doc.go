// Package controlplane wires the services of the mesh into one process: the auth
// callout, the registry with its admin operations, the heartbeat monitor, the
// cutter, the feed's ticks and the HTTPS endpoint for those that cannot connect
// yet or any more.
//
// It has two connections: one into the account CTRL, which it shares with no
// agent, and one into SYS, by which it cuts. Any number of control planes may
// work on one mesh: the callout and the calls are shared by queue group, what
// is written is written by compare-and-set, and what every replica must see
// (records, beats) every replica watches.
//
// [Start] returns when the mesh can be used. [Plane.Close] stops taking work,
// waits for what is under way and for every goroutine, and closes both
// connections.
package controlplane

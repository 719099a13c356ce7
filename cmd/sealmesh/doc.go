// Command sealmesh is the hands and eyes of a mesh: it makes one (init), runs
// one (up, server), keeps its registry (agent, enroll), is an agent from a
// shell (call, handle, publish, subscribe), works with capability chains
// (token), and shows what is there and why (status, can, explain).
//
// Text goes to people and one JSON document (or one a line where it streams) to
// programs that ask for it with --json. The exit code says what to do next: 0
// nothing, 1 it failed, 2 the command line was wrong, 3 it was denied and
// trying again changes nothing, 4 it was unavailable or too late and trying
// again may help.
//
// The command holds no protocol logic. Administration is a signed call to the
// control plane like any other, made as the agent that --as names.
package main

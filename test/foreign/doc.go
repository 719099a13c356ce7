// Package foreign implements the tests with clients that are not ours: the nats CLI
// and NATS' client for Node.js, each as it comes, connect as agents by what stands in
// an agent's directory and are held to what the agent may do; and a handler that is
// written in Python.
//
// The programs are built and installed by make foreign, which runs the tests.
package foreign

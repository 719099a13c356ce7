package demo

import "github.com/nats-io/nats.go"

// Sabotaged returns options under which the thief forgets to change the payload
// that it was to change, and the story ends with that step.
func Sabotaged(o Options) Options {
	o.sabotage = sabotage{tamper: func(*nats.Msg) {}, until: "tampered-payload"}
	return o
}

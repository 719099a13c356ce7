// Package natstest gives tests a real nats-server that runs the configuration of
// natsconf with real certificates, and agents on it whose permissions the test
// chooses.
//
// Nothing here may be used outside tests. Its certificate authorities are made
// for one test, and its auth callout checks nothing but whether the presented
// nkey is one that the test made: what is tested on it is what the broker
// enforces, not who is let in.
package natstest

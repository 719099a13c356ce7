// Package natsserver implements a nats-server inside this process, configured
// by the same file that a stock `nats-server -c` reads.
//
// There is no second, friendlier way to configure it: whatever `sealmesh up`,
// the demo and the tests run is what an operator runs, so a fact that a test
// pins here holds there.
//
// There is one difference: certificates are read from their files at each handshake,
// so that a renewed one, or a new root, needs no reload. [Server.Reload] reads the
// rest anew; requests in the system account do not.
//
// [Start] returns when clients can connect and JetStream answers; [Server.Close]
// returns when every listener, file and goroutine of the server is gone.
//
// What nats-server logs goes to the zerolog.Logger that was passed in, at debug
// level, its errors at error level. Its protocol trace stays off whatever the
// file says, because it would write the credentials of every connecting client
// into the log.
package natsserver

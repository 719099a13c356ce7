// Package process implements what the tests of whole programs share: building
// the programs once, running them as an operator does (own process, own working
// directory, signals), and a mesh directory with the commands that drive it.
//
// Every program that Start started is gone when its test ends. A panic or a
// data race that one reported fails the test, whatever the test looked at.
package process

// Package kill implements the tests of ends without any order: the real program
// is killed again and again while operators change the registry, and while it
// makes the mesh in the first place.
//
// What was acknowledged is never lost: an agent that was added is there, one
// that was revoked stays revoked, no status goes back and no epoch falls. What
// was under way when the program died either happened or did not; once it was
// seen to have happened, it counts as acknowledged.
//
// The seed of the random moments is printed, and -kill.for makes the test run
// longer than it does by default.
package kill

package main

import (
	"bytes"
	"testing"

	"github.com/sealmesh/sealmesh/test/vectors/files"
)

// What is committed is what the generator writes.
func TestCommittedVectorsAreGenerated(t *testing.T) { files.Check(t, "..", made) }

// What the generator writes in its own way is what the format's other users
// read: its nkeys and its honest chains are checked by the vectors' test, its
// dishonest arithmetic here.
func TestTwistedIsAnInvolution(t *testing.T) {
	for _, name := range []string{"a", "b", "c"} {
		point := user(name).raw()
		once := twisted(point)
		if bytes.Equal(once, point) || !bytes.Equal(twisted(once), point) {
			t.Errorf("%x and %x do not lie opposite", point, once)
		}
	}
}

package load

import (
	"context"
	"time"
)

// Options say what is loaded and for how long.
type Options struct {
	For    time.Duration // how long at least
	Calls  int           // a second, of all callers together; streams and large payloads come on top
	Events int           // published a second

	// Turn asks that an agent's connection be replaced; nil leaves that to what ends
	// by itself. Run calls it for one agent after the other, one call each Every, until
	// each of them was asked Rotations times and For is over.
	Turn      func(ctx context.Context, agent string) error
	Every     time.Duration
	Rotations int

	// Nodes is how many servers the agents are spread over; 0 leaves them where they
	// connect.
	Nodes int

	// Progress is told how it goes, each tenth of For; it may be nil. It must not block.
	Progress func(Sample)
}

// Sample is how it goes after a while. All numbers but memory and goroutines, which
// are of the whole process, count from the beginning.
type Sample struct {
	After        time.Duration
	Calls        int64 // that ended
	Events       int64 // published
	Failed       int64 // calls and publications
	Rotations    int64 // connections replaced, of all agents
	Certificates int   // that the agent with the fewest has had
	HeapMiB      uint64
	Goroutines   int
	Stored       uint64 // nonces in the replay store, which each call adds to for six minutes
}

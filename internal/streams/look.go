package streams

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// State is how the copies of a stream fare.
type State struct {
	Name   string
	Err    error  // nobody answered for it, or it is not there; the rest is empty then
	Leader string // empty where nobody leads it, and on a server without a cluster

	Copies  int      // that there are to be
	Online  int      // that there are, the leader's too
	Behind  []string // servers whose copy is there and not complete
	Offline []string // servers whose copy is away
	Led     bool     // it can be written
}

// Quorum reports whether so many copies are there that one can be written to.
func (s State) Quorum() bool { return s.Err == nil && s.Led && s.Online > s.Copies/2 }

// Look asks for the state of each stream, all at once, and returns them in the order
// of the names. A stream without a leader answers nothing; it is waited for as long
// as patience.
func Look(ctx context.Context, js jetstream.JetStream, patience time.Duration, names ...string) []State {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out := make([]State, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { out[i] = stateOf(ctx, js, name) })
	}
	wg.Wait()
	return out
}

func stateOf(ctx context.Context, js jetstream.JetStream, name string) State {
	s := State{Name: name}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		s.Err = err
		return s
	}
	info := stream.CachedInfo()
	s.Copies, s.Online, s.Led = max(info.Config.Replicas, 1), 1, true
	c := info.Cluster
	if c == nil || c.Name == "" {
		return s
	}
	s.Leader, s.Led = c.Leader, c.Leader != ""
	if !s.Led {
		s.Online = 0
	}
	for _, r := range c.Replicas {
		switch {
		case r.Offline:
			s.Offline = append(s.Offline, r.Name)
		case !r.Current:
			s.Behind = append(s.Behind, r.Name)
			s.Online++
		default:
			s.Online++
		}
	}
	slices.SortFunc(s.Behind, strings.Compare)
	slices.SortFunc(s.Offline, strings.Compare)
	return s
}

package meshclient

import (
	"sync"

	"github.com/sealmesh/sealmesh/agentid"
)

// watch has one call in flight looked at whenever the record of one agent changes, on
// whose standing the call rests. It is part of what it watches for, so that a call
// costs no more than a place in a list.
type watch struct {
	agent agentid.ID
	by    watcher

	next, prev *watch
	on         bool
}

// watcher is a call in flight. changed is told that the record of an agent, or of one
// of its instances, is newer than it was. It reads nothing and waits for nobody.
type watcher interface{ changed() }

// watches are the calls in flight by the agents on whom they rest. The zero value is
// ready, and empty again once nothing is in flight.
type watches struct {
	mu    sync.Mutex
	first map[agentid.ID]*watch

	queue   []agentid.ID // that changed and were not looked at yet, each once
	looking bool
}

// add is to be followed by one look at what it watches for: what changed before was
// told to nobody.
func (s *watches) add(w *watch, id agentid.ID, by watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.first = map[agentid.ID]*watch{}
	}
	w.agent, w.by, w.on = id, by, true
	if w.next = s.first[id]; w.next != nil {
		w.next.prev = w
	}
	s.first[id] = w
}

// drop takes a watch out, also one that was never added.
func (s *watches) drop(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !w.on {
		return
	}
	w.on = false
	if w.next != nil {
		w.next.prev = w.prev
	}
	switch {
	case w.prev != nil:
		w.prev.next = w.next
	case w.next != nil:
		s.first[w.agent] = w.next
	default:
		delete(s.first, w.agent)
	}
	w.next, w.prev, w.by = nil, nil, nil
}

// changed takes note that an agent changed. True says that somebody has to look.
func (s *watches) changed(id agentid.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first[id] == nil {
		return false
	}
	for _, q := range s.queue {
		if q == id {
			return false
		}
	}
	s.queue = append(s.queue, id)
	if s.looking {
		return false
	}
	s.looking = true
	return true
}

// next returns the calls of the next agent that changed; false says that there is
// none.
func (s *watches) next() ([]watcher, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		s.queue, s.looking = nil, false
		return nil, false
	}
	id := s.queue[0]
	s.queue = s.queue[1:]
	return s.list(id), true
}

// list is called with the lock held.
func (s *watches) list(id agentid.ID) (all []watcher) {
	for w := s.first[id]; w != nil; w = w.next {
		all = append(all, w.by)
	}
	return all
}

// of returns the calls that rest on an agent.
func (s *watches) of(id agentid.ID) []watcher {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list(id)
}

// lookAfter has the calls looked at that rest on an agent whose record changed. It
// does not block: it is called for each document of the feed.
func (m *Mesh) lookAfter(id agentid.ID) {
	if !m.watches.changed(id) {
		return
	}
	if !m.begin() {
		return // nothing is in flight any more
	}
	go func() {
		defer m.end()
		for {
			all, ok := m.watches.next()
			if !ok {
				return
			}
			for _, w := range all {
				w.changed()
			}
		}
	}()
}

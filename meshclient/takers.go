package meshclient

import (
	"slices"
	"strings"
	"sync"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
)

// Bounds of what is remembered about who answers.
const (
	takersMost      = 16  // agents of one scope
	takenScopesMost = 256 // scopes
)

// takers are the agents that answered calls to anybody lately, by scope. A request
// that is sent again reaches one of those who handle the scope, whichever the server
// picks, and only the one that took it first can tell what came of it: the others
// refuse a copy and know no more. So the caller asks those who have answered before.
// The zero value is ready.
type takers struct {
	mu sync.Mutex
	of map[capability.Scope][]agentid.ID // the newest first
}

// note remembers who took a call: an agent whose signature and right were verified.
func (t *takers) note(scope capability.Scope, id agentid.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.of[scope]
	i := slices.Index(list, id)
	switch {
	case i == 0:
		return
	case i > 0:
		id = list[i]
		copy(list[1:], list[:i])
		list[0] = id
		return
	case t.of == nil:
		t.of = map[capability.Scope][]agentid.ID{}
	case list == nil && len(t.of) >= takenScopesMost:
		for s := range t.of { // any: all that is lost is a hint
			delete(t.of, s)
			break
		}
	}
	id = agentid.Require(strings.Clone(id.String())) // not the message's own bytes
	t.of[scope] = append([]agentid.ID{id}, list[:min(len(list), takersMost-1)]...)
}

// list returns those who answered calls of a scope.
func (t *takers) list(scope capability.Scope) []agentid.ID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.of[scope])
}

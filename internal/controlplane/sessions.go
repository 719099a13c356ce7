package controlplane

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// indexLag is how long the index may be behind the leader before a cut reads
	// all sessions there.
	indexLag = 250 * time.Millisecond
	// indexAgain is the pause before a watch that ended begins again.
	indexAgain = time.Second
)

// sessions is the list of sessions in memory, by agent, by delegator and by
// connection, so that nobody has to read everybody's to find a few. The bucket is
// the truth; this follows it by a watch.
//
// It may be behind, and a cut must not be. The order is: who admits a connection
// writes its session, has the leader's word that it is written, reads the records
// again that the grant rests on, and only then signs. Who cuts has written the
// record first. So either the record is seen there and nothing is signed, or the
// session was written before the record, hence before anything that the cutter
// does now: the leader's last number, which the cutter asks for ([sessions.catchUp]),
// is the session's or a later one, and an index that has come so far knows the
// session, or what took its place. Where the watch does not come so far in time,
// or has ended, the sessions are read from the leader themselves. What the index
// knows before that may be cut at once, because a session below its record's epoch
// never stands again; it only is not all.
type sessions struct {
	store *registry.Store
	log   zerolog.Logger

	pause   sync.Mutex // who holds it holds the watch back
	reading sync.Mutex // one reads all from the leader

	mu      sync.Mutex
	made    time.Time     // of the bucket whose numbers these are
	seen    uint64        // highest number that came
	unsure  bool          // something may have ended unseen
	moved   chan struct{} // closed when seen rises
	again   func()        // begins the watch again
	byKey   map[string]entry
	byAgent map[agentid.ID]map[string]entry
	byVia   map[agentid.ID]map[string]entry
	byConn  map[connection]string // keys
	ended   map[string]uint64     // what the watch saw end while all are read, by key; nil: nobody reads
}

type entry struct {
	seq     uint64
	session *registry.Session // never changed
}

func newSessions(store *registry.Store, log zerolog.Logger) *sessions {
	x := &sessions{store: store, log: log, moved: make(chan struct{})}
	x.clear()
	return x
}

func (x *sessions) clear() {
	x.byKey, x.byConn = map[string]entry{}, map[connection]string{}
	x.byAgent, x.byVia = map[agentid.ID]map[string]entry{}, map[agentid.ID]map[string]entry{}
}

// follow keeps the index until ctx ends.
func (x *sessions) follow(ctx context.Context) {
	for ctx.Err() == nil {
		watch, cancel := context.WithCancel(ctx)
		x.mu.Lock()
		x.again = cancel
		x.mu.Unlock()
		err := x.store.WatchSessions(watch, x.apply)
		asked := watch.Err() != nil
		cancel()
		// What ended from now on until the next watch stands may leave no trace that
		// this one will be shown.
		x.mu.Lock()
		x.unsure = true
		x.mu.Unlock()
		if asked {
			continue
		}
		x.log.Warn().Err(err).Msg("watching the sessions again")
		select {
		case <-ctx.Done():
		case <-time.After(indexAgain):
		}
	}
}

func (x *sessions) apply(e registry.SessionEvent) error {
	x.pause.Lock()
	defer x.pause.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	if e.Seq > x.byKey[e.Key].seq {
		x.put(e.Key, entry{e.Seq, e.Session})
	}
	if x.ended != nil && e.Session == nil {
		x.ended[e.Key] = e.Seq
	}
	x.rise(e.Seq)
	return nil
}

func (x *sessions) rise(seq uint64) {
	if seq <= x.seen {
		return
	}
	x.seen = seq
	close(x.moved)
	x.moved = make(chan struct{})
}

// put sets or, where the entry has no session, removes one key.
func (x *sessions) put(key string, e entry) {
	if old := x.byKey[key].session; old != nil {
		delete(x.byKey, key)
		drop(x.byAgent, old.Agent, key)
		for _, id := range old.Via {
			drop(x.byVia, id, key)
		}
		if c := connectionOf(old); x.byConn[c] == key {
			delete(x.byConn, c)
		}
	}
	if e.session == nil {
		return
	}
	x.byKey[key] = e
	enter(x.byAgent, e.session.Agent, key, e)
	for _, id := range e.session.Via {
		enter(x.byVia, id, key, e)
	}
	x.byConn[connectionOf(e.session)] = key
}

func enter(m map[agentid.ID]map[string]entry, id agentid.ID, key string, e entry) {
	if m[id] == nil {
		m[id] = map[string]entry{}
	}
	m[id][key] = e
}

func drop(m map[agentid.ID]map[string]entry, id agentid.ID, key string) {
	delete(m[id], key)
	if len(m[id]) == 0 {
		delete(m, id)
	}
}

func connectionOf(s *registry.Session) connection { return connection{s.ServerID, s.ClientID} }

// of returns what is known of an agent's sessions, via of those that rest on what
// it delegated, and all of everybody's.
func (x *sessions) of(id agentid.ID) []registry.Session {
	return x.some(func() map[string]entry { return x.byAgent[id] })
}
func (x *sessions) via(id agentid.ID) []registry.Session {
	return x.some(func() map[string]entry { return x.byVia[id] })
}
func (x *sessions) all() []registry.Session {
	return x.some(func() map[string]entry { return x.byKey })
}

func (x *sessions) some(of func() map[string]entry) []registry.Session {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := of()
	out := make([]registry.Session, 0, len(m))
	for _, e := range m {
		out = append(out, *e.session)
	}
	return out
}

// at returns the session of a connection, nil where none is known.
func (x *sessions) at(c connection) *registry.Session {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byKey[x.byConn[c]].session
}

// catchUp returns when the index knows every session that was written before the
// call.
func (x *sessions) catchUp(ctx context.Context) error {
	mark, err := x.store.SessionsMark(ctx)
	if err != nil {
		return err
	}
	late := time.NewTimer(indexLag)
	defer late.Stop()
	for {
		ok, worth, moved := x.reached(mark)
		if ok {
			return nil
		}
		if !worth {
			return x.read(ctx, mark)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-moved:
		case <-late.C:
			return x.read(ctx, mark)
		}
	}
}

// reached reports whether the index has come so far, and if not, whether it is
// worth waiting, and for what.
func (x *sessions) reached(mark registry.SessionsMark) (ok, worth bool, moved chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.renew(mark.Made)
	return x.seen >= mark.Last && !x.unsure, !x.unsure, x.moved
}

// renew begins anew where the bucket is another one: its numbers are, too.
func (x *sessions) renew(made time.Time) {
	if x.made.IsZero() {
		x.made = made
	}
	if x.made.Equal(made) {
		return
	}
	x.made, x.seen, x.unsure = made, 0, true
	x.clear()
	if x.again != nil {
		x.again()
	}
}

// read takes all sessions from the leader, once for all who wait for it.
func (x *sessions) read(ctx context.Context, mark registry.SessionsMark) error {
	x.reading.Lock()
	defer x.reading.Unlock()
	if ok, _, _ := x.reached(mark); ok {
		return nil
	}
	x.expect(true)
	defer x.expect(false)
	mark, err := x.store.SessionsMark(ctx)
	if err != nil {
		return err
	}
	list, err := x.store.Sessions(ctx, agentid.ID{})
	if err != nil {
		return err
	}
	return x.takeOver(mark, list)
}

// expect has the watch note what ends from now on, until it is called with false.
func (x *sessions) expect(reading bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.ended = nil; reading {
		x.ended = map[string]uint64{}
	}
}

// takeOver makes the index what was read from the leader behind the mark.
func (x *sessions) takeOver(mark registry.SessionsMark, list []registry.Session) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.made.Equal(mark.Made) {
		return errors.New("controlplane: the list of sessions was made anew while it was read")
	}
	// What came by the watch with a later number than the mark is newer than the
	// mark, and what did not come is as it was read.
	listed := map[string]bool{}
	for _, s := range list {
		listed[s.Key()] = true
		if x.byKey[s.Key()].seq <= mark.Last && x.ended[s.Key()] <= mark.Last {
			x.put(s.Key(), entry{mark.Last, &s})
		}
	}
	for key, e := range x.byKey {
		if !listed[key] && e.seq <= mark.Last {
			x.put(key, entry{})
		}
	}
	x.unsure = false
	x.rise(mark.Last)
	return nil
}

package controlplane

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/registry"
)

// PassesWhereUnknown closes a connection of a server that nobody has heard of, and
// reports whether it would count as gone if the server listed it.
func (p *Plane) PassesWhereUnknown(ctx context.Context, id agentid.ID) bool {
	r, c := newReport(), connection{"NBNOSUCHSERVER", 7}
	p.closeOne(ctx, target{connection: c, agent: id}, r)
	return r.passes(c)
}

// CutSoon has an agent cut beside everything else, and CutWaits reports whether such a
// cut has still to begin.
func (p *Plane) CutSoon(id agentid.ID) { p.cutSoon(id) }
func (p *Plane) CutWaits(id agentid.ID) bool {
	p.cutting.mu.Lock()
	defer p.cutting.mu.Unlock()
	return p.cutting.queued[id]
}

// What the watch saw end while all sessions were read does not come back.
func TestEndedWhileRead(t *testing.T) {
	x, made := newSessions(nil, zerolog.Nop()), time.Now()
	s := func(n uint64) registry.Session {
		return registry.Session{Agent: agentid.Require("a"), ServerID: "S", ClientID: n}
	}
	one, two, three := s(1), s(2), s(3)
	event := func(seq uint64, s *registry.Session, is *registry.Session) {
		if err := x.apply(registry.SessionEvent{Key: s.Key(), Seq: seq, Session: is}); err != nil {
			t.Fatal(err)
		}
	}
	x.renew(made)
	event(8, &one, &one)
	x.expect(true)
	event(11, &one, nil)
	event(12, &two, nil)
	event(13, &two, &two)
	if err := x.takeOver(registry.SessionsMark{Made: made, Last: 10}, []registry.Session{one, two, three}); err != nil {
		t.Fatal(err)
	}
	x.expect(false)
	for _, c := range []struct {
		s    registry.Session
		want bool
	}{{one, false}, {two, true}, {three, true}} {
		if got := x.at(connectionOf(&c.s)) != nil; got != c.want {
			t.Errorf("session %d: got it listed %t, want %t", c.s.ClientID, got, c.want)
		}
	}
	if len(x.ended) != 0 {
		t.Errorf("got %d that ended kept", len(x.ended))
	}
}

// A record that comes late strikes nothing that a newer one admitted.
func TestStrikeByAnOldRecord(t *testing.T) {
	x, now := newSessions(nil, zerolog.Nop()), time.Now()
	p := &Plane{sessions: x, clock: func() time.Time { return now }}
	id := agentid.Require("a")
	for epoch := range uint64(4) {
		s := registry.Session{Agent: id, ServerID: "S", ClientID: epoch, AgentEpoch: epoch, Expires: now.Add(time.Hour)}
		if err := x.apply(registry.SessionEvent{Key: s.Key(), Seq: epoch + 1, Session: &s}); err != nil {
			t.Fatal(err)
		}
	}
	for status, want := range map[registry.Status]int{registry.Active: 2, registry.Suspended: 3, registry.Revoked: 3} {
		r := newReport()
		p.strike(t.Context(), &registry.Agent{Agent: id, Status: status, Epoch: 2}, r)
		if r.open != want {
			t.Errorf("%s in epoch 2: got %d connections struck, want %d", status, r.open, want)
		}
	}
}

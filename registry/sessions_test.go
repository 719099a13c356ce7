package registry_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

func session(id agentid.ID, client uint64, d time.Duration) registry.Session {
	return registry.Session{
		Agent: id, Instance: agentid.InstanceOf(id.String()), AgentEpoch: 2, Epoch: 1, ServerID: "NSERVER", ClientID: client,
		Host: "10.0.0.1", UserKey: "UKEY", Issued: start, Expires: start.Add(d), Chains: []string{"c"}, Via: []agentid.ID{dave}, Certificate: "01",
	}
}

func TestSessions(t *testing.T) {
	w := newWorld(t)
	one, two, r := w.store(), w.store(), w.raw()
	ctx := w.ctx()
	count := func(what string, id agentid.ID, want int) []registry.Session {
		t.Helper()
		got, err := two.Sessions(ctx, id)
		if err != nil || len(got) != want {
			t.Errorf("%s: got %d sessions, %v, want %d", what, len(got), err, want)
		}
		return got
	}
	count("none", agentid.ID{}, 0)
	for _, s := range []registry.Session{session(bob, 1, time.Hour), session(bob, 2, time.Hour), session(carol, 1, time.Hour)} {
		if err := one.PutSession(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	count("all", agentid.ID{}, 3)
	for _, got := range count("bob's", bob, 2) {
		if want := session(bob, got.ClientID, time.Hour); payload(t, got) != payload(t, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}

	// The same connection authenticates again: the newer session takes the place
	// of the older in one write, with its own end.
	writes := r.writes(registry.SessionsBucket)
	newer := session(bob, 1, 2*time.Hour)
	newer.AgentEpoch = 5
	if err := two.PutSession(ctx, newer); err != nil {
		t.Fatal(err)
	}
	if n := r.writes(registry.SessionsBucket) - writes; n != 1 {
		t.Errorf("replacing a session took %d writes: between them a connection is unlisted", n)
	}
	for _, got := range count("after it authenticated again", bob, 2) {
		if got.ClientID == 1 && (got.AgentEpoch != 5 || !got.Expires.Equal(newer.Expires)) {
			t.Errorf("got the older session %+v", got)
		}
	}
	if ttl := r.get(registry.SessionsBucket, "bob."+newer.Instance.String()+".NSERVER.1").Header.Get("Nats-TTL"); ttl != "2h0m3s" && ttl != "7203s" && ttl != "7203" {
		t.Errorf("the newer session lives %q, want two hours and three seconds", ttl)
	}

	for range 2 { // again is no error
		if err := one.DropSession(ctx, newer); err != nil {
			t.Fatal(err)
		}
		count("after one was dropped", bob, 1)
	}
	// A dropped connection's place can be taken again.
	if err := one.PutSession(ctx, newer); err != nil {
		t.Fatal(err)
	}
	count("after it came back", bob, 2)

	for name, edit := range map[string]func(*registry.Session){
		"no agent": func(s *registry.Session) { s.Agent = agentid.ID{} }, "no instance": func(s *registry.Session) { s.Instance = agentid.Instance{} },
		"no server": func(s *registry.Session) { s.ServerID = "" }, "a pattern": func(s *registry.Session) { s.ServerID = "*" },
		"two tokens": func(s *registry.Session) { s.ServerID = "a.b" }, "a line": func(s *registry.Session) { s.ServerID = "a\r\nPUB x 0" },
	} {
		s := session(bob, 9, time.Hour)
		edit(&s)
		wantReason(t, name, one.PutSession(ctx, s), denial.BadInput)
		wantReason(t, "dropping "+name, one.DropSession(ctx, s), denial.BadInput)
	}
	if err := one.PutSession(ctx, session(bob, 9, 0)); err == nil {
		t.Error("a session that has ended is listed")
	}
	// What does not parse hides nothing else.
	r.put(registry.SessionsBucket, "bob.x.y.1", "junk")
	count("beside junk", bob, 2)

	if s := session(bob, 1, 0); s.Older(2, 1) || !s.Older(3, 1) || !s.Older(2, 2) || s.Older(1, 1) {
		t.Error("Older compares wrongly")
	}
}

// Sessions end by themselves in the server's own time; one that was replaced in
// time does not.
func TestSessionsEnd(t *testing.T) {
	w := newWorld(t)
	s := w.store()
	ctx := w.ctx()
	for _, sess := range []registry.Session{session(bob, 1, time.Millisecond), session(bob, 2, time.Millisecond), session(bob, 2, time.Hour)} {
		if err := s.PutSession(ctx, sess); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; <-tick.C {
		got, err := s.Sessions(ctx, bob)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 1 && got[0].ClientID == 2 {
			return
		}
		if len(got) == 0 || time.Now().After(deadline) {
			t.Fatalf("got %d sessions, want the one that lasts an hour", len(got))
		}
	}
}

package replay_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/registry"
)

// A copy at once, at another replica of the queue group, and after the process
// that took the message was started anew.
func TestCopies(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "copies")
	second, err := w.dev.Instance(within(t), agentid.Require("reader-"+w.name))
	if err != nil {
		t.Fatal(err)
	}
	one := receive(t, w.reader, scope, setup{})
	writer := dial(t, w.writer)
	call := writer.sign(t, scope, w.token)
	writer.send(t, call)
	one.expect(t, "the call", accepted)
	writer.send(t, call)
	one.expect(t, "a copy at once", denial.Replayed)

	other := receive(t, second, scope, setup{})
	one.leave(t)
	writer.send(t, call)
	other.expect(t, "a copy at another replica", denial.Replayed)
	other.leave(t)

	one.Close()
	again := receive(t, w.reader, scope, setup{})
	writer.send(t, call)
	again.expect(t, "a copy after a restart", denial.Replayed)
	ran(t, 1, one, other, again)

	writer.send(t, writer.sign(t, scope, w.token))
	again.expect(t, "another call", accepted)
}

// At the ends of the window and one millisecond past them.
func TestEdgesOfTheWindow(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "edges")
	writer := dial(t, w.writer)
	signed := time.UnixMilli(time.Now().UnixMilli())
	writer.Clock = func() time.Time { return signed }
	var mu sync.Mutex
	now := signed
	set := func(at time.Time) {
		mu.Lock()
		defer mu.Unlock()
		now = at
	}
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	one, two := receive(t, w.reader, scope, setup{clock: clock}), receive(t, w.reader, scope, setup{clock: clock})
	two.leave(t)
	last, first := signed.Add(limits.Window), signed.Add(-limits.Ahead)
	ms := time.Millisecond
	for _, step := range []struct {
		what   string
		at     time.Time
		fresh  denial.Reason // a call that was not seen before
		copied denial.Reason // one that was taken at the first time
	}{
		{"in the first millisecond", first, accepted, denial.Replayed},
		{"one millisecond too early", first.Add(-ms), denial.Future, denial.Future},
		{"when it was signed", signed, accepted, denial.Replayed},
		{"one millisecond before the last", last.Add(-ms), accepted, denial.Replayed},
		{"in the last millisecond", last, accepted, denial.Replayed},
		{"one millisecond too late", last.Add(ms), denial.Stale, denial.Stale},
	} {
		set(first)
		taken := writer.sign(t, scope, w.token)
		writer.send(t, taken)
		one.expect(t, "the call", accepted)
		set(step.at)
		writer.send(t, taken)
		one.expect(t, "a copy "+step.what, step.copied)
		writer.send(t, writer.sign(t, scope, w.token))
		one.expect(t, "a call "+step.what, step.fresh)
		// Another replica has only the shared store.
		two.listen(t)
		one.leave(t)
		writer.send(t, taken)
		two.expect(t, "a copy elsewhere "+step.what, step.copied)
		one.listen(t)
		two.leave(t)
	}
}

// Clocks of sender and receivers apart by as much as is allowed. Whoever takes the
// message, nobody takes it again, whatever clock it has.
func TestClocksApart(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "clocks")
	const second = time.Second // that the test itself takes
	for _, c := range []struct {
		name              string
		sender, one, two  time.Duration
		first, then, last denial.Reason
	}{
		{"together", 0, 0, 0, accepted, denial.Replayed, denial.Replayed},
		{"sender behind by the window", 0, limits.Window - 20*second, limits.Window - 20*second, accepted, denial.Replayed, denial.Replayed},
		{"sender ahead", limits.Ahead - second, 0, 0, accepted, denial.Replayed, denial.Replayed},
		{"receivers on either side", 0, limits.Window - 20*second, second - limits.Ahead, accepted, denial.Replayed, denial.Replayed},
		{"sender ahead of one, behind the other", limits.Ahead - second, 0, limits.Window - 20*second, accepted, denial.Replayed, denial.Replayed},
		{"one refuses, the other does not", 0, limits.Window + second, 0, denial.Stale, accepted, denial.Stale},
	} {
		writer := dial(t, w.writer)
		writer.Clock = func() time.Time { return time.Now().Add(c.sender) }
		one, two := receive(t, w.reader, scope, setup{ahead: c.one}), receive(t, w.reader, scope, setup{ahead: c.two})
		two.leave(t)
		call := writer.sign(t, scope, w.token)
		writer.send(t, call)
		one.expect(t, c.name+", the call", c.first)
		two.listen(t)
		one.leave(t)
		writer.send(t, call)
		two.expect(t, c.name+", a copy at the other", c.then)
		one.listen(t)
		two.leave(t)
		writer.send(t, call)
		one.expect(t, c.name+", a copy at the first", c.last)
		ran(t, 1, one, two)
		one.leave(t)
	}
}

// Copies that race on many connections, at three replicas: one wins.
func TestRacingCopies(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "race")
	const replicas, connections, rounds = 3, 6, 50
	var receivers []*receiver
	verdicts := make(chan denial.Reason, connections)
	for range replicas {
		r := receive(t, w.reader, scope, setup{})
		r.verdicts = verdicts
		receivers = append(receivers, r)
	}
	var writers []*line
	for range connections {
		writers = append(writers, dial(t, w.writer))
	}
	for round := range rounds {
		call := writers[0].sign(t, scope, w.token)
		begin := make(chan struct{})
		for _, x := range writers {
			go func() {
				<-begin
				x.PublishMsg(copyOf(call)) //nolint:errcheck // a copy that is missing is missed below
				x.Flush()                  //nolint:errcheck // likewise
			}()
		}
		close(begin)
		got := map[denial.Reason]int{}
		for range connections {
			select {
			case v := <-verdicts:
				got[v]++
			case <-time.After(wait):
				t.Fatalf("round %d: no verdict on a copy; got %v", round, got)
			}
		}
		if got[accepted] != 1 || got[denial.Replayed] != connections-1 {
			t.Errorf("round %d: got verdicts %v, want one accepted and %d replayed", round, got, connections-1)
		}
	}
	ran(t, rounds, receivers...)
}

// Junk that carries the nonce of a message that is still to come burns nothing.
func TestJunkBeforeTheMessage(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "junk")
	malloryDir := add(t, w.dev, "mallory-"+w.name, registry.Rights{Call: []capability.Scope{scope}})
	malloryToken := chain(t, w.dev, malloryDir)
	r := receive(t, w.reader, scope, setup{})
	writer, mallory := dial(t, w.writer), dial(t, malloryDir)
	call := writer.sign(t, scope, w.token)
	victims := nonce(t, call)
	say := func(who *line, m *nats.Msg, what string, want denial.Reason) {
		t.Helper()
		who.send(t, m)
		r.expect(t, what, want)
	}
	changed := copyOf(call)
	changed.Data = []byte("twice")
	say(writer, changed, "another payload", denial.BadSignature)
	moved := copyOf(call)
	moved.Header = nats.Header{envelope.HeaderEnvelope: call.Header[envelope.HeaderEnvelope]}
	say(writer, moved, "no signature", denial.BadEnvelope)
	m, _, _, err := writer.Message(call.Subject, envelope.Fields{Nonce: victims}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	say(writer, m, "no right", denial.NoToken)
	// The victim's message in the attacker's own name, and its nonce in a message
	// of the attacker's.
	stolen := copyOf(call)
	stolen.Subject = mallory.Space.Call(mallory.Self, scope.Dotted())
	say(mallory, stolen, "a stolen message", denial.SenderMismatch)
	if m, _, _, err = mallory.Message(stolen.Subject, envelope.Fields{Token: malloryToken, Nonce: victims}, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	say(mallory, m, "the nonce in another's call", accepted)

	say(writer, call, "the message itself", accepted)
	say(writer, call, "a copy", denial.Replayed)
}

// One sender floods with calls of its own. It is refused, and others are not.
func TestFlood(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "flood")
	malloryDir := add(t, w.dev, "mallory-"+w.name, registry.Rights{Call: []capability.Scope{scope}})
	token := chain(t, w.dev, malloryDir)
	const most = 40
	flooded := receive(t, w.reader, scope, setup{burns: most})
	writer, mallory := dial(t, w.writer), dial(t, malloryDir)
	var want []denial.Reason
	for i := range 3 * most {
		m := mallory.sign(t, scope, token)
		if err := mallory.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		if i < most {
			want = append(want, accepted)
		} else {
			want = append(want, denial.QuotaExceeded)
		}
	}
	if err := mallory.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
	flooded.expect(t, "the flood", want...)
	for range 5 {
		mallory.send(t, mallory.sign(t, scope, token))
		flooded.expect(t, "the flood goes on", denial.QuotaExceeded)
		writer.send(t, writer.sign(t, scope, w.token))
		flooded.expect(t, "another's call", accepted)
	}
	ran(t, most+5, flooded)
}

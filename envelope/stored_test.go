package envelope_test

import (
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// stored is an event as a publisher sends it to a durable topic.
func (a identity) stored(t testing.TB, at time.Time) envelope.Message {
	t.Helper()
	f := a.fields()
	f.Time, f.Nonce = at, envelope.NewNonce()
	m, _ := a.sign(t, f, "mesh.event."+a.id.String()+".news", nil, "extra", nil)
	return with(m, envelope.HeaderMsgID, f.Nonce)
}

func TestCheckStored(t *testing.T) {
	a, week := agent(t, "writer"), 7*24*time.Hour
	for _, tt := range []struct {
		name         string
		stored, read time.Duration // after ts
		maxAge       time.Duration
		want         denial.Reason
	}{
		{"at once", 0, 0, week, ""},
		{"read an hour later", time.Millisecond, time.Hour, week, ""},
		{"read at the end of its age", 0, week, week, ""},
		{"and a little later, by another clock", 0, week + limits.Ahead, week, ""},
		{"read past its age", 0, week + limits.Ahead + 1, week, denial.Stale},
		{"stored at the end of the window", limits.Window, time.Hour, week, ""},
		{"stored past the window", limits.Window + 1, time.Hour, week, denial.Stale},
		{"stored as far ahead as clocks may differ", -limits.Ahead, time.Hour, week, ""},
		{"stored before that", -limits.Ahead - 1, time.Hour, week, denial.Future},
		{"the receiver's clock behind the stream's", 0, -limits.Ahead, week, ""},
		{"further behind", 0, -limits.Ahead - 1, week, denial.Future},
		{"no age at all", 0, 0, 0, denial.Stale},
		{"negative age", 0, 0, -time.Hour, denial.Stale},
	} {
		u := mustParse(t, a.stored(t, t0))
		err := u.CheckStored(t0.Add(tt.stored), t0.Add(tt.read), envelope.DefaultWindow(), tt.maxAge)
		if got := denial.Of(err); got != tt.want || tt.want == "" && err != nil {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	u := mustParse(t, a.stored(t, t0))
	wantReason(t, u.CheckStored(t0, t0, envelope.Window{}, week), denial.Stale)
}

// Without the ID by which the stream knows a copy, a message that is stored may
// be there any number of times.
func TestStoredNeedsItsMessageID(t *testing.T) {
	a := agent(t, "writer")
	m := a.stored(t, t0)
	u := mustParse(t, with(m, envelope.HeaderMsgID))
	wantReason(t, u.CheckStored(t0, t0, envelope.DefaultWindow(), time.Hour), denial.BadEnvelope)
	_, err := envelope.Parse(with(m, envelope.HeaderMsgID, envelope.NewNonce()))
	wantReason(t, err, denial.BadEnvelope)
	_, err = envelope.Parse(with(m, envelope.HeaderMsgID, m.Header[envelope.HeaderMsgID][0], m.Header[envelope.HeaderMsgID][0]))
	wantReason(t, err, denial.BadEnvelope)
}

// The deadline of a caller has nothing to say about an event that waits.
func TestStoredHasNoDeadline(t *testing.T) {
	a := agent(t, "writer")
	f := a.fields()
	f.Deadline = time.Second
	m, _ := a.sign(t, f, "mesh.event.writer.news", nil, "extra", nil)
	u := mustParse(t, with(m, envelope.HeaderMsgID, f.Nonce))
	if err := u.CheckStored(t0, t0.Add(time.Hour), envelope.DefaultWindow(), 2*time.Hour); err != nil {
		t.Errorf("got %v", err)
	}
}

func storedMemory(t testing.TB, nonces int) *envelope.StoredMemory {
	t.Helper()
	m, err := envelope.NewStoredMemory(envelope.StoredMemoryConfig{Window: envelope.DefaultWindow(), Nonces: nonces})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// put is one stored message that can be looked up and used.
func put(t testing.TB, a identity, at time.Time) (*envelope.Unverified, *envelope.Verified) {
	t.Helper()
	m := a.stored(t, at)
	return mustParse(t, m), a.mustVerify(t, m, nil)
}

func TestStoredMemoryTellsRedeliveryFromReplay(t *testing.T) {
	m, a := storedMemory(t, 0), agent(t, "writer")
	u, v := put(t, a, t0)
	for range 2 { // a delivery that was not acknowledged burns nothing, under whatever sequence
		for seq := range uint64(3) {
			if err := m.Seen(u, 7+seq, t0); err != nil {
				t.Fatalf("before it was used: %v", err)
			}
		}
	}
	if err := m.Use(v, 7, t0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Seen(u, 7, t0); err != nil {
			t.Errorf("redelivery: %v", err)
		}
		if err := m.Use(v, 7, t0); err != nil {
			t.Errorf("used again under its own sequence: %v", err)
		}
	}
	wantReason(t, m.Seen(u, 8, t0), denial.Replayed)
	wantReason(t, m.Use(v, 8, t0), denial.Replayed)
	if got := m.Len(); got != 1 {
		t.Errorf("got %d nonces, want 1", got)
	}
	// A nonce counts for its sender.
	other := agent(t, "other")
	f := other.fields()
	f.Nonce = v.Fields().Nonce
	msg, _ := other.sign(t, f, "mesh.event.other.news", nil, "extra", nil)
	if err := m.Use(other.mustVerify(t, with(msg, envelope.HeaderMsgID, f.Nonce), nil), 9, t0); err != nil {
		t.Errorf("another sender's nonce: %v", err)
	}
	for _, v := range []*envelope.Verified{nil, {}} {
		wantReason(t, m.Use(v, 1, t0), denial.BadSignature)
	}
}

// A copy that CheckStored lets pass comes while its nonce is remembered, however
// late the original and however early the copy was stored.
func TestStoredMemoryHoldsAsLongAsACopyCanPass(t *testing.T) {
	a, w := agent(t, "writer"), envelope.DefaultWindow()
	for _, first := range []time.Duration{-limits.Ahead, 0, limits.Window / 2, limits.Window} {
		m := storedMemory(t, 0)
		u, v := put(t, a, t0)
		if err := m.Use(v, 1, t0.Add(first)); err != nil {
			t.Fatal(err)
		}
		for at := first; at <= limits.Window+2*limits.Ahead; at += 500 * time.Millisecond {
			stored := t0.Add(at)
			other, _ := put(t, a, stored) // the stream's time moves on
			if err := m.Seen(other, 2, stored); err != nil {
				t.Fatal(err)
			}
			if err := u.CheckStored(stored, stored, w, time.Hour); err == nil && denial.Of(m.Seen(u, 3, stored)) != denial.Replayed {
				t.Fatalf("a copy stored %v after ts passes", at)
			}
		}
	}
}

// The memory stays within its bound by forgetting what it would forget first
// anyway, and goes on taking messages.
func TestStoredMemoryIsBounded(t *testing.T) {
	const most = 8
	m, a := storedMemory(t, most), agent(t, "writer")
	type message struct {
		u  *envelope.Unverified
		at time.Time
	}
	var sent []message
	for seq := range uint64(3 * most) {
		at := t0.Add(time.Duration(seq) * 15 * time.Second) // a time of its own each
		u, v := put(t, a, at)
		if err := m.Use(v, seq+1, at); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, message{u, at})
		if got := m.Len(); got > most {
			t.Fatalf("got %d nonces after %d messages, want at most %d", got, seq+1, most)
		}
	}
	last := sent[len(sent)-1].at
	for i := range most / 2 {
		x := sent[len(sent)-1-i]
		wantReason(t, m.Seen(x.u, 1000, last), denial.Replayed)
		if err := m.Seen(x.u, uint64(len(sent)-i), last); err != nil {
			t.Errorf("redelivery of message %d: %v", len(sent)-i, err)
		}
	}
	if err := m.Seen(sent[len(sent)-1-most].u, 1000, last); err != nil {
		t.Errorf("one that was forgotten to make room: got %v", err)
	}
	// Once the stream's time has moved on nothing is kept.
	later := last.Add(limits.Window + limits.Ahead + time.Minute)
	_, v := put(t, a, later)
	if err := m.Use(v, 1000, later); err != nil {
		t.Errorf("later: %v", err)
	}
	if got := m.Len(); got != 1 {
		t.Errorf("got %d nonces, want 1", got)
	}
}

func TestNewStoredMemory(t *testing.T) {
	for _, c := range []envelope.StoredMemoryConfig{{}, {Nonces: 5}, {Window: envelope.DefaultWindow(), Nonces: -1}} {
		if _, err := envelope.NewStoredMemory(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
}

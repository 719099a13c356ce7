package envelope_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/limits"
)

const life = limits.Window + limits.Ahead

func memory(t testing.TB, nonces, perSender int) *envelope.Memory {
	t.Helper()
	m, err := envelope.NewMemory(envelope.MemoryConfig{
		Window: envelope.DefaultWindow(), Since: t0.Add(-time.Hour), Nonces: nonces, PerSender: perSender,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// sent is one verified message at a time, ready to be used again and again.
func sent(t testing.TB, a identity, at time.Time) (*envelope.Unverified, *envelope.Verified) {
	t.Helper()
	m := a.message(t, at)
	return mustParse(t, m), a.mustVerify(t, m, nil)
}

func use(t *testing.T, m *envelope.Memory, v *envelope.Verified, now time.Time, want denial.Reason) {
	t.Helper()
	if err := m.Use(v, envelope.MemoryOnly, now); denial.Of(err) != want {
		t.Errorf("Use: got %v, want %q", err, want)
	}
}

// Attack 15: at once, at the edge of the window, just before the nonce expires.
func TestReplayIsRefusedForAsLongAsTheMessageCouldBeFresh(t *testing.T) {
	for _, skew := range []time.Duration{-limits.Ahead, 0, limits.Window} { // of the sender
		m, a := memory(t, 0, 0), agent(t, "writer")
		u, v := sent(t, a, t0.Add(-skew))
		if err := m.Seen(u, envelope.MemoryOnly, t0); err != nil {
			t.Fatalf("unused: got %v", err)
		}
		use(t, m, v, t0, "")
		for age := -limits.Ahead; age <= limits.Window; age += time.Second {
			now := v.Fields().Time.Add(age)
			use(t, m, v, now, denial.Replayed)
			wantReason(t, m.Seen(u, envelope.MemoryOnly, now), denial.Replayed)
		}
		now := v.Fields().Time.Add(limits.Window)
		use(t, m, v, now, denial.Replayed)
		use(t, m, v, now.Add(1), denial.Stale)
	}
}

// A look-up changes nothing: junk that names a nonce does not burn it.
func TestSeenBurnsNothing(t *testing.T) {
	m, a := memory(t, 0, 0), agent(t, "writer")
	u, v := sent(t, a, t0)
	for range 3 {
		if err := m.Seen(u, envelope.MemoryOnly, t0); err != nil {
			t.Fatalf("got %v", err)
		}
	}
	use(t, m, v, t0, "")
	if got := m.Len(); got != 1 {
		t.Errorf("got %d nonces, want 1", got)
	}
	for _, v := range []*envelope.Verified{nil, {}} {
		wantReason(t, m.Use(v, envelope.SharedStore, t0), denial.BadSignature)
	}
}

func TestRacingCopiesHaveOneWinner(t *testing.T) {
	m, a := memory(t, 0, 0), agent(t, "writer")
	for range 20 {
		_, v := sent(t, a, t0)
		var won atomic.Int32
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if err := m.Use(v, envelope.MemoryOnly, t0); err == nil {
					won.Add(1)
				} else if denial.Of(err) != denial.Replayed {
					t.Errorf("got %v", err)
				}
			})
		}
		all.Wait()
		if got := won.Load(); got != 1 {
			t.Fatalf("%d copies won, want 1", got)
		}
	}
	if got := m.Len(); got != 20 {
		t.Errorf("got %d nonces, want 20", got)
	}
}

// An agent that saw another's message must not be able to burn its nonce first.
func TestNonceBelongsToItsSender(t *testing.T) {
	m, a, thief := memory(t, 0, 0), agent(t, "writer"), agent(t, "reader")
	_, v := sent(t, a, t0)
	f := thief.fields()
	f.Nonce = v.Fields().Nonce
	stolen, _ := thief.sign(t, f, "mesh.call.reader.read.logs", nil, "", nil)
	use(t, m, thief.mustVerify(t, stolen, nil), t0, "")
	use(t, m, v, t0, "")
	use(t, m, v, t0, denial.Replayed)
	// One sender's nonce is used once, whatever else the message says.
	f = a.fields()
	f.Nonce, f.Time = v.Fields().Nonce, t0.Add(time.Minute)
	again, _ := a.sign(t, f, call, nil, "", nil)
	use(t, m, a.mustVerify(t, again, nil), t0.Add(time.Minute), denial.Replayed)
}

// Attack 17: a full memory refuses; it forgets nothing early.
func TestFullMemoryFailsClosed(t *testing.T) {
	m := memory(t, 10, 5)
	a, b := agent(t, "writer"), agent(t, "reader")
	var kept []*envelope.Verified
	for i := range 12 {
		_, v := sent(t, a, t0)
		if i < 5 {
			use(t, m, v, t0, "")
			kept = append(kept, v)
		} else {
			use(t, m, v, t0, denial.QuotaExceeded)
		}
	}
	for range 5 { // one sender's flood leaves the others their share
		_, v := sent(t, b, t0)
		use(t, m, v, t0, "")
		kept = append(kept, v)
	}
	_, late := sent(t, agent(t, "third"), t0)
	use(t, m, late, t0, denial.ReplayUnavailable)
	if got := m.Len(); got != 10 {
		t.Errorf("got %d nonces, want 10", got)
	}
	for _, v := range kept {
		u := mustParse(t, a.message(t, t0))
		if err := m.Seen(u, envelope.MemoryOnly, t0); err != nil {
			t.Errorf("Seen of an unused nonce: got %v", err)
		}
		use(t, m, v, t0, denial.ReplayUnavailable) // full or used: refused either way
	}
	// Once the first ones have expired there is room again, for everybody.
	now := t0.Add(life + time.Minute)
	_, fresh := sent(t, agent(t, "third"), now)
	use(t, m, fresh, now, "")
	if got := m.Len(); got != 1 {
		t.Errorf("got %d nonces, want the expired ones gone", got)
	}
}

func TestMemoryStaysSmall(t *testing.T) {
	m, a := memory(t, 100, 50), agent(t, "writer")
	for i := range 600 { // ten an instant over ten windows, never more than 50 at a time
		now := t0.Add(time.Duration(i/10) * life / 4)
		_, v := sent(t, a, now)
		use(t, m, v, now, "")
		if got := m.Len(); got > 50 {
			t.Fatalf("got %d nonces after %d messages", got, i+1)
		}
	}
}

// Quiet senders are cleared away by the traffic of others.
func TestQuietSendersAreForgotten(t *testing.T) {
	m := memory(t, 0, 0)
	for i := range 200 {
		_, v := sent(t, agent(t, fmt.Sprint("agent-", i)), t0)
		use(t, m, v, t0, "")
	}
	now := t0.Add(life + time.Minute)
	for i := range 200 {
		_, v := sent(t, agent(t, fmt.Sprint("other-", i)), now)
		use(t, m, v, now, "")
	}
	if got := m.Len(); got > 250 {
		t.Errorf("got %d nonces, want about 200", got)
	}
}

// Attack 16: the receiver's clock is set back past what was forgotten.
func TestClockSetBackDoesNotReviveMessages(t *testing.T) {
	m, a := memory(t, 0, 0), agent(t, "writer")
	_, old := sent(t, a, t0)
	use(t, m, old, t0, "")
	later := t0.Add(2 * life)
	_, v := sent(t, a, later)
	use(t, m, v, later, "") // old is forgotten now
	if got := m.Len(); got != 1 {
		t.Fatalf("got %d nonces, want the old one gone", got)
	}
	use(t, m, old, t0.Add(time.Second), denial.Stale)
	wantReason(t, m.Seen(mustParse(t, a.message(t, t0)), envelope.MemoryOnly, t0), denial.Stale)
	// What was sent after the clock was right again passes.
	back := t0.Add(time.Minute)
	_, fresh := sent(t, a, back.Add(bucket))
	use(t, m, fresh, back.Add(bucket), "")
	use(t, m, v, later, denial.Replayed)
}

// bucket is how much longer than needed a nonce may be kept.
const bucket = 30 * time.Second

// A restart forgets, so nothing from before it passes unless the store knows.
func TestNothingFromBeforeTheStart(t *testing.T) {
	a := agent(t, "writer")
	start := t0
	m, err := envelope.NewMemory(envelope.MemoryConfig{Window: envelope.DefaultWindow(), Since: start.Add(-limits.RestartSlack)})
	if err != nil {
		t.Fatal(err)
	}
	now := start.Add(time.Second)
	u, before := sent(t, a, start.Add(-limits.RestartSlack-time.Millisecond))
	use(t, m, before, now, denial.Stale)
	wantReason(t, m.Seen(u, envelope.MemoryOnly, now), denial.Stale)
	if err := m.Seen(u, envelope.SharedStore, now); err != nil {
		t.Errorf("Seen with the shared store: got %v", err)
	}
	if err := m.Use(before, envelope.SharedStore, now); err != nil {
		t.Errorf("Use with the shared store: got %v", err)
	}
	wantReason(t, m.Use(before, envelope.SharedStore, now), denial.Replayed)
	_, just := sent(t, a, start.Add(-limits.RestartSlack))
	use(t, m, just, now, "")

	// Where the store cannot vouch for a time either, nothing of it passes.
	m.RaiseFloor(start.Add(time.Second))
	m.RaiseFloor(start.Add(-time.Hour)) // never lower
	u, before = sent(t, a, start.Add(999*time.Millisecond))
	wantReason(t, m.Seen(u, envelope.SharedStore, now), denial.Stale)
	wantReason(t, m.Use(before, envelope.SharedStore, now), denial.Stale)
	_, after := sent(t, a, start.Add(time.Second))
	use(t, m, after, now, "")
}

func TestMemoryRefusesWhatIsNotFresh(t *testing.T) {
	m, a := memory(t, 0, 0), agent(t, "writer")
	_, v := sent(t, a, t0)
	use(t, m, v, t0.Add(limits.Window+1), denial.Stale)
	use(t, m, v, t0.Add(-limits.Ahead-1), denial.Future)
	use(t, m, v, t0, "")
}

func TestNewMemoryNeedsItsFacts(t *testing.T) {
	w := envelope.DefaultWindow()
	for name, c := range map[string]envelope.MemoryConfig{
		"nothing":        {},
		"no window":      {Since: t0},
		"no beginning":   {Window: w},
		"negative":       {Window: w, Since: t0, Nonces: -1},
		"share above it": {Window: w, Since: t0, Nonces: 1, PerSender: 2},
	} {
		if m, err := envelope.NewMemory(c); err == nil || m != nil {
			t.Errorf("%s: got a memory", name)
		}
	}
}

package replay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

// said keeps what a process logged.
type said struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

// lines counts those that have all of the texts.
func (s *said) lines(texts ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for line := range strings.Lines(s.buf.String()) {
		all := true
		for _, x := range texts {
			all = all && strings.Contains(line, x)
		}
		if all {
			n++
		}
	}
	return n
}

func (s *said) refusals(r denial.Reason) int {
	return s.lines(`"verdict":"refused"`, `"reason":"`+string(r)+`"`)
}

// stage is a mesh of a test's own, whose store it harms. Its handler is the mesh's
// own client and runs through everything: nothing is ever restarted to recover.
type stage struct {
	*world
	t      *testing.T
	scope  capability.Scope
	plane  said
	log    said // the handler's
	mu     sync.Mutex
	ran    map[string]int // by nonce
	caller *meshclient.Mesh
	raw    *line // another connection of the caller's
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, ran: map[string]int{}}
	o := quiet()
	o.Log = zerolog.New(&s.plane)
	dev, err := devmesh.Start(within(t), t.TempDir()+"/mesh", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	s.world, s.scope = enrol(t, dev, "logs")
	handler := connected(t, dev, s.reader, meshclient.Log(zerolog.New(&s.log)))
	if err := handler.Handle(s.scope.String(), func(_ context.Context, r *meshclient.Request) ([]byte, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ran[r.Nonce]++
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	s.raw = dial(t, s.writer)
	s.raw.Since = s.since // as the mesh's client does
	s.caller = connected(t, dev, s.writer)
	return s
}

// works reports whether calls are answered, and repeats no call.
func (s *stage) works(what string) {
	s.t.Helper()
	eventually(s.t, what, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := s.caller.Call(ctx, s.scope.String(), []byte("new"))
		return err == nil
	})
}

// take has a call taken, and returns it for copies to be made.
func (s *stage) take() *nats.Msg {
	s.t.Helper()
	call := s.raw.sign(s.t, s.scope, s.token)
	s.send(call)
	eventually(s.t, "the call", func() bool { return s.times(call) == 1 })
	return call
}

func (s *stage) times(call *nats.Msg) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ran[nonce(s.t, call)]
}

// send sends a copy over whatever connection there is.
func (s *stage) send(call *nats.Msg) {
	s.t.Helper()
	eventually(s.t, "the sender's connection", func() bool { return s.raw.IsConnected() && s.raw.FlushTimeout(wait) == nil })
	s.raw.send(s.t, call)
}

// refuses sends a copy and waits until it is refused for that.
func (s *stage) refuses(what string, call *nats.Msg, want denial.Reason) {
	s.t.Helper()
	before := s.log.refusals(want)
	s.send(call)
	eventually(s.t, what+": refused as "+string(want), func() bool { return s.log.refusals(want) > before })
	if n := s.times(call); n != 1 {
		s.t.Errorf("%s: the handler ran %d times, want once", what, n)
	}
}

// anew makes a process of the handler's agent that remembers nothing, and sends it
// a copy.
func (s *stage) anew(what string, call *nats.Msg, want denial.Reason) {
	s.t.Helper()
	r := receive(s.t, s.reader, s.scope, setup{})
	r.judge(copyOf(call))
	r.expect(s.t, what, want)
	r.Close()
}

// raised waits for a raise for that reason.
func (s *stage) raised(reason string) {
	s.t.Helper()
	eventually(s.t, "raised because "+reason, func() bool { return s.plane.lines("the replay store may have forgotten", reason) > 0 })
}

// replay is what an operator sees of the store.
func (s *stage) replay() wire.ReplayView {
	s.t.Helper()
	var m wire.MeshStatus
	if err := s.dev.Operate(within(s.t), wire.AdminRequest{Op: wire.OpStatus}, &m); err != nil {
		s.t.Fatal(err)
	}
	return *m.Replay
}

// store is an operator's hand on the store of used nonces.
func (s *stage) store() jetstream.JetStream { s.t.Helper(); return store(s.t, s.dev) }

func store(t testing.TB, dev *devmesh.Mesh) jetstream.JetStream {
	t.Helper()
	nc, err := devmesh.AsService(dev.Dir, dev.Server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.NewWithAPIPrefix(nc, natsconf.StoreAPI)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

var replayStream = subject.KVStream(subject.ReplayBucket)

// The store is deleted while everything runs. Calls are refused until the control
// plane has made another one, and what was taken before is refused for good.
func TestStoreDeleted(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	call := s.take()
	// While the control plane is away nobody makes another one.
	if err := s.dev.DownPlane(); err != nil {
		t.Fatal(err)
	}
	if err := s.store().DeleteStream(within(t), replayStream); err != nil {
		t.Fatal(err)
	}
	fresh := s.raw.sign(t, s.scope, s.token)
	before := s.log.refusals(denial.ReplayUnavailable)
	s.send(fresh)
	eventually(t, "a call without a store", func() bool { return s.log.refusals(denial.ReplayUnavailable) > before })
	if n := s.times(fresh); n != 0 {
		t.Errorf("a call ran %d times without a store, want never", n)
	}
	if err := s.dev.UpPlane(within(t)); err != nil {
		t.Fatal(err)
	}
	s.works("calls with another store, and nothing restarted")
	s.raised("there was no store")
	s.refuses("a copy of what was taken before", call, denial.Stale)
	s.anew("a copy to who remembers nothing", call, denial.Stale)
	s.anew("a copy of what was refused before", fresh, denial.Stale)
}

// Somebody deletes the store and makes one that looks the same, between two looks
// of the control plane. Whoever burnt anything sees it go back at once.
func TestStoreMadeAnew(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	r := receive(t, s.reader, s.scope, setup{})
	r.leave(t)
	call := s.take()
	for range 3 {
		r.judge(s.raw.sign(t, s.scope, s.token))
		r.expect(t, "a call", accepted)
	}
	js := s.store()
	if err := js.DeleteStream(within(t), replayStream); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(within(t), natsconf.Replay(limits.Window, 1)); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		t.Fatal(err)
	}
	r.judge(copyOf(call))
	select {
	case v := <-r.verdicts:
		// The control plane may have been as fast.
		if v != denial.ReplayUnavailable && v != denial.Stale {
			t.Errorf("a copy to who has seen the store further: got %q, want it refused", v)
		}
	case <-time.After(wait):
		t.Fatal("no verdict")
	}
	ran(t, 3, r)
	eventually(t, "raised", func() bool {
		return s.plane.lines("the replay store may have forgotten", "the store was made anew")+s.plane.lines("the replay store may have forgotten", "there was no store") > 0
	})
	s.works("calls with the other store")
	s.refuses("a copy", call, denial.Stale)
	s.anew("a copy to who remembers nothing", call, denial.Stale)
}

// The store is made one that forgets. The control plane finds out, sets it right,
// and has everybody refuse what was signed meanwhile.
func TestStoreMadeForgetful(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	call := s.take()
	js := s.store()
	c := natsconf.Replay(limits.Window, 1)
	c.MaxAge = 3 * time.Minute
	if _, err := js.UpdateStream(within(t), c); err != nil {
		t.Fatal(err)
	}
	s.raised("the store had another max_age")
	s.works("calls")
	s.refuses("a copy", call, denial.Stale)

	// What cannot be given back while it runs takes another store.
	call = s.take()
	if err := js.DeleteStream(within(t), replayStream); err != nil {
		t.Fatal(err)
	}
	c = natsconf.Replay(limits.Window, 1)
	c.DiscardNewPerSubject, c.Discard, c.DenyDelete, c.DenyPurge, c.Storage = false, jetstream.DiscardOld, false, false, jetstream.MemoryStorage
	if _, err := js.CreateStream(within(t), c); err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		t.Fatal(err)
	}
	right := func() bool {
		st, err := js.Stream(within(t), replayStream)
		if err != nil {
			return false
		}
		is := st.CachedInfo().Config
		return is.Discard == jetstream.DiscardNew && is.DiscardNewPerSubject && is.DenyDelete && is.DenyPurge && is.Storage == jetstream.FileStorage && is.MaxMsgs == limits.ReplayRecords
	}
	eventually(t, "a store that remembers", right)
	s.works("calls with it")
	s.refuses("a copy", call, denial.Stale)
	s.anew("a copy to who remembers nothing", call, denial.Stale)
}

// The control plane alone is started anew: the store has been there all the time,
// and nothing is refused for nothing.
func TestControlPlaneRestarts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	taken, kept := s.take(), s.raw.sign(t, s.scope, s.token)
	if err := s.dev.DownPlane(); err != nil {
		t.Fatal(err)
	}
	if err := s.dev.UpPlane(within(t)); err != nil {
		t.Fatal(err)
	}
	s.works("calls")
	if r := s.replay(); r.Raises != 0 || r.Nonces == 0 {
		t.Errorf("got %+v after a restart of the control plane alone, want no raise", r)
	}
	s.refuses("a copy", taken, denial.Replayed)
	s.anew("a copy to who remembers nothing", taken, denial.Replayed)
	s.send(kept)
	eventually(t, "a call that was signed before and comes late", func() bool { return s.times(kept) == 1 })
}

// Everything but the agents is started anew, and the store is there again. That
// nobody could see what became of it meanwhile is reason enough to refuse what was
// signed before. Replies and events are not: they never asked the store.
func TestEverythingRestarts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	call := s.take()
	// One whose sender's clock is ahead, as far as it may be.
	s.raw.Clock = func() time.Time { return time.Now().Add(limits.Ahead - 5*time.Second) }
	ahead := s.take()
	s.raw.Clock = time.Now
	if err := s.dev.DownPlane(); err != nil {
		t.Fatal(err)
	}
	s.dev.Server.Close()
	if err := s.dev.Up(within(t)); err != nil {
		t.Fatal(err)
	}
	s.raised("the server was started anew")
	s.works("calls")
	// At once, and not when half a minute is over; a machine may be as slow.
	late := time.Since(s.since())
	if n := s.log.refusals(denial.Stale) + s.plane.refusals(denial.Stale); late > 0 && n > 0 {
		t.Errorf("%d new calls were refused, and one was taken when it no longer mattered for when it was signed", n)
	}
	s.refuses("a copy", call, denial.Stale)
	s.anew("a copy to who remembers nothing", call, denial.Stale)
	s.anew("a copy of a call from ahead", ahead, denial.Stale)
	if r := s.replay(); r.Raises == 0 || !strings.Contains(r.Reason, "started anew") {
		t.Errorf("an operator sees %+v", r)
	}
}

// An older state of the store is put back while the server is down.
func TestStoreRestored(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	old := s.take()
	store, backup := filepath.Join(s.dev.Dir.Store(), "jetstream", natsconf.Storage), t.TempDir()
	if err := os.CopyFS(backup, os.DirFS(store)); err != nil {
		t.Fatal(err)
	}
	call := s.take() // that the backup does not know
	seen := s.replay().Nonces
	eventually(t, "the control plane to have seen more than the backup", func() bool { n := s.replay().Nonces; return n > seen })
	s.dev.Server.Close()
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(store, os.DirFS(backup)); err != nil {
		t.Fatal(err)
	}
	if err := s.dev.UpServer(within(t)); err != nil {
		t.Fatal(err)
	}
	s.raised("the store went back from")
	s.works("calls with the old store")
	s.refuses("a copy of what the backup knows", old, denial.Stale)
	s.refuses("a copy of what it does not", call, denial.Stale)
	s.anew("a copy to who remembers nothing", call, denial.Stale)
}

// since is the time from which calls are taken, as it was raised last.
func (s *stage) since() time.Time {
	s.plane.mu.Lock()
	defer s.plane.mu.Unlock()
	var at time.Time
	for line := range strings.Lines(s.plane.buf.String()) {
		var l struct {
			Since time.Time `json:"replay_since"`
		}
		if strings.Contains(line, "replay_since") && json.Unmarshal([]byte(line), &l) == nil {
			at = l.Since
		}
	}
	return at
}

package attack_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/subject"
)

const (
	// wait is how long something may take that must come.
	wait = 10 * time.Second
	poll = 2 * time.Millisecond
)

// The agents. Mallory attacks; she holds rights of her own. Alice calls and
// publishes, bob handles and subscribes, carol is listened through: a connection
// with carol's grant hears what a forged message would reach.
const (
	mallory = "mallory"
	alice   = "alice"
	bob     = "bob"
	carol   = "carol"
)

// may is what each agent holds, in the words of scopes.
var may = map[string][]string{
	mallory: {"read:logs", "handle:write:reports", "publish:news", "publish:weather", "subscribe:weather"},
	alice:   {"read:logs", "write:reports", "publish:news", "subscribe:weather"},
	bob:     {"handle:read:logs", "subscribe:news", "publish:weather"},
	carol:   {"read:logs", "handle:read:mail", "subscribe:news", "publish:news"},
}

// durable are the topics of the durable subscriptions that nobody takes from
// unless an attempt does. In the mesh alice has one besides, and works.
var durable = map[string]string{mallory: "weather", carol: "news"}

// person is an agent of an arena.
type person struct {
	id   agentid.ID
	inst agentid.Instance
}

// consumer is the person's durable subscription.
func (p person) consumer() string { return p.id.String() + "_inbox" }

// arena is where attempts are made: the mesh, or the control run.
type arena struct {
	t       *testing.T
	mesh    bool
	who     map[string]person
	streams map[string]jetstream.JetStream // what streams there are, by account
	ctrl    *nats.Conn                     // where the registry is
	carol   *ear                           // all that carol may hear
	tap     *ear                           // all that is said where the registry is
	// connect opens a connection of mallory's under a grant of the control run; in
	// the mesh there is only hers.
	connect func(t *testing.T, g grant, opts ...nats.Option) *nats.Conn
	// as is a connection of one of the others, with its own grant.
	as func(t *testing.T, id string) *nats.Conn
	// round lets honest agents do one of everything, and returns what went wrong.
	round func(mark string) error
	// accepted counts what honest agents took for genuine that was not said in a
	// round.
	accepted *atomic.Int64
	// raw opens a TCP connection to the clients' listener, past TLS where there is
	// any, for those who speak the protocol themselves.
	raw func(t *testing.T) *talk
	// identify is mallory's CONNECT; as another it claims to be that agent.
	identify func(t *testing.T, info serverInfo, as string) map[string]any

	marks  atomic.Int64
	rounds atomic.Int64 // of honest traffic that succeeded
}

// grant is what mallory may do in the control run.
type grant string

const (
	everything grant = "everything" // ">" both ways
	narrow     grant = "narrow"     // the mesh's own lines, in one account with the streams
	responder  grant = "responder"  // the same and allow_responses
)

func (a *arena) person(name string) person { return a.who[name] }

// mark is a text that was never used before.
func (a *arena) mark() string { return fmt.Sprintf("mark-%d-%t", a.marks.Add(1), a.mesh) }

// leader is the subject at which the leader of a bucket answers.
func (a *arena) leader(bucket string) string {
	if a.mesh {
		return subject.Default().LeaderRead(bucket)
	}
	return subject.LeaderGet(bucket)
}

// ear hears.
type ear struct {
	mu   sync.Mutex
	msgs []*nats.Msg
	nc   *nats.Conn
}

func (e *ear) hear(m *nats.Msg) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.msgs = append(e.msgs, m)
}

// find returns the first message that f wants.
func (e *ear) find(f func(*nats.Msg) bool) *nats.Msg {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.IndexFunc(e.msgs, f); i >= 0 {
		return e.msgs[i]
	}
	return nil
}

func (e *ear) all() []*nats.Msg {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.msgs)
}

func (e *ear) reset() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.msgs = nil
}

// listen subscribes; where the server refuses, nothing is ever heard.
func listen(t *testing.T, nc *nats.Conn, subjects ...string) *ear {
	t.Helper()
	e := &ear{nc: nc}
	for _, s := range subjects {
		subj, queue, _ := strings.Cut(s, " ")
		if _, err := nc.QueueSubscribe(subj, queue, e.hear); err != nil {
			t.Fatalf("subscribing %q: %v", s, err)
		}
	}
	flush(t, nc)
	return e
}

func flush(t *testing.T, nc *nats.Conn) {
	t.Helper()
	if err := nc.FlushTimeout(wait); err != nil {
		t.Fatal(err)
	}
}

// within asks until f is content or the time is over.
func within(d time.Duration, f func() bool) bool {
	for end := time.Now().Add(d); ; time.Sleep(poll) {
		if f() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// state is what an attack could change: streams, what they hold, and consumers.
// What mallory may write in her own name is left out, and so is what the control
// plane writes by itself.
type state map[string]string

func (a *arena) state() (state, error) {
	out := state{}
	ctx := a.t.Context()
	for account, js := range a.streams {
		list := js.ListStreams(ctx)
		for info := range list.Info() {
			name := account + "/" + info.Config.Name
			out[name] = digest(info.Config)
			if err := a.contents(out, js, name, info.Config); err != nil {
				return nil, err
			}
		}
		if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
			return nil, err
		}
	}
	return out, nil
}

// contents adds what a stream holds. Of events and nonces, which are never
// written over, it is enough to know how many there are.
func (a *arena) contents(out state, js jetstream.JetStream, name string, c jetstream.StreamConfig) error {
	ctx := a.t.Context()
	s, err := js.Stream(ctx, c.Name)
	if err != nil {
		return err
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(">"))
	if err != nil {
		return err
	}
	for subj, n := range info.State.Subjects {
		if a.own(subj) {
			continue
		}
		text := fmt.Sprintf("%d messages", n)
		if c.MaxMsgsPerSubject == 1 && c.Discard == jetstream.DiscardOld || strings.HasPrefix(subj, "$KV.MESH_AGENTS.") {
			last, err := s.GetLastMsgForSubject(ctx, subj)
			if err != nil {
				return fmt.Errorf("%s: %w", subj, err)
			}
			text = digest([]any{string(last.Data), last.Header})
		}
		out[name+" "+subj] = text
	}
	consumers := s.ListConsumers(ctx)
	for ci := range consumers.Info() {
		if a.mesh && ci.Config.Durable == "" || ci.Config.Durable == a.person(mallory).consumer() {
			continue // the control plane's watches, and her own
		}
		what := []any{ci.Config.FilterSubject, ci.Config.FilterSubjects, ci.Config.DeliverSubject, ci.Paused}
		if !a.mesh || ci.Config.Durable == a.person(carol).consumer() {
			what = append(what, ci.Delivered.Consumer, ci.AckFloor.Consumer, ci.NumAckPending)
		}
		out[name+" consumer "+ci.Name] = digest(what)
	}
	if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return err
	}
	return nil
}

// own reports whether mallory may write there, or the control plane does without
// being asked.
func (a *arena) own(subj string) bool {
	for _, p := range []string{"mesh.event.mallory.", "$KV.MESH_REPLAY.write.reports."} {
		if strings.HasPrefix(subj, p) {
			return true
		}
	}
	if !a.mesh {
		return false
	}
	for _, p := range []string{
		"$KV.MESH_AGENTS.sealmesh.tick", "$KV.MESH_REPLAY.self.", "$KV.MESH_REPLAY.admin.", "$KV.MESH_SESSIONS.", "mesh.beat.control.",
		"mesh.audit.", // every honest agent does; that nobody else reaches it is an attempt of its own
	} {
		if strings.HasPrefix(subj, p) {
			return true
		}
	}
	return false
}

// said reports whether a change is what honest agents do in a round.
func (a *arena) said(change string) bool {
	for _, s := range []string{" mesh.event.alice.news", " $KV.MESH_REPLAY.read.logs.alice.", " mesh.event.bob.weather"} {
		if strings.Contains(change, s) {
			return true
		}
	}
	// Some attempts let carol take an event, to have something to forge with.
	return strings.HasPrefix(change, "changed: ") && strings.HasSuffix(change, " consumer "+a.person(carol).consumer())
}

func digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// changes says in what two states differ.
func (s state) changes(after state) []string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(s)) {
		switch now, ok := after[k]; {
		case !ok:
			out = append(out, "gone: "+k)
		case now != s[k]:
			out = append(out, "changed: "+k)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		if _, ok := s[k]; !ok {
			out = append(out, "new: "+k)
		}
	}
	return out
}

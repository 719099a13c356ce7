package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/streams"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// replayWait bounds one look at the replay store.
	replayWait = 4 * time.Second
	// replaySettle is how long receivers are given to hear of a raised time before
	// a store that forgot is there to be asked.
	replaySettle = time.Second
	// fullEvery is how often it is said that the replay store fills up.
	fullEvery = time.Minute
	// fullSample is how many of its nonces are looked at to find out whose they are.
	fullSample = 64
)

// replayWatch is what the control plane knows of the store of used nonces. A call
// is refused as replayed because the store remembers it: where it cannot be shown
// that it remembers all that it should, the tick's replay_since is raised, and
// everybody refuses calls that were signed before.
//
// What was seen last stands in a record that all replicas share and that outlives
// them. It is written after the raise that it calls for, so that a replica that
// dies in between raises once more.
type replayWatch struct {
	began time.Time
	wake  chan struct{}

	judged atomic.Pointer[string] // ID of the server on which the store was looked at last
	raises atomic.Uint64

	mu      sync.Mutex // held while the store is looked at, which takes as long as the server does
	founded time.Time  // when the store of a new mesh was made
	clocks  clocks
	created int64  // as this process saw it: a backup brings the record back as well
	last    uint64 // likewise
	alarmed time.Time

	telling sync.Mutex // of what operators are told
	held    uint64
	bytes   uint64
	reason  string // of the last raise
}

func newReplayWatch() *replayWatch {
	return &replayWatch{began: time.Now(), wake: make(chan struct{}, 1)}
}

// soon has the store looked at now.
func (w *replayWatch) soon() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *replayWatch) view() *wire.ReplayView {
	w.telling.Lock()
	defer w.telling.Unlock()
	return &wire.ReplayView{Nonces: w.held, Bytes: w.bytes, Most: limits.ReplayRecords, Raises: w.raises.Load(), Reason: w.reason}
}

// watchReplay looks at the store for as long as the control plane runs.
func (p *Plane) watchReplay() {
	tick := time.NewTicker(gate.TickInterval)
	defer tick.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		case <-p.replay.wake:
		}
		ctx, cancel := context.WithTimeout(p.ctx, 2*replayWait)
		if err := p.judgeReplay(ctx); err != nil && p.ctx.Err() == nil {
			p.log.Warn().Err(err).Msg("replay store cannot be looked at")
		}
		cancel()
	}
}

// replayVouched returns when the store was looked at on the server that the
// control plane is connected to. Nobody is let in on a server that was started
// anew before that: what it forgot would be accepted again until the next tick.
// Where the store is out of reach, so it is for those who would have to ask it.
func (p *Plane) replayVouched(ctx context.Context) {
	if p.replay.judgedOn(p.ctrl.ConnectedServerId()) {
		return
	}
	p.replay.mu.Lock()
	defer p.replay.mu.Unlock()
	if p.replay.judgedOn(p.ctrl.ConnectedServerId()) {
		return // while the lock was waited for
	}
	ctx, cancel := context.WithTimeout(ctx, replayWait)
	defer cancel()
	if err := p.judge(ctx); err != nil {
		p.log.Warn().Err(err).Msg("replay store cannot be looked at")
	}
}

func (w *replayWatch) judgedOn(server string) bool {
	at := w.judged.Load()
	return at != nil && *at == server
}

// judgeReplay compares the store with what is known of it, sets it right, and
// raises replay_since where it may have forgotten anything.
func (p *Plane) judgeReplay(ctx context.Context) error {
	p.replay.mu.Lock()
	defer p.replay.mu.Unlock()
	return p.judge(ctx)
}

// judge is judgeReplay for whoever holds the lock.
func (p *Plane) judge(ctx context.Context) error {
	w := p.replay
	server := p.ctrl.ConnectedServerId()
	rec, seq, err := p.store.ReplayRecord(ctx)
	if err != nil {
		return err
	}
	want := natsconf.Replay(limits.Window, p.cfg.Mesh.Config.Replicas)
	before := time.Since(w.began)
	stream, err := p.stored.Stream(ctx, want.Name)
	after, own := time.Since(w.began), p.clock().Round(0)
	var info *jetstream.StreamInfo
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		if info, err = p.newReplay(ctx, want, rec != nil); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("controlplane: replay store: %w", err)
	default:
		info = stream.CachedInfo()
		// Where it lies and how often is the operator's to say.
		want = natsconf.Replay(limits.Window, info.Config.Replicas)
	}
	servers, err := p.replayServers(ctx, info)
	if err != nil {
		return err
	}
	now := registry.ReplayRecord{Created: info.Created.UnixNano(), Last: info.State.LastSeq, Servers: servers}
	if stream != nil {
		reasons := w.forgot(rec, now)
		if step := w.clocks.look(before, after, info.TimeStamp, own); step != "" {
			reasons = append(reasons, step)
		}
		lax := forgets(info.Config, want)
		if lax != "" {
			reasons = append(reasons, lax)
		}
		if len(reasons) > 0 {
			if err := p.raiseReplay(ctx, info.TimeStamp, strings.Join(reasons, "; ")); err != nil {
				return err
			}
		}
		if info, err = p.mendReplay(ctx, info, want, lax != ""); err != nil {
			return err
		}
		now.Created, now.Last = info.Created.UnixNano(), info.State.LastSeq
	}
	for name, id := range now.Servers {
		if id == "" && rec != nil {
			now.Servers[name] = rec.Servers[name] // it is silent; what it was counts when it is back
		}
	}
	w.created, w.last = now.Created, now.Last
	w.telling.Lock()
	w.held, w.bytes = info.State.Msgs, info.State.Bytes
	w.telling.Unlock()
	w.judged.Store(&server)
	p.alarmReplay(ctx, info)
	if rec != nil && rec.Created == now.Created && rec.Last == now.Last && maps.Equal(rec.Servers, now.Servers) {
		return nil
	}
	// Where another replica was faster it has seen the same, or this one looks
	// again.
	_, err = p.store.PutReplayRecord(ctx, now, seq)
	return err
}

// forgot says why a store cannot be what it was.
func (w *replayWatch) forgot(rec *registry.ReplayRecord, now registry.ReplayRecord) (reasons []string) {
	if rec == nil {
		return []string{"nothing is known of what the store held"}
	}
	if rec.Created != now.Created || w.created != 0 && w.created != now.Created {
		reasons = append(reasons, "the store was made anew")
	} else if last := max(rec.Last, w.last); now.Last < last {
		reasons = append(reasons, fmt.Sprintf("the store went back from %d to %d", last, now.Last))
	}
	if lost(rec.Servers, now.Servers) {
		reasons = append(reasons, "the server was started anew")
	}
	return reasons
}

// lost reports whether so many of the servers that hold the store were started
// anew that what they had acknowledged may be gone: the only one, or most of
// those in a cluster. nats-server writes to its disk before it acknowledges, and
// has the system make that durable every two minutes: a process that was killed
// loses nothing, a machine that was switched off may. Nobody can tell from afar
// which it was, nor is the end of a server announced reliably, so that each one
// counts.
func lost(was, is map[string]string) bool {
	fresh, known := 0, 0
	for name, id := range was {
		now, there := is[name]
		if !there {
			continue
		}
		known++
		if now != "" && now != id {
			fresh++
		}
	}
	return known == 0 || fresh > (len(was)-1)/2
}

// raiseReplay has everybody refuse the calls that were signed before now. Clocks of
// senders may be ahead, and receivers allow that by so much; who hears the tick
// signs no earlier. Of two clocks that may be wrong the later one is taken.
func (p *Plane) raiseReplay(ctx context.Context, server time.Time, reason string) error {
	at := p.clock()
	if server.After(at) {
		at = server
	}
	// The founders are let in before the first tick, and only then: one that a start
	// writes which does not get to them would leave a mesh without an administrator.
	// Nobody has signed anything by then.
	if ticked, err := p.store.Ticked(ctx); err != nil || !ticked {
		p.replay.founded = at
		return err
	}
	at = at.Add(limits.Ahead)
	if err := p.store.Tick(ctx, 0, at, p.epochs.recent()); err != nil {
		return err
	}
	p.replay.telling.Lock()
	p.replay.reason = reason
	p.replay.telling.Unlock()
	n := p.replay.raises.Add(1)
	p.log.Warn().Str("reason", reason).Str("replay_since", at.UTC().Format(time.RFC3339Nano)).Uint64("raises", n).
		Msg("the replay store may have forgotten calls: those signed before are refused")
	return nil
}

// newReplay makes the store. Receivers hear that older calls are refused before
// there is a store that does not know them, and once more when it is there, so
// that they expect its numbers to begin anew. In a mesh that never ticked nobody
// has signed anything; its first tick says when it began.
func (p *Plane) newReplay(ctx context.Context, want jetstream.StreamConfig, known bool) (*jetstream.StreamInfo, error) {
	ticked, err := p.store.Ticked(ctx)
	if err != nil {
		return nil, err
	}
	if !ticked && !known {
		p.replay.founded = p.clock()
		return p.createReplay(ctx, want)
	}
	const reason = "there was no store"
	if err := p.raiseReplay(ctx, time.Time{}, reason); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(replaySettle):
	}
	info, err := p.createReplay(ctx, want)
	if err != nil {
		return nil, err
	}
	return info, p.raiseReplay(ctx, info.TimeStamp, reason)
}

func (p *Plane) createReplay(ctx context.Context, want jetstream.StreamConfig) (*jetstream.StreamInfo, error) {
	s, err := streams.Make(ctx,
		func(ctx context.Context) (jetstream.Stream, error) { return p.stored.CreateStream(ctx, want) },
		func(ctx context.Context) (jetstream.Stream, error) { return p.stored.Stream(ctx, want.Name) })
	if err != nil {
		return nil, fmt.Errorf("controlplane: replay store: %w", err)
	}
	return s.CachedInfo(), nil
}

// mendReplay gives the store the settings that it should have. Some cannot be
// given back: then it is made anew. Where it lies and how often is the operator's
// to say.
func (p *Plane) mendReplay(ctx context.Context, info *jetstream.StreamInfo, want jetstream.StreamConfig, lax bool) (*jetstream.StreamInfo, error) {
	is := info.Config
	if !lax && is.MaxMsgs == want.MaxMsgs && is.MaxBytes == want.MaxBytes && is.MaxAge == want.MaxAge && is.AllowDirect == want.AllowDirect {
		return info, nil
	}
	want.Replicas, want.Placement, want.Metadata = is.Replicas, is.Placement, is.Metadata
	s, err := p.stored.UpdateStream(ctx, want)
	if err == nil {
		p.log.Info().Msg("settings of the replay store set right")
		return s.CachedInfo(), nil
	}
	if !lax {
		p.log.Warn().Err(err).Msg("settings of the replay store cannot be set right")
		return info, nil
	}
	if err := p.stored.DeleteStream(ctx, want.Name); err != nil {
		return nil, fmt.Errorf("controlplane: replay store: %w", err)
	}
	return p.newReplay(ctx, natsconf.Replay(limits.Window, p.cfg.Mesh.Config.Replicas), true)
}

// forgets says by which setting a stream would not remember every nonce for as
// long as it must, or would take one twice.
func forgets(is, want jetstream.StreamConfig) string {
	for _, s := range []struct {
		name string
		lax  bool
	}{
		{"max_age", is.MaxAge != 0 && is.MaxAge < want.MaxAge},
		{"max_msgs_per_subject", is.MaxMsgsPerSubject != want.MaxMsgsPerSubject},
		{"discard", is.Discard != want.Discard},
		{"discard_new_per_subject", !is.DiscardNewPerSubject},
		{"deny_delete", !is.DenyDelete},
		{"deny_purge", !is.DenyPurge},
		{"allow_rollup_hdrs", is.AllowRollup},
		{"allow_msg_ttl", is.AllowMsgTTL || is.SubjectDeleteMarkerTTL != 0},
		{"allow_msg_counter", is.AllowMsgCounter},
		{"allow_msg_schedules", is.AllowMsgSchedules},
		{"allow_atomic", is.AllowAtomicPublish || is.AllowBatchPublish},
		{"max_msg_size", is.MaxMsgSize != want.MaxMsgSize},
		{"storage", is.Storage != want.Storage || is.PersistMode != want.PersistMode},
		{"retention", is.Retention != want.Retention},
		{"no_ack", is.NoAck},
		{"subjects", !slices.Equal(is.Subjects, want.Subjects) || is.SubjectTransform != nil},
		{"mirror", is.Mirror != nil || len(is.Sources) > 0},
	} {
		if s.lax {
			return "the store had another " + s.name
		}
	}
	return ""
}

// replayServers returns the servers that hold the store, by name; one that is
// silent has no ID.
func (p *Plane) replayServers(ctx context.Context, info *jetstream.StreamInfo) (map[string]string, error) {
	out := map[string]string{}
	if c := info.Cluster; c != nil {
		for _, peer := range c.Replicas {
			out[peer.Name] = ""
		}
		if c.Leader != "" {
			out[c.Leader] = ""
		}
	}
	own := p.ctrl.ConnectedServerName()
	if _, there := out[own]; len(out) == 0 || len(out) == 1 && there {
		return map[string]string{own: p.ctrl.ConnectedServerId()}, nil
	}
	if p.sys == nil {
		return p.ownServer(out), nil
	}
	sub, err := p.sys.SubscribeSync(p.sys.NewInbox())
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	defer sub.Unsubscribe() //nolint:errcheck // it ends with the connection at the latest
	if err := p.sys.PublishRequest("$SYS.REQ.SERVER.PING.IDZ", sub.Subject, nil); err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, pingWait)
	defer cancel()
	for missing := len(out); missing > 0; {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		var s struct{ Name, ID string }
		if json.Unmarshal(m.Data, &s) == nil {
			if id, there := out[s.Name]; there && id == "" && s.ID != "" {
				out[s.Name] = s.ID
				missing--
			}
		}
	}
	return out, nil
}

// ownServer is what can be known of the servers that hold the store where nobody
// can be asked: which one this is connected to.
func (p *Plane) ownServer(servers map[string]string) map[string]string {
	if own := p.ctrl.ConnectedServerName(); own != "" {
		if _, there := servers[own]; there {
			servers[own] = p.ctrl.ConnectedServerId()
		}
	}
	return servers
}

// alarmReplay says when the store fills up, and whose nonces fill it. Once it is
// full, calls are refused until older ones have expired.
func (p *Plane) alarmReplay(ctx context.Context, info *jetstream.StreamInfo) {
	s, c, w := info.State, info.Config, p.replay
	full := func(is uint64, most int64) bool { return most > 0 && is > uint64(most)/2 }
	if !full(s.Msgs, c.MaxMsgs) && !full(s.Bytes, c.MaxBytes) || time.Since(w.alarmed) < fullEvery {
		return
	}
	w.alarmed = time.Now()
	stream, err := p.stored.Stream(ctx, c.Name)
	if err != nil {
		return
	}
	burnt := map[string]int{}
	for range fullSample {
		m, err := stream.GetMsg(ctx, s.FirstSeq+rand.Uint64N(s.LastSeq-s.FirstSeq+1))
		if err != nil {
			continue // expired meanwhile
		}
		burnt[burntBy(m.Subject)]++
	}
	most := ""
	for who, n := range burnt {
		if n > burnt[most] {
			most = who
		}
	}
	p.log.Error().Uint64("nonces", s.Msgs).Uint64("bytes", s.Bytes).Str("mostly", most).Int("of_sample", burnt[most]).Int("sample", fullSample).
		Msg("the replay store is more than half full: calls are refused when it is")
}

// burntBy says for which scope and sender a nonce was burnt. Whoever handles the
// scope chose the rest of the subject.
func burntBy(subj string) string {
	key := strings.TrimPrefix(subj, subject.KV(subject.ReplayBucket, ""))
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		key = key[:i]
	}
	return fmt.Sprintf("%.200q", key)
}

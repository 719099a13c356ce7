package controlplane

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/heartbeat"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// lastBeatsTime bounds one reading of the stream, and lastBeatsBatch what is
	// asked of it at a time.
	lastBeatsTime  = time.Minute
	lastBeatsBatch = 500
)

// lastBeats is what the stream of beats remembered when this replica started: who
// was heard last when, and with which client. Operators are shown it until a beat
// is heard. The monitor never sees it: what somebody said before nobody listened
// is no sign of life.
type lastBeats struct {
	mu   sync.Mutex
	read bool
	list map[string]heartbeat.Seen // by instance key
}

// recallBeats reads the stream once, when the watch of the registry has told of
// all instances. The map is the callee's.
func (p *Plane) recallBeats(instances map[agentid.ID]map[agentid.Instance]*registry.Instance) {
	p.storedBeats.mu.Lock()
	again := p.storedBeats.read
	p.storedBeats.read = true
	p.storedBeats.mu.Unlock()
	if again {
		return
	}
	known := make(map[agentid.ID]map[agentid.Instance]*registry.Instance, len(instances))
	for id, all := range instances {
		known[id] = maps.Clone(all)
	}
	p.wg.Go(func() {
		for pause := time.Second; ; pause = min(2*pause, time.Minute) {
			err := p.readLastBeats(known)
			if err == nil || p.ctx.Err() != nil {
				return
			}
			p.log.Warn().Err(err).Msg("last beats of before the start cannot be read")
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	})
}

func (p *Plane) readLastBeats(instances map[agentid.ID]map[agentid.Instance]*registry.Instance) error {
	ctx, cancel := context.WithTimeout(p.ctx, lastBeatsTime)
	defer cancel()
	js, err := jetstream.New(p.ctrl)
	if err != nil {
		return err
	}
	consumer, err := js.CreateConsumer(ctx, natsconf.BeatsStream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverAllPolicy, AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: lastBeatsTime,
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), connectWait)
		defer cancel()
		if err := js.DeleteConsumer(ctx, natsconf.BeatsStream, consumer.CachedInfo().Name); err != nil {
			p.log.Debug().Err(err).Msg("consumer of last beats is left to end by itself")
		}
	}()
	for ctx.Err() == nil {
		batch, err := consumer.FetchNoWait(lastBeatsBatch)
		if err != nil {
			return err
		}
		got := 0
		for m := range batch.Messages() {
			got++
			meta, err := m.Metadata()
			if err != nil {
				return err
			}
			p.noteLastBeat(m, meta.Timestamp, instances)
		}
		if err := batch.Error(); err != nil {
			return err
		}
		if got < lastBeatsBatch {
			return nil // what comes from now on is heard
		}
	}
	return ctx.Err()
}

func (p *Plane) noteLastBeat(m jetstream.Msg, at time.Time, instances map[agentid.ID]map[agentid.Instance]*registry.Instance) {
	s, err := p.space.Parse(m.Subject())
	if err != nil || s.Sender == agentid.Control {
		return
	}
	i := instances[s.Sender][s.Instance]
	if i == nil {
		return
	}
	b, err := p.storedBeat(m.Subject(), m.Headers(), m.Data(), at, i)
	if err != nil {
		p.log.Debug().Err(err).Str("subject", m.Subject()).Msg("stored beat not counted")
		return
	}
	if now := p.clock(); at.After(now) {
		at = now
	}
	p.storedBeats.mu.Lock()
	defer p.storedBeats.mu.Unlock()
	if p.storedBeats.list == nil {
		p.storedBeats.list = map[string]heartbeat.Seen{}
	}
	p.storedBeats.list[registry.InstanceKey(s.Sender, s.Instance)] = heartbeat.Seen{LastBeat: at, Client: b.Client}
}

// storedBeat verifies a beat as it would have been when the server stored it. The
// stream keeps whatever came last.
func (p *Plane) storedBeat(subj string, headers nats.Header, data []byte, at time.Time, i *registry.Instance) (heartbeat.Beat, error) {
	if len(data) > limits.Beat {
		return heartbeat.Beat{}, denial.New(denial.TooLarge, "beat is longer than %d bytes", limits.Beat)
	}
	header := map[string][]string{}
	for name, values := range headers {
		header[name] = values
	}
	u, err := envelope.Parse(envelope.Message{Subject: subj, Header: header, Data: data})
	if err != nil {
		return heartbeat.Beat{}, err
	}
	s, err := u.CheckSubject(p.space)
	if err != nil {
		return heartbeat.Beat{}, err
	}
	if s.Class != subject.Beat {
		return heartbeat.Beat{}, denial.New(denial.WrongSubject, "not a beat")
	}
	if err := u.CheckTime(at, envelope.DefaultWindow()); err != nil {
		return heartbeat.Beat{}, err
	}
	pass, err := i.Identity(p.store.Ring(), p.clock())
	if err != nil {
		return heartbeat.Beat{}, err
	}
	key, err := jws.PublicKey(pass.Key)
	if err != nil {
		return heartbeat.Beat{}, err
	}
	v, err := u.Verify(p.cfg.Mesh.Config.TrustDomain, key, nil)
	if err != nil {
		return heartbeat.Beat{}, err
	}
	b, err := heartbeat.Decode(v.Data())
	if err == nil && (b.Agent != v.From() || b.Instance != v.Instance() || b.Agent != i.Agent || b.Instance != i.Instance) {
		err = denial.New(denial.SenderMismatch, "beat is of another instance")
	}
	return b, err
}

// lastSeen is what was last heard of an instance, by this replica or, before it
// started, by the stream.
func (p *Plane) lastSeen(id agentid.ID, inst agentid.Instance) (heartbeat.Seen, bool) {
	seen, ok := p.monitor.Seen(id, inst)
	if ok && !seen.LastBeat.IsZero() {
		return seen, true
	}
	p.storedBeats.mu.Lock()
	defer p.storedBeats.mu.Unlock()
	if before, known := p.storedBeats.list[registry.InstanceKey(id, inst)]; known {
		return before, true
	}
	return seen, ok
}

package gate

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

// query is a question about others: how sure the answer must be, and who pays
// for the reads that it takes.
type query struct {
	cause agentid.ID // whose message asks; zero: this process itself
	admin bool       // about who drives the control plane: little grace
	since uint64     // not zero: only a leader read that began after this stamp will do
	at    time.Time  // when a right must have run; zero: now. Standing always counts as of now
}

// afresh is the same question, to be answered by the leader.
func (p *Peers) afresh(q query) query {
	q.since = p.stamp.Add(1)
	return q
}

// grace bounds what is believed while the control plane is silent. Whoever
// drives the control plane, and the control plane itself, get little.
func (p *Peers) grace(q query, id agentid.ID) time.Duration {
	if q.admin || id == agentid.Control {
		return min(AdminFeedGrace, p.cfg.FeedGrace)
	}
	return p.cfg.FeedGrace
}

// state is what can be said of a record without reading it again.
type state struct {
	certain bool          // relied on as it is
	wait    bool          // not certain, and read, or not read, a moment ago
	within  bool          // relied on although it could not be read
	silence time.Duration // for the refusal
}

// judge is called with the lock held; floor is what ticks said of the epoch.
func (p *Peers) judge(d *doc, q query, id agentid.ID, floor uint64) state {
	now, grace := p.cfg.Clock(), p.grace(q, id)
	silence := p.silence(now)
	s := state{silence: silence}
	if q.since != 0 && d.confirmed <= q.since || d.epoch < floor {
		// Nothing but a read helps. A tick may repeat a high epoch for minutes;
		// the record is not asked for with every message.
		s.wait = q.since == 0 && soon(now, d.tried)
		return s
	}
	current, at := d.stretch == p.stretch, d.asOf
	if current && p.heard.After(at) {
		at = p.heard
	}
	unread := now.Sub(d.read)
	again := !d.again.IsZero() && !now.Before(d.again)
	s.certain = current && silence <= TickAlarm && unread <= grace && !again
	s.wait = soon(now, d.tried) || current && soon(now, d.read) && !again
	s.within = now.Sub(at) <= grace && now.Round(0).Sub(at.Round(0)) <= grace && unread <= 2*p.grace(q, id)
	return s
}

// soon reports whether now is a moment after t; a clock that was set back makes
// it no moment.
func soon(now, t time.Time) bool {
	since := now.Sub(t)
	return since >= 0 && since < freshFor
}

// Agent returns an agent's record, current as far as anybody can know.
func (p *Peers) Agent(ctx context.Context, id agentid.ID) (*registry.Agent, error) {
	return p.agent(ctx, id, query{})
}

func (p *Peers) agent(ctx context.Context, id agentid.ID, q query) (*registry.Agent, error) {
	a, s := p.knownAgent(id, q)
	if a != nil && s.certain {
		return a, nil
	}
	var err error
	if a == nil || !s.wait {
		err = p.read(ctx, id.String(), id, q, a == nil, func(text string, from origin) error {
			if _, err := p.keepAgent(id, text, from); err != nil {
				return err
			}
			return p.reached(id)
		}, func(now time.Time) {
			if known := p.peers[id]; known != nil {
				known.tried = now
			}
		})
		a, s = p.knownAgent(id, q)
	}
	switch {
	case a != nil && (s.certain || s.within):
		return a, nil
	case a != nil:
		return nil, stale(id.String(), s, err)
	case errors.Is(err, denial.NotFound):
		return nil, denial.New(denial.UnlistedAgent, "agent %q is not registered", id)
	case err == nil:
		return nil, denial.New(denial.RegistryUnavailable, "record of %q changed while it was read", id)
	default:
		return nil, err
	}
}

// reached refuses a record whose epoch is below what a tick listed.
func (p *Peers) reached(id agentid.ID) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if known := p.peers[id]; known != nil && known.epoch < known.floor {
		return denial.New(denial.BadRecord, "epoch is %d, a tick said %d", known.epoch, known.floor)
	}
	return nil
}

func (p *Peers) knownAgent(id agentid.ID, q query) (*registry.Agent, state) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	known := p.peers[id]
	if known == nil || known.agent == nil {
		return nil, state{}
	}
	return known.agent, p.judge(&known.doc, q, id, known.floor)
}

func (p *Peers) instance(ctx context.Context, id agentid.ID, inst agentid.Instance, q query) (*member, error) {
	i, s := p.knownInstance(id, inst, q)
	if i != nil && s.certain {
		return i, nil
	}
	var err error
	key := registry.InstanceKey(id, inst)
	if i == nil || !s.wait {
		err = p.read(ctx, key, id, q, i == nil, func(text string, from origin) error {
			_, err := p.keepInstance(id, inst, text, from)
			return err
		}, func(now time.Time) {
			if known := p.peers[id]; known != nil && known.instances[inst] != nil {
				known.instances[inst].tried = now
			}
		})
		i, s = p.knownInstance(id, inst, q)
	}
	switch {
	case i != nil && (s.certain || s.within):
		return i, nil
	case i != nil:
		return nil, stale(key, s, err)
	case errors.Is(err, denial.NotFound):
		return nil, denial.New(denial.UnlistedKey, "key is not an instance of %q", id)
	case err == nil:
		return nil, denial.New(denial.RegistryUnavailable, "record of %s changed while it was read", key)
	default:
		return nil, err
	}
}

func (p *Peers) knownInstance(id agentid.ID, inst agentid.Instance, q query) (*member, state) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	known := p.peers[id]
	if known == nil || known.instances[inst] == nil || known.instances[inst].member == nil {
		return nil, state{}
	}
	i := known.instances[inst]
	return i.member, p.judge(&i.doc, q, id, 0)
}

// stale refuses to rely on a record that is known. err is why it could not be
// read, nil where that was not tried again or gave an older one.
func stale(what string, s state, err error) error {
	switch {
	case denial.Of(err) == denial.RateLimited:
		return err
	case err == nil:
		return denial.New(denial.FeedStale, "record of %s is in doubt and could not be read a moment ago, control plane silent for %s",
			what, s.silence.Truncate(time.Second))
	default:
		return denial.New(denial.FeedStale, "record of %s is in doubt, control plane silent for %s: %w", what, s.silence.Truncate(time.Second), err)
	}
}

// read reads a record from the leader, unless it was not there a moment ago.
// unknown says that no earlier one is at hand, failed is called with the lock
// held where the read came to nothing.
func (p *Peers) read(ctx context.Context, key string, id agentid.ID, q query, unknown bool, keep func(string, origin) error, failed func(time.Time)) error {
	// A sender's own record is asked for whatever was there before: it pays, and
	// may have been enrolled just now.
	if unknown && q.since == 0 && q.cause != id && p.wasMissing(key) {
		return denial.NotFound
	}
	var pay func() error
	if unknown || q.since != 0 {
		pay = func() error { return p.budget.spend(q.cause, p.cfg.Clock()) }
	}
	_, _, err := p.reads.do(ctx, key, q.since != 0, pay, func(ctx context.Context) (struct{}, error) {
		if !id.IsZero() {
			if err := p.follow(id); err != nil {
				return struct{}{}, err
			}
			p.sweep(p.cfg.Clock()) // also while nobody ticks
		}
		from := p.begin(id)
		text, err := p.cfg.Reader.Record(ctx, key)
		if errors.Is(err, denial.NotFound) && p.reads.touched(key) {
			from = p.begin(id) // it was made while we asked
			text, err = p.cfg.Reader.Record(ctx, key)
		}
		if err == nil {
			err = keep(text, from)
			if denial.Of(err) == denial.UnknownSigner && p.learnRing(ctx) {
				err = keep(text, from)
			}
		}
		if err != nil {
			p.mu.Lock()
			failed(p.cfg.Clock())
			if errors.Is(err, denial.NotFound) && !p.reads.touched(key) {
				p.noteMissing(key)
			}
			p.mu.Unlock()
		}
		return struct{}{}, err
	})
	return err
}

func (p *Peers) wasMissing(key string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	until, ok := p.missing[key]
	return ok && p.cfg.Clock().Before(until)
}

// noteMissing is called with the lock held.
func (p *Peers) noteMissing(key string) {
	if len(p.missing) >= negativeMost {
		clear(p.missing)
	}
	p.missing[strings.Clone(key)] = p.cfg.Clock().Add(negativeFor)
}

// Sender returns the standing of a key that signs as an agent: the agent is
// active, the key is one of its instances, and that instance counts.
func (p *Peers) Sender(ctx context.Context, id agentid.ID, nkey string) (Sender, error) {
	return whole(p.sender(ctx, id, nkey, query{}))
}

// Refresh reads a sender's records afresh, whatever is known.
func (p *Peers) Refresh(ctx context.Context, id agentid.ID, nkey string) (Sender, error) {
	return whole(p.sender(ctx, id, nkey, p.afresh(query{})))
}

func whole(s Sender, err error) (Sender, error) {
	if err != nil {
		return Sender{}, err
	}
	return s, nil
}

// sender returns what it found also beside a refusal, for the epochs in it.
func (p *Peers) sender(ctx context.Context, id agentid.ID, nkey string, q query) (Sender, error) {
	a, err := p.agent(ctx, id, q)
	if err != nil {
		return Sender{}, err
	}
	s := Sender{Agent: a}
	if err := a.Status.Standing(); err != nil {
		return s, denial.New(denial.Of(err), "agent %q is %s", id, a.Status)
	}
	i, err := p.instance(ctx, id, p.instanceOf(nkey), q)
	if err != nil {
		return s, err
	}
	if i.passport.Key != nkey {
		return s, denial.New(denial.UnlistedKey, "key is not an instance of %q", id)
	}
	s.Instance, s.Key, s.Curve = i.record, i.key, i.passport.Curve
	if err := i.record.State.Standing(); err != nil {
		return s, denial.New(denial.Of(err), "instance %s/%s is %s", id, i.record.Instance, i.record.State)
	}
	return s, i.record.Belongs(a)
}

// instanceOf is agentid.InstanceOf, remembered for the keys that were met.
func (p *Peers) instanceOf(nkey string) agentid.Instance {
	p.mu.RLock()
	i, met := p.named[nkey]
	p.mu.RUnlock()
	if met {
		return i
	}
	return agentid.InstanceOf(nkey)
}

// unchanged refuses a sender that was cut since its standing was looked up.
func (p *Peers) unchanged(s Sender) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	id := s.Agent.Agent
	known := p.peers[id]
	if known == nil || known.agent == nil || known.instances[s.Instance.Instance] == nil || known.instances[s.Instance.Instance].member == nil {
		return denial.New(denial.RegistryUnavailable, "record of %q changed while its message was judged", id)
	}
	i := known.instances[s.Instance.Instance].member.record
	if err := known.agent.Status.Standing(); err != nil {
		return denial.New(denial.Of(err), "agent %q is %s", id, known.agent.Status)
	}
	if err := i.State.Standing(); err != nil {
		return denial.New(denial.Of(err), "instance %s/%s is %s", id, i.Instance, i.State)
	}
	if known.agent.Epoch != s.Agent.Epoch || known.floor > s.Agent.Epoch || i.Epoch != s.Instance.Epoch {
		return denial.New(denial.StaleEpoch, "epoch of %s/%s rose while its message was judged", id, i.Instance)
	}
	return nil
}

// Directory answers what the check of a chain asks.
func (p *Peers) Directory(ctx context.Context) capability.Directory {
	return directory{ctx, p, query{}}
}

type directory struct {
	ctx   context.Context
	peers *Peers
	query query
}

func (d directory) Standing(id agentid.ID) error {
	a, err := d.peers.agent(d.ctx, id, d.query)
	if err != nil {
		return err
	}
	return a.Status.Standing()
}

// SignerStanding also refuses a key that was enrolled before the name was given
// new keys: its former holder could otherwise delegate the new one's rights.
func (d directory) SignerStanding(id agentid.ID, key string) error {
	a, err := d.peers.agent(d.ctx, id, d.query)
	if err != nil {
		return err
	}
	i, err := d.peers.instance(d.ctx, id, d.peers.instanceOf(key), d.query)
	if err != nil {
		return err
	}
	switch {
	case i.passport.Key != key:
		return denial.New(denial.UnlistedKey, "%s/%s has another key", id, i.record.Instance)
	case i.record.State == registry.InstanceRevoked:
		// One that expired or left changes nothing about what it delegated.
		return denial.New(denial.Revoked, "instance %s/%s is revoked", id, i.record.Instance)
	}
	return i.record.Belongs(a)
}

func (d directory) TokenLive(holder agentid.ID, token string) error {
	a, err := d.peers.agent(d.ctx, holder, d.query)
	if err != nil {
		return err
	}
	return a.TokenLive(token)
}

func (d directory) NotVoided(issuer agentid.ID, token string) error {
	a, err := d.peers.agent(d.ctx, issuer, d.query)
	if err != nil {
		return err
	}
	return a.NotVoided(token)
}

package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// compromiseRows is how many calls, connections and delegations are told.
const compromiseRows = 200

// since says what an agent, or one instance of it, did from a time on, and what of
// it is still there. It changes nothing.
func (p *Plane) since(ctx context.Context, id agentid.ID, inst agentid.Instance, since time.Time) (any, error) {
	if since.IsZero() || since.After(p.clock()) {
		return nil, denial.New(denial.BadInput, "since when is not said, or has not come yet")
	}
	if _, err := p.store.Agent(ctx, id); err != nil {
		return nil, err
	}
	if !inst.IsZero() {
		if _, err := p.store.Instance(ctx, id, inst); err != nil {
			return nil, err
		}
	}
	out := wire.Compromise{
		Schema: wire.CompromiseSchema, Agent: id, Instance: inst, Since: since.UTC(),
		Calls: []wire.AcceptedCall{}, Stored: []wire.StoredCount{}, Connections: []wire.AdmittedView{}, Hosts: []string{},
	}
	// What others took until now is still in their hands for a moment.
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(audit.Linger + audit.Linger/4):
	}
	made, err := p.madeSince(ctx, id, inst, since)
	if err != nil {
		return nil, err
	}
	if out.Stored, err = p.storedSince(ctx, id, since); err != nil {
		return nil, err
	}
	words := [][]byte{quotedID(id)}
	for digest := range made.of {
		words = append(words, []byte(digest))
	}
	did := newDeeds(id, inst)
	out.Audit, err = p.readAudit(ctx, since, words, func(r reported) {
		did.add(r)
		made.used(r)
		tellCall(&out, did, r)
		tellConnection(&out, did, r)
	})
	if err != nil {
		return nil, err
	}
	out.Did, out.Delegations = did.view(), made.views()
	return out, nil
}

func tellCall(out *wire.Compromise, did *deeds, r reported) {
	if r.Kind != audit.Call || !took(r) || !did.sent(r) || ofSelf(r) {
		return
	}
	if out.CallsTotal++; len(out.Calls) == compromiseRows {
		return
	}
	out.Calls = append(out.Calls, wire.AcceptedCall{
		At: r.Time, Instance: r.Instance, By: r.by, ByInstance: r.byInstance, Scope: r.Scope, Correlation: r.Correlation,
		Chain: r.Chain, Outcome: r.Verdict, Reason: r.Reason,
	})
}

func tellConnection(out *wire.Compromise, did *deeds, r reported) {
	if r.Kind != audit.Connect || r.Verdict != audit.Accepted || !did.sent(r) {
		return
	}
	if out.Admitted++; len(out.Connections) < compromiseRows {
		out.Connections = append(out.Connections, wire.AdmittedView{At: r.Time, Instance: r.Instance, Host: r.Host, Server: r.Server, Epoch: r.Epoch})
	}
	if !slices.Contains(out.Hosts, r.Host) && len(out.Hosts) < compromiseRows {
		out.Hosts = append(out.Hosts, r.Host)
	}
}

// made are delegations of one agent.
type made struct {
	list []*wire.MadeView
	of   map[string]*wire.MadeView // by the digests of the stored chains that rest on them
}

// madeSince finds the delegations of an agent that were signed since, by the
// signer's word, or stored since, by the server's: whoever has a key can sign for
// yesterday.
func (p *Plane) madeSince(ctx context.Context, id agentid.ID, inst agentid.Instance, since time.Time) (*made, error) {
	m := &made{of: map[string]*wire.MadeView{}}
	chains, err := p.store.Delegations(ctx, id)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(p.ctrl)
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	bucket, err := js.Stream(ctx, subject.KVStream(natsconf.ChainsBucket))
	if err != nil {
		return nil, fmt.Errorf("controlplane: bucket of chains: %w", err)
	}
	dir := p.store.Directory(ctx)
	known := map[string]*wire.MadeView{} // by the delegation's own digest; nil: it is older
	for _, c := range chains {
		hops := c.Hops()
		n := slices.IndexFunc(hops, func(h capability.Hop) bool { return h.By == id })
		if n < 0 || !inst.IsZero() && agentid.InstanceOf(hops[n].Key) != inst {
			continue
		}
		h := hops[n]
		v, seen := known[h.Token]
		if !seen {
			text := c.UpTo(n + 1)
			v = &wire.MadeView{To: h.To, Scopes: list(h.Scopes), Signed: h.Issued, Expires: h.Expires, Chain: jws.Digest(text)}
			msg, err := bucket.GetLastMsgForSubject(ctx, subject.KV(natsconf.ChainsBucket, v.Chain))
			switch {
			case err == nil:
				v.Stored = msg.Time.UTC()
			case !errors.Is(err, jetstream.ErrMsgNotFound): // only what was passed on of it may be stored
				return nil, fmt.Errorf("controlplane: chain of %q: %w", id, err)
			}
			if !h.Issued.Before(since.Truncate(time.Second)) || v.Stored.After(since) {
				own, err := capability.Verify(text, p.store.Ring(), p.clock())
				if err == nil {
					err = own.Check(p.clock(), dir)
				}
				if err != nil {
					v.Ended = cmp.Or(denial.Of(err), denial.RegistryUnavailable)
				}
				m.list = append(m.list, v)
			} else {
				v = nil
			}
			known[h.Token] = v
		}
		if v == nil {
			continue
		}
		m.of[c.Digest()] = v
		if len(hops) > n+1 {
			v.Onward++
		}
	}
	return m, nil
}

// used counts what rested on a delegation and was taken, by the word of who took it.
func (m *made) used(r reported) {
	v := m.of[r.Chain]
	if v == nil || !took(r) || r.Kind != audit.Call && r.Kind != audit.Event || r.by != r.Peer {
		return
	}
	v.Uses++
	if r.Time.After(v.Last) {
		v.Last = r.Time
	}
}

func (m *made) views() []wire.MadeView {
	slices.SortFunc(m.list, func(x, y *wire.MadeView) int {
		return cmp.Or(cmp.Compare(y.Uses, x.Uses), byName(x.To, y.To), x.Signed.Compare(y.Signed), cmp.Compare(x.Chain, y.Chain))
	})
	out := []wire.MadeView{}
	for _, v := range m.list[:min(len(m.list), compromiseRows)] {
		out = append(out, *v)
	}
	return out
}

// storedSince counts the events of an agent in durable topics. A consumer knows how
// many it would bring, and brings none.
func (p *Plane) storedSince(ctx context.Context, id agentid.ID, since time.Time) ([]wire.StoredCount, error) {
	topics, err := p.store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	out := []wire.StoredCount{}
	for _, t := range topics.Topics {
		n, err := p.storedOf(ctx, id, t, since)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			out = append(out, wire.StoredCount{Topic: t.Topic, Count: n})
		}
	}
	return out, nil
}

func (p *Plane) storedOf(ctx context.Context, id agentid.ID, t registry.Topic, since time.Time) (uint64, error) {
	c, err := p.stored.CreateConsumer(ctx, natsconf.EventsStream, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since,
		FilterSubject: p.space.Event(id, t.Topic), MemoryStorage: true, Replicas: 1, InactiveThreshold: 10 * time.Second,
	})
	if err != nil {
		return 0, fmt.Errorf("controlplane: events of %q: %w", id, err)
	}
	info := c.CachedInfo()
	if err := p.stored.DeleteConsumer(ctx, natsconf.EventsStream, info.Name); err != nil {
		p.log.Debug().Err(err).Msg("consumer that counted stays for a moment")
	}
	return info.NumPending, nil
}

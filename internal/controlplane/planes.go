package controlplane

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/streams"
	"github.com/sealmesh/sealmesh/internal/wire"
)

const (
	// verbPlanes asks every replica how it fares. It has an answer of its own kind,
	// so that the brake's stays as small as it is.
	verbPlanes       = "planes"
	kindPlanesAnswer = "control-plane-answer"
	// streamsWait is how long a stream that nobody leads is waited for.
	streamsWait = 2 * time.Second
)

type planesAnswer struct {
	jws.Head
	Order string            `json:"order"`
	Plane wire.ControlPlane `json:"plane"`
}

func (p *Plane) answerPlanes(order, to string) {
	text, err := jws.Sign(&planesAnswer{Head: p.brakes.head(kindPlanesAnswer, p.clock()), Order: order, Plane: p.selfView()}, p.brakes.key)
	if err == nil {
		err = p.ctrl.Publish(to, []byte(text))
	}
	if err != nil {
		p.log.Warn().Err(err).Msg("another replica could not be answered")
	}
}

// selfView is how this replica fares.
func (p *Plane) selfView() wire.ControlPlane {
	return wire.ControlPlane{
		Replica: p.brakes.name, Host: p.brakes.host, Version: version(),
		Since: p.began.UTC().Truncate(time.Millisecond), Time: p.clock().UTC().Truncate(time.Millisecond),
		Server: p.ctrl.ConnectedServerName(), FeedLagMS: p.peers.Silence().Milliseconds(),
		Denials: p.denials.Load(), Denied: p.denied.counts(), PendingCuts: len(p.cutting.pendingCuts()),
	}
}

// planes asks all replicas how they fare. Where nobody can be asked it is this one
// alone; who does not answer, the monitor's summary names.
func (p *Plane) planes(ctx context.Context) []wire.ControlPlane {
	o := p.newOrder(verbPlanes)
	var out []wire.ControlPlane
	_, err := p.gather(ctx, o, func(text string) (string, error) {
		var a planesAnswer
		if err := p.brakes.verify(jws.Decode(text, kindPlanesAnswer, &a)); err != nil || a.Order != o.ID {
			return "", cmp.Or(err, errAnotherOrder)
		}
		if !slices.ContainsFunc(out, func(v wire.ControlPlane) bool { return v.Replica == a.Plane.Replica }) {
			out = append(out, a.Plane)
		}
		return a.Plane.Replica, nil
	})
	if err != nil || len(out) == 0 {
		p.log.Debug().AnErr("cause", err).Msg("replicas did not say how they fare")
		return []wire.ControlPlane{p.selfView()}
	}
	slices.SortFunc(out, func(a, b wire.ControlPlane) int { return strings.Compare(a.Host+" "+a.Replica, b.Host+" "+b.Replica) })
	return out
}

// streamViews is how the copies of what the mesh stores fare.
func (p *Plane) streamViews(ctx context.Context) []wire.StreamView {
	out := []wire.StreamView{}
	add := func(account string, states []streams.State) {
		for _, s := range states {
			if s.Name == natsconf.EventsStream && errors.Is(s.Err, jetstream.ErrStreamNotFound) {
				continue // there is no durable topic
			}
			out = append(out, wire.StreamView{
				Account: account, Stream: s.Name, Leader: s.Leader, Copies: s.Copies, Online: s.Online,
				Behind: list(s.Behind), Offline: list(s.Offline), Quorum: s.Quorum(),
			})
		}
	}
	js, err := jetstream.New(p.ctrl)
	if err != nil {
		p.log.Warn().Err(err).Msg("streams cannot be looked at")
		return out
	}
	add(natsconf.Control, streams.Look(ctx, js, streamsWait, natsconf.ControlStreams()...))
	add(natsconf.Storage, streams.Look(ctx, p.stored, streamsWait, natsconf.StoredStreams()...))
	return out
}

// missingServers lists the nats-servers that sealmesh.yaml names and that are not
// heard of.
func (p *Plane) missingServers() []string {
	out := []string{}
	if p.sys == nil {
		return out // nobody can be asked
	}
	heard := map[string]bool{}
	for id := range p.servers.all() {
		heard[p.servers.name(id)] = true
	}
	for _, s := range p.cfg.Mesh.Config.NATS.Servers {
		if !heard[s.Name] {
			out = append(out, s.Name)
		}
	}
	return out
}

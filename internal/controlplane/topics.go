package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// syncEvents makes the stream of durable topics store the topics of the list. Of
// several replicas at once the last writer may have read an older list, so each
// looks again after it has written.
func (p *Plane) syncEvents(ctx context.Context) error {
	for range 8 {
		t, err := p.store.Topics(ctx)
		if errors.Is(err, denial.OlderRecord) {
			return nil // the stream stays as it is until an operator has looked at the list
		}
		if err != nil {
			return err
		}
		names, age := make([]string, 0, len(t.Topics)), time.Duration(0)
		for _, e := range t.Topics {
			names = append(names, e.Topic)
			age = max(age, time.Duration(e.MaxAge)*time.Second)
		}
		if _, err := makeStream(ctx, p.stored, natsconf.Events(p.space, names, age, p.cfg.Mesh.Config.Replicas)); err != nil {
			return fmt.Errorf("controlplane: stream of durable topics: %w", err)
		}
		again, err := p.store.Topics(ctx)
		if err != nil || again.Revision == t.Revision {
			return err
		}
	}
	return denial.New(denial.Conflict, "the list of durable topics changes too often")
}

// topics answers the operations on durable topics.
func (p *Plane) topics(ctx context.Context, by agentid.ID, req wire.AdminRequest) (any, error) {
	var t *registry.Topics
	var err error
	switch {
	case req.Op == wire.OpTopics:
		t, err = p.store.Topics(ctx)
	case req.Topic == nil:
		return nil, denial.New(denial.BadInput, "no topic is named")
	case req.Op == wire.OpTopicAdd:
		t, err = p.store.SetTopic(ctx, *req.Topic, by.String())
	default:
		t, err = p.store.RemoveTopic(ctx, req.Topic.Topic, by.String())
	}
	if req.Op != wire.OpTopics {
		detail := req.Reason
		if req.Topic != nil {
			detail = req.Topic.Topic
		}
		p.change(by, agentid.Control, agentid.Instance{}, string(req.Op), detail, err)
		if err == nil {
			err = p.syncEvents(ctx)
		}
		p.durables.soonAll()
	}
	if err != nil {
		return nil, err
	}
	return p.viewTopics(ctx, t)
}

func (p *Plane) viewTopics(ctx context.Context, t *registry.Topics) (wire.TopicList, error) {
	out := wire.TopicList{Schema: wire.TopicsSchema, Topics: []wire.TopicView{}}
	if len(t.Topics) == 0 {
		return out, nil
	}
	agents, err := p.store.Agents(ctx, false)
	if err != nil {
		return out, err
	}
	stream, err := p.stored.Stream(ctx, natsconf.EventsStream)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return out, fmt.Errorf("controlplane: stream of durable topics: %w", err)
	}
	for _, e := range t.Topics {
		v := wire.TopicView{Topic: e.Topic, MaxAgeMS: e.MaxAge * 1000, Durables: []string{}}
		if stream != nil {
			info, err := stream.Info(ctx, jetstream.WithSubjectFilter(p.space.EventFilter(e.Topic)))
			if err != nil {
				return out, fmt.Errorf("controlplane: stream of durable topics: %w", err)
			}
			for _, n := range info.State.Subjects {
				v.Stored += n
			}
		}
		for _, a := range agents {
			for _, d := range a.Durables {
				if slices.Contains(d.Topics, e.Topic) {
					v.Durables = append(v.Durables, a.Agent.String()+"/"+d.Name)
				}
			}
		}
		slices.Sort(v.Durables)
		out.Topics = append(out.Topics, v)
	}
	return out, nil
}

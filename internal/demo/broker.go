package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

// broker is about what the server itself keeps apart.
func broker() chapter {
	return chapter{steps: []step{
		{
			name:     "forged-sender-subject",
			tried:    "mallory signs a call and publishes it on clerk's subject",
			expected: "the broker refuses: the sender's place in a subject is granted to that agent alone",
			reason:   permissionsViolation,
			run:      forgedSender,
		},
		{
			name:     "record-overwrite-through-the-server",
			tried:    "mallory aims the acknowledgement of its own publishes at reader's record",
			expected: "the record stays as it is; in a server with one account for all, the same trick overwrites it",
			run:      recordOverwrite,
		},
		{
			name:     "agent-certificate-opens-no-route",
			tried:    "a nats-server with mallory's certificate and the cluster's password dials a route listener of the mesh",
			expected: "the listener, which trusts the infra CA alone, refuses it; one with an infra certificate joins",
			reason:   tlsUnknownAuthority,
			run:      noRoute,
		},
	}}
}

func forgedSender(ctx context.Context, s *stage) (outcome, error) {
	subj := s.mallory.Space.Call(s.clerk.ID(), "read.logs")
	m, err := s.mallory.sign(subj, envelope.Fields{Token: s.mallory.Record.Tokens[0]}, []byte("I am clerk"))
	if err != nil {
		return outcome{}, err
	}
	before := ran(s.readers())
	if err := s.mallory.barred(ctx, subj, func() error { return s.mallory.nc.PublishMsg(m) }); err != nil {
		return outcome{}, err
	}
	if n := ran(s.readers()) - before; n != 0 {
		return outcome{}, fmt.Errorf("a handler ran %d times", n)
	}
	return outcome{"the server refused the publish; no handler ran", permissionsViolation}, nil
}

// stored is a record of the registry and where it stands in its stream.
type stored struct {
	seq  uint64
	data []byte
}

// lookUp reads a record from its leader.
func (p *intruder) lookUp(ctx context.Context, key string) (stored, error) {
	m, err := p.nc.RequestWithContext(ctx, gate.AgentLeader(p.Space)(registry.AgentsBucket), registry.LeaderReadBody(registry.AgentsBucket, key))
	if err != nil {
		return stored{}, err
	}
	var r struct {
		Message struct {
			Sequence uint64 `json:"seq"`
			Data     []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return stored{}, err
	}
	if r.Message.Sequence == 0 {
		return stored{}, fmt.Errorf("the registry answered %s", m.Data)
	}
	return stored{r.Message.Sequence, r.Message.Data}, nil
}

func recordOverwrite(ctx context.Context, s *stage) (outcome, error) {
	p := s.mallory
	victim := subject.KV(registry.AgentsBucket, s.reader.ID().String())
	before, err := p.lookUp(ctx, s.reader.ID().String())
	if err != nil {
		return outcome{}, err
	}
	// What the server answers by itself, sent with the record as the place for
	// the answer: a write to the replay store, a read of the registry, a beat.
	p.complaint()
	burn := subject.KV(gate.ReplayBucket, "play.dice.x."+envelope.NewNonce())
	for _, subj := range []string{
		burn,
		subject.DirectGet(registry.AgentsBucket, p.ID.String()),
		p.Space.LeaderRead(registry.AgentsBucket),
		p.Space.Beat(p.ID, p.Instance),
	} {
		var body []byte
		if subj == p.Space.LeaderRead(registry.AgentsBucket) {
			body = registry.LeaderReadBody(registry.AgentsBucket, p.ID.String())
		}
		if err := p.nc.PublishRequest(subj, victim, body); err != nil {
			return outcome{}, err
		}
	}
	if err := p.nc.FlushWithContext(ctx); err != nil {
		return outcome{}, err
	}
	// That the store took the first is seen by its refusal of a second.
	again, err := p.nc.RequestWithContext(ctx, burn, nil)
	if err != nil {
		return outcome{}, err
	}
	if !bytes.Contains(again.Data, []byte("10077")) {
		return outcome{}, fmt.Errorf("the publish whose acknowledgement was aimed did not arrive: %s", again.Data)
	}
	if err := p.complaint(); err != nil {
		return outcome{}, fmt.Errorf("the trick was not tried in full: %w", err)
	}
	after, err := p.lookUp(ctx, s.reader.ID().String())
	if err != nil {
		return outcome{}, err
	}
	if after.seq != before.seq || !bytes.Equal(after.data, before.data) {
		return outcome{}, errors.New("the record was overwritten")
	}
	written, err := overwriteInOneAccount(ctx, filepath.Join(s.mesh.Dir.Dir, "..", "one-account"))
	if err != nil {
		return outcome{}, fmt.Errorf("the control: %w", err)
	}
	return outcome{actual: fmt.Sprintf("the record is still number %d; with one account it became %s", after.seq, written)}, nil
}

// overwriteInOneAccount plays the trick on a server that keeps the registry and
// its clients in one account. The client may publish to the replay store and
// nowhere else.
func overwriteInOneAccount(ctx context.Context, dir string) (string, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName: "one-account", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir,
		Users: []*server.User{
			{Username: "operator", Password: "operator"},
			{Username: "agent", Password: "agent", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"$KV.REPLAY.>"}},
				Subscribe: &server.SubjectPermission{Deny: []string{">"}},
			}},
		},
	})
	if err != nil {
		return "", err
	}
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(5 * time.Second) {
		return "", errors.New("the server with one account did not start")
	}
	operator, err := nats.Connect(srv.ClientURL(), nats.UserInfo("operator", "operator"))
	if err != nil {
		return "", err
	}
	defer operator.Close()
	agent, err := nats.Connect(srv.ClientURL(), nats.UserInfo("agent", "agent"))
	if err != nil {
		return "", err
	}
	defer agent.Close()
	js, err := jetstream.New(operator)
	if err != nil {
		return "", err
	}
	if _, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "REPLAY"}); err != nil {
		return "", err
	}
	agents, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "AGENTS"})
	if err != nil {
		return "", err
	}
	if _, err := agents.Put(ctx, "reader", []byte("the signed record")); err != nil {
		return "", err
	}
	if err := agent.PublishRequest("$KV.REPLAY.x", "$KV.AGENTS.reader", nil); err != nil {
		return "", err
	}
	var value []byte
	err = eventually(ctx, "the overwrite", func() bool {
		e, err := agents.Get(ctx, "reader")
		if err == nil {
			value = e.Value()
		}
		return err == nil && e.Revision() > 1
	})
	return string(value), err
}

func noRoute(ctx context.Context, s *stage) (outcome, error) {
	member, err := s.member(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer member.Close()
	agent, err := certificateOf(s.mallory.Dir.Path)
	if err != nil {
		return outcome{}, err
	}
	from := s.journal.mark()
	evil, err := startStock(member.ClusterAddr(), agent)
	if err != nil {
		return outcome{}, err
	}
	l, err := s.journal.await(ctx, from, "a refused route", serverSays("certificate signed by unknown authority"))
	joined := member.Routes()
	stop(evil)
	if err != nil {
		return outcome{}, err
	}
	if joined > 0 {
		return outcome{}, errors.New("it joined the cluster")
	}
	infra, err := s.infraCertificate()
	if err != nil {
		return outcome{}, err
	}
	good, err := startStock(member.ClusterAddr(), infra)
	if err != nil {
		return outcome{}, err
	}
	defer stop(good)
	if err := eventually(ctx, "the control, a route with an infra certificate,", func() bool { return member.Routes() > 0 }); err != nil {
		return outcome{}, err
	}
	return outcome{"the listener logged " + l.words(), tlsUnknownAuthority}, nil
}

func stop(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

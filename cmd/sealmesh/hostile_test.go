package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// arena is a live mesh in which some agents run as programs and others are
// compromised: they have their own keys and no client of the mesh's.
type arena struct {
	*devmesh.Mesh
	t    *testing.T
	ctrl *nats.Conn // as the control plane, whose buckets some attacks need
}

func newArena(t *testing.T, heartbeat time.Duration) *arena {
	t.Helper()
	m, err := devmesh.Start(t.Context(), t.TempDir()+"/mesh", devmesh.Options{Heartbeat: heartbeat, Log: zerolog.Nop(), ClientLog: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() }) //nolint:errcheck // some tests take its streams away
	a := &arena{Mesh: m, t: t}
	a.ctrl = must(devmesh.AsService(m.Dir, m.Server.URL()))(t)
	t.Cleanup(a.ctrl.Close)
	return a
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// add registers and enrols an agent that nobody watches.
func (a *arena) add(id string, r registry.Rights) string {
	a.t.Helper()
	return must(a.Add(a.t.Context(), registry.NewAgent{Agent: agentid.Require(id), Rights: r, Heartbeat: registry.HeartbeatNone}))(a.t)
}

func (a *arena) operate(req wire.AdminRequest) {
	a.t.Helper()
	if err := a.Operate(a.t.Context(), req, nil); err != nil {
		a.t.Fatalf("%s %s: %v", req.Op, req.Target, err)
	}
}

func (a *arena) streams() jetstream.JetStream { return must(jetstream.New(a.ctrl))(a.t) }
func (a *arena) storage() jetstream.JetStream {
	return must(jetstream.NewWithAPIPrefix(a.ctrl, natsconf.StoreAPI))(a.t)
}

// write puts something into a bucket of the registry, which no agent can.
func (a *arena) write(bucket, key, text string) {
	a.t.Helper()
	must(a.ctrl.Request(subject.KV(bucket, key), []byte(text), soon))(a.t)
}

// stored stores the text of a chain, whatever it is, and returns its digest.
func (a *arena) stored(text string) string {
	a.t.Helper()
	a.write(registry.ChainsBucket, jws.Digest(text), text)
	return jws.Digest(text)
}

// root issues a root token that no record lists.
func (a *arena) root(r capability.Root) string {
	a.t.Helper()
	if r.NotBefore.IsZero() {
		r.NotBefore, r.Expires = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	}
	return must(capability.IssueRoot(must(a.Dir.TokensKey())(a.t), r, r.Expires.Add(-time.Second)))(a.t)
}

// intruder is a compromised agent.
type intruder struct {
	gate.Speaker
	t     *testing.T
	nc    *nats.Conn
	dir   *agentdir.Dir
	key   nkeys.KeyPair
	token string // digest of its own root token
}

func (a *arena) intruder(dir string) *intruder {
	a.t.Helper()
	d := must(agentdir.Open(dir))(a.t)
	kp := must(d.Key())(a.t)
	nc := must(nats.Connect(d.Info.NATS[0],
		nats.Nkey(must(kp.PublicKey())(a.t), kp.Sign), nats.CustomInboxPrefix(subject.InboxPrefix(d.Info.Agent, d.Info.Instance)),
		nats.ClientCert(d.File(agentdir.TLSCertFile), d.File(agentdir.TLSKeyFile)), nats.RootCAs(d.File(agentdir.CAFile)),
		nats.Timeout(soon)))(a.t)
	a.t.Cleanup(nc.Close)
	key := must(envelope.NewKey(must(d.Seed())(a.t)))(a.t)
	i := &intruder{t: a.t, nc: nc, dir: d, key: kp, Speaker: gate.Speaker{
		Self: d.Info.Agent, Key: key, TrustDomain: d.Info.TrustDomain, Space: must(subject.New(d.Info.Prefix))(a.t), Clock: time.Now,
		Epoch: func() envelope.Epoch { return envelope.Epoch{Agent: 1, Instance: 1} },
	}}
	agents := must(a.streams().Stream(a.t.Context(), subject.KVStream(registry.AgentsBucket)))(a.t)
	record := must(agents.GetLastMsgForSubject(a.t.Context(), subject.KV(registry.AgentsBucket, i.Self.String())))(a.t)
	var claims struct {
		Tokens []string `json:"tokens"`
	}
	payload := must(base64.RawURLEncoding.DecodeString(strings.Split(string(record.Data), ".")[1]))(a.t)
	if err := json.Unmarshal(payload, &claims); err != nil {
		a.t.Fatal(err)
	}
	if len(claims.Tokens) > 0 {
		i.token = claims.Tokens[0]
	}
	return i
}

// says signs a message as the speaker s, which is the intruder or who it pretends
// to be.
func (i *intruder) says(s gate.Speaker, subj string, f envelope.Fields, data string) *nats.Msg {
	i.t.Helper()
	msg, _, _, err := s.Message(subj, f, nil, []byte(data), nil)
	if err != nil {
		i.t.Fatal(err)
	}
	return msg
}

func (i *intruder) send(msgs ...*nats.Msg) {
	i.t.Helper()
	for _, msg := range msgs {
		if err := i.nc.PublishMsg(msg); err != nil {
			i.t.Fatal(err)
		}
	}
	if err := i.nc.FlushTimeout(soon); err != nil {
		i.t.Fatal(err)
	}
}

// earlier is the speaker with a clock that is behind.
func (i *intruder) earlier(d time.Duration) gate.Speaker {
	s := i.Speaker
	s.Clock = func() time.Time { return time.Now().Add(-d) }
	return s
}

// request is what a raw handler gets. The fields and the digest that its answer is
// bound to come out by way of an honest check.
func (i *intruder) request(msg *nats.Msg, key string) (envelope.Fields, envelope.Digest) {
	i.t.Helper()
	u := must(envelope.Parse(envelope.Message{Subject: msg.Subject, Header: msg.Header, Data: msg.Data}))(i.t)
	v := must(u.Verify(i.TrustDomain, ed25519.PublicKey(must(jws.PublicKey(key))(i.t)), nil))(i.t)
	return v.Fields(), v.Digest()
}

// answer signs an answer to a request. The subject's nonce is that of the request
// also where the fields say something else.
func (i *intruder) answer(req *nats.Msg, change func(*envelope.Fields), data string) *nats.Msg {
	i.t.Helper()
	u := must(envelope.Parse(envelope.Message{Subject: req.Subject, Header: req.Header, Data: req.Data}))(i.t)
	r, digest := i.request(req, u.UnsafeFields().Key)
	f := envelope.Fields{Correlation: r.Correlation, Parent: r.Nonce, Hop: r.Hop, Token: i.token}
	if change != nil {
		change(&f)
	}
	msg, _, _, err := i.Message(i.Space.Reply(i.Self, r.From, agentid.InstanceOf(r.Key), r.Nonce), f, nil, []byte(data), &digest)
	if err != nil {
		i.t.Fatal(err)
	}
	return msg
}

// program is a sealmesh that runs.
type program struct {
	t           *testing.T
	cmd         *exec.Cmd
	out, errors *output
}

func (a *arena) start(args ...string) *program {
	a.t.Helper()
	p := &program{t: a.t, cmd: exec.Command("sealmesh", append([]string{"--mesh", a.Dir.Dir}, args...)...), out: &output{}, errors: &output{}}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.errors
	p.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10")
	if err := p.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(p.end)
	return p
}

// end ends the program in order, once.
func (p *program) end() {
	if p.cmd.ProcessState != nil {
		return
	}
	p.cmd.Process.Signal(os.Interrupt) //nolint:errcheck // it may have ended
	late := time.AfterFunc(3*soon, func() { p.cmd.Process.Kill() })
	defer late.Stop()
	p.cmd.Wait() //nolint:errcheck // whoever cares looks at its exit code
}

// output is what a program said so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// refused are the documents about refused messages, in order.
func (o *output) refused(t *testing.T) (docs []refusedDoc) {
	t.Helper()
	text := o.String()
	text = text[:strings.LastIndexByte(text, '\n')+1]
	for line := range strings.Lines(text) {
		if !strings.Contains(line, refusedSchema) {
			continue
		}
		var d refusedDoc
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		docs = append(docs, d)
	}
	return docs
}

// until waits for something to come about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !ok(); time.Sleep(poll) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// sealmesh runs the program within the test, and returns its exit code.
func (a *arena) sealmesh(ctx context.Context, args ...string) (exit int, stdout, stderr string) {
	out, errs := &output{}, &output{}
	exit = run(ctx, append([]string{"--mesh", a.Dir.Dir}, args...), strings.NewReader(""), out, errs)
	return exit, out.String(), errs.String()
}

package authcallout_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/goleak"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func TestAdmission(t *testing.T) {
	m := newMesh(t)
	m.start(t, nil)
	key := user(t)
	lender := user(t)
	own := m.authority.chain(t, reader, 48*time.Hour, "handle:read:logs", "publish:orders")
	lent := m.authority.delegate(t, m.authority.chain(t, writer, 48*time.Hour, "write:logs"), lender, reader, 20*time.Minute, "write:logs")
	m.registry.add(reader, public(t, key), authcallout.Admission{Epoch: "3.1", Chains: []*capability.Chain{own, lent},
		Plain: authcallout.Plain{Subscribe: []string{"legacy.x"}}, Footing: "foot"})
	cert := m.agents.sign(t, "reader", nil)

	nc, err := m.connect(cert, nkey(t, key), nats.Token("v1:"+lent.Digest()), nats.Name("liar"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	d := m.decision(t)
	if !d.Admitted() || d.Agent != reader || d.Key != public(t, key) || d.Epoch != "3.1" || d.ID != "" || d.Reason != "" || d.ServerID != m.srv.ID() {
		t.Errorf("got decision %+v, want an admission of reader", d)
	}
	if got := m.registry.asked; len(got) != 1 || !slices.Equal(got[0], []string{lent.Digest()}) {
		t.Errorf("got presented %q, want the one digest", got)
	}

	sessions := m.registry.opened()
	if len(sessions) != 1 {
		t.Fatalf("got %d sessions, want 1", len(sessions))
	}
	s := sessions[0]
	digests := []string{own.Digest(), lent.Digest()}
	slices.Sort(digests)
	if s.Agent != reader || s.Instance != agentid.InstanceOf(public(t, key)) || s.Epoch != "3.1" || s.ServerID != m.srv.ID() ||
		!nkeys.IsValidPublicUserKey(s.UserKey) || s.Host != "127.0.0.1" || s.Certificate != cert.Leaf.SerialNumber.Text(16) ||
		!slices.Equal(s.Chains, digests) || !slices.Equal(s.Via, []agentid.ID{writer}) || s.Footing != "foot" {
		t.Errorf("got session %+v", s)
	}
	// The grant shrinks when the lent chain ends, and the session is over by then.
	if left := lent.Expires().Sub(s.Expires); left < 0 || left > 5*time.Second || !s.Expires.Equal(d.Expires) {
		t.Errorf("got expiry %s, want just before the end of the lent chain at %s", s.Expires, lent.Expires())
	}

	// What the server made of it: the name, the account, the connection.
	z, err := m.srv.Connz(&server.ConnzOptions{Username: true, User: "reader", Account: "MESH"})
	if err != nil || len(z.Conns) != 1 || z.Conns[0].Cid != s.ClientID || z.Conns[0].AuthorizedUser != "reader" {
		t.Errorf("got %+v, %v, want the session's connection under the agent's name", z, err)
	}
	grant, err := authcallout.Compile(subject.Default(), authcallout.Subject{Agent: reader, Instance: s.Instance,
		Scopes: scopes("handle:read:logs", "publish:orders", "write:logs"), Plain: authcallout.Plain{Subscribe: []string{"legacy.x"}}})
	if err != nil {
		t.Fatal(err)
	}
	checkServerAgrees(t, nc, grant, s.Instance)
}

// checkServerAgrees asks the server for each subject whether it permits it and
// compares with the grant: Allows is what `can` and `explain` tell people.
func checkServerAgrees(t *testing.T, nc *nats.Conn, grant authcallout.Grant, inst agentid.Instance) {
	t.Helper()
	i := inst.String()
	for _, c := range []struct {
		subj    string
		publish bool
	}{
		{"mesh.call.reader.write.logs", true}, {"mesh.call.reader.read.logs", true}, {"mesh.call.writer.write.logs", true}, {"mesh.event.reader.orders", true},
		{"mesh.event.writer.orders", true}, {"mesh.reply.reader.writer.00000000.n", true}, {"mesh.reply.writer.writer.00000000.n", true},
		{"$KV.MESH_REPLAY.read.logs.writer.n", true}, {"$KV.MESH_REPLAY.read.logs.n", true}, {"$KV.MESH_AGENTS.reader", true}, {"$SYS.REQ.USER.INFO", true},
		{"$SYS.REQ.USER.AUTH", true}, {"$JS.API.INFO", true}, {"$JS.API.DIRECT.GET.KV_MESH_AGENTS.$KV.MESH_AGENTS.writer", true}, {"_INBOX_reader_" + i + ".x", true},
		{"mesh.feed.agents.reader", true}, {"legacy.x", true},
		{"mesh.call.*.read.logs read.logs", false}, {"mesh.call.*.read.logs", false}, {"mesh.call.*.read.logs other", false}, {"mesh.call.writer.read.logs read.logs", false},
		{"mesh.call.> read.logs", false}, {"mesh.ask.*.reader.read.logs read.logs", false}, {"mesh.ask.*.*.read.logs read.logs", false}, {"mesh.feed.>", false},
		{"mesh.feed.agents.*", false}, {"mesh.>", false}, {">", false}, {"mesh.reply.*.reader." + i + ".>", false}, {"mesh.reply.>", false}, {"_INBOX.>", false},
		{"_INBOX_reader_" + i + ".>", false}, {"_INBOX_reader_" + i + ".a.b", false}, {"$SYS.>", false}, {"$SYS.REQ.USER.AUTH sealmesh-callout", false},
		{"mesh.note.*.reader.*", false}, {"mesh.note.*.*.*", false}, {"legacy.x", false}, {"legacy.x group", false}, {"legacy.y", false},
	} {
		_, want := grant.Allows(c.subj, c.publish)
		if got := serverPermits(t, nc, c.subj, c.publish); got != want {
			t.Errorf("%q, publish %v: the server says %v, the grant %v", c.subj, c.publish, got, want)
		}
	}
}

func serverPermits(t *testing.T, nc *nats.Conn, subj string, publish bool) bool {
	t.Helper()
	subj, queue, _ := strings.Cut(subj, " ")
	text := `Subscription to "` + subj + `"`
	var err error
	switch {
	case publish:
		text = `Publish to "` + subj + `"`
		err = nc.Publish(subj, nil)
	default:
		var sub *nats.Subscription
		if queue != "" {
			text += ` using queue "` + queue + `"`
			sub, err = nc.QueueSubscribeSync(subj, queue)
		} else {
			sub, err = nc.SubscribeSync(subj)
		}
		if err == nil {
			defer sub.Unsubscribe()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	// The server answers in order, so a violation is known before the flush is.
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	err = nc.LastError()
	return err == nil || !strings.HasSuffix(strings.TrimRight(err.Error(), "'\r\n "), text)
}

// refused checks what every refused client sees, and nothing else.
func refused(t *testing.T, nc *nats.Conn, err error) {
	t.Helper()
	if err == nil {
		nc.Close()
		t.Error("the connection was admitted")
		return
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("got %v, want %v", err, nats.ErrAuthorization)
	}
}

// Every way to be refused that a real connection can produce.
func TestRefusals(t *testing.T) {
	m := newMesh(t)
	svc := m.start(t, nil)
	readerKey, writerKey, stranger := user(t), user(t), user(t)
	admission := func(a agentid.ID) authcallout.Admission {
		return authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, a, time.Hour, "read:logs")}}
	}
	m.registry.add(reader, public(t, readerKey), admission(reader))
	m.registry.add(writer, public(t, writerKey), admission(writer))
	bare, thief, late := agentid.Require("bare"), agentid.Require("thief"), agentid.Require("late")
	bareKey, thiefKey, lateKey := user(t), user(t), user(t)
	m.registry.add(bare, public(t, bareKey), authcallout.Admission{})
	m.registry.add(thief, public(t, thiefKey), admission(reader))
	m.registry.add(late, public(t, lateKey), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, late, time.Second, "read:logs")}})

	readerCert := m.agents.sign(t, "reader", nil)
	agentURI := func(id string) *url.URL { return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/agent/" + id} }
	signed := func(kp nkeys.KeyPair, form func(nonce, sig []byte) []byte) nats.Option {
		return nats.Nkey(public(t, kp), func(nonce []byte) ([]byte, error) {
			sig, err := kp.Sign(nonce)
			return form(nonce, sig), err
		})
	}
	for name, c := range map[string]struct {
		cert   tls.Certificate
		opts   []nats.Option
		want   denial.Reason
		proved bool
	}{
		"no credentials":        {readerCert, nil, denial.NoKey, false},
		"token alone":           {readerCert, []nats.Option{nats.Token("v1:" + strings.Repeat("A", 43))}, denial.NoKey, false},
		"user and password":     {readerCert, []nats.Option{nats.UserInfo("reader", "x")}, denial.ForeignCredentials, false},
		"nkey with a password":  {readerCert, []nats.Option{nkey(t, readerKey), nats.UserInfo("", "x")}, denial.ForeignCredentials, false},
		"secret as token":       {readerCert, []nats.Option{nkey(t, readerKey), nats.Token("hunter2")}, denial.ForeignCredentials, false},
		"signed by another key": {readerCert, []nats.Option{nats.Nkey(public(t, readerKey), stranger.Sign)}, denial.BadNonceSignature, false},
		"another nonce": {readerCert, []nats.Option{nats.Nkey(public(t, readerKey), func([]byte) ([]byte, error) {
			return readerKey.Sign([]byte("AAAAAAAAAAAAAAA"))
		})}, denial.BadNonceSignature, false},
		"flipped bit":     {readerCert, []nats.Option{signed(readerKey, func(_, sig []byte) []byte { sig[5] ^= 1; return sig })}, denial.BadNonceSignature, false},
		"short signature": {readerCert, []nats.Option{signed(readerKey, func(_, sig []byte) []byte { return sig[:63] })}, denial.BadNonceSignature, false},
		"long signature":  {readerCert, []nats.Option{signed(readerKey, func(_, sig []byte) []byte { return append(sig, 0) })}, denial.BadNonceSignature, false},
		"empty signature": {readerCert, []nats.Option{signed(readerKey, func(_, _ []byte) []byte { return nil })}, denial.BadNonceSignature, false},
		"account key":     {readerCert, []nats.Option{nats.Nkey(public(t, m.issuer), m.issuer.Sign)}, denial.NoKey, false},

		"key of one, certificate of another": {readerCert, []nats.Option{nkey(t, writerKey)}, denial.IdentityMismatch, true},
		"unlisted key":                       {readerCert, []nats.Option{nkey(t, stranger)}, denial.UnlistedKey, true},
		"unlisted agent":                     {m.agents.sign(t, "nobody", nil), []nats.Option{nkey(t, stranger)}, denial.UnlistedAgent, true},
		"chain of another":                   {m.agents.sign(t, "thief", nil), []nats.Option{nkey(t, thiefKey)}, denial.NotHolder, true},
		"chain about to end":                 {m.agents.sign(t, "late", nil), []nats.Option{nkey(t, lateKey)}, denial.TokenExpired, true},

		"infra certificate": {m.infra.sign(t, "reader", nil), []nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"CN only": {m.agents.sign(t, "", func(c *x509.Certificate) { c.Subject.CommonName = "reader" }),
			[]nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"DNS name": {m.agents.sign(t, "", func(c *x509.Certificate) { c.DNSNames = []string{"reader"} }),
			[]nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"two URI SANs": {m.agents.sign(t, "reader", func(c *x509.Certificate) { c.URIs = append(c.URIs, agentURI("writer")) }),
			[]nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"same URI twice": {m.agents.sign(t, "reader", func(c *x509.Certificate) { c.URIs = append(c.URIs, agentURI("reader")) }),
			[]nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"other trust domain": {m.agents.sign(t, "reader", func(c *x509.Certificate) { c.URIs[0].Host = "mesh.example" }),
			[]nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"service identity": {m.agents.sign(t, "", func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain, Path: "/sealmesh/server"}}
		}), []nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
		"reserved name": {m.agents.sign(t, "control", nil), []nats.Option{nkey(t, readerKey)}, denial.BadCertificate, true},
	} {
		t.Run(name, func(t *testing.T) {
			nc, err := m.connect(c.cert, c.opts...)
			refused(t, nc, err)
			d := m.decision(t)
			if d.Reason != c.want || d.Admitted() || d.Proved != c.proved {
				t.Errorf("got %q (%s), proved %v, want %q, proved %v", d.Reason, d.Detail, d.Proved, c.want, c.proved)
			}
			if len(d.ID) != 10 || !strings.HasPrefix(d.ID, "d-") {
				t.Errorf("got denial ID %q", d.ID)
			}
			if strings.Contains(d.Detail, "hunter2") {
				t.Errorf("the detail quotes a secret: %s", d.Detail)
			}
			// A denial is kept for who proved the key, and for nobody else.
			last, ok := svc.LastDenial(d.Key)
			if kept := ok && last.ID == d.ID; kept != c.proved {
				t.Errorf("the denial is kept under the key: got %v, want %v", kept, c.proved)
			}
			if n := len(m.registry.opened()); n != 0 {
				t.Errorf("got %d sessions, want none", n)
			}
		})
	}

	t.Run("foreign CA", func(t *testing.T) {
		nc, err := m.connect(newCA(t, "foreign").sign(t, "reader", nil), nkey(t, readerKey))
		if err == nil {
			nc.Close()
			t.Fatal("the connection was admitted")
		}
		if errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("got %v, want the handshake to fail", err)
		}
		select {
		case d := <-m.decisions:
			t.Errorf("got decision %+v, want none", d)
		default:
		}
	})

	// Without any right it can receive a delegation, and do nothing else.
	t.Run("agent without rights", func(t *testing.T) {
		nc, err := m.connect(m.agents.sign(t, "bare", nil), nkey(t, bareKey))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if d := m.decision(t); !d.Admitted() {
			t.Fatalf("got %+v, want an admission", d)
		}
		sub, err := nc.SubscribeSync("mesh.note.*.bare.*")
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish("mesh.call.bare.read.logs", nil); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		if !sub.IsValid() {
			t.Error("the agent cannot receive notes")
		}
		if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("got %v for a call without a right, want a permission violation", err)
		}
	})

	t.Run("admitted after a denial", func(t *testing.T) {
		nc, err := m.connect(m.agents.sign(t, "nobody", nil), nkey(t, readerKey))
		refused(t, nc, err)
		if _, ok := svc.LastDenial(public(t, readerKey)); !ok {
			t.Error("the denial was not kept")
		}
		if nc, err = m.connect(readerCert, nkey(t, readerKey)); err != nil {
			t.Fatal(err)
		}
		nc.Close()
		if d, ok := svc.LastDenial(public(t, readerKey)); ok {
			t.Errorf("got %+v after an admission, want nothing", d)
		}
	})
}

func TestWebsocketAgentIsAdmitted(t *testing.T) {
	m := newMesh(t)
	m.start(t, nil)
	key := user(t)
	m.registry.add(reader, public(t, key), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, reader, time.Hour, "read:logs")}})
	nc, err := m.connectTo("wss://"+m.srv.WebsocketURL()[len("wss://"):], m.agents.sign(t, "reader", nil), nkey(t, key))
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if d := m.decision(t); !d.Admitted() {
		t.Errorf("got %+v, want an admission", d)
	}
}

// The unsigned refusal is one to the server as well, and not a time-out.
func TestThrottledConnectIsRefusedAtOnce(t *testing.T) {
	m := newMesh(t)
	m.start(t, nil)
	cert, key, other := m.agents.sign(t, "reader", nil), user(t), user(t)
	for range 4 * authcallout.FailureBurst {
		begin := time.Now()
		nc, err := m.connect(cert, nats.Nkey(public(t, key), other.Sign))
		refused(t, nc, err)
		d := m.decision(t)
		if d.Reason == denial.BadNonceSignature {
			continue
		}
		if d.Reason != denial.RateLimited || d.Proved {
			t.Errorf("got %+v, want %s", d, denial.RateLimited)
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("the refusal took %s, as long as the server waits", took)
		}
		return
	}
	t.Error("no connect was throttled")
}

// What a refused client's server logs and publishes is the reference alone.
func TestDenialTellsTheServerOnlyItsID(t *testing.T) {
	m := newMesh(t)
	m.start(t, nil)
	events, err := m.conn.SubscribeSync("$SYS.ACCOUNT.CLIENT.AUTH.ERR")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	nc, err := m.connect(m.agents.sign(t, "nobody", nil), nkey(t, user(t)))
	refused(t, nc, err)
	d := m.decision(t)
	msg, err := events.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	text := string(msg.Data)
	if !strings.Contains(text, "denied "+d.ID) || strings.Contains(text, string(d.Reason)) || strings.Contains(text, "registry") {
		t.Errorf("got event %s, want denial %s and nothing of its reason", text, d.ID)
	}
}

// An agent that is cut between the decision and the signature stays out, and its
// session was written, so that the cutter finds it.
func TestEpochRace(t *testing.T) {
	m := newMesh(t)
	m.start(t, nil)
	key := user(t)
	m.registry.add(reader, public(t, key), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, reader, time.Hour, "read:logs")}})
	m.registry.open = func(context.Context) error { return denial.New(denial.EpochRaced, "epoch rose to 2.1") }
	nc, err := m.connect(m.agents.sign(t, "reader", nil), nkey(t, key))
	refused(t, nc, err)
	if d := m.decision(t); d.Reason != denial.EpochRaced || d.Admitted() {
		t.Errorf("got %+v, want %s", d, denial.EpochRaced)
	}
	if len(m.registry.opened()) != 1 {
		t.Error("the session was not written before the record was read again")
	}
}

// A broken part denies; it neither admits nor takes the service down.
func TestBrokenRegistryDenies(t *testing.T) {
	m := newMesh(t)
	key := user(t)
	cert := m.agents.sign(t, "reader", nil)
	m.registry.add(reader, public(t, key), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, reader, time.Hour, "read:logs")}})
	for name, c := range map[string]struct {
		admit, open func(context.Context) error
		want        denial.Reason
	}{
		"admit panics": {func(context.Context) error { panic("secret") }, nil, denial.Internal},
		"open panics":  {nil, func(context.Context) error { panic("secret") }, denial.Internal},
		"admit fails":  {func(context.Context) error { return errors.New("no responders") }, nil, denial.RegistryUnavailable},
		"open fails":   {nil, func(context.Context) error { return errors.New("no responders") }, denial.RegistryUnavailable},
	} {
		m.registry.admit, m.registry.open = c.admit, c.open
		s := m.start(t, nil)
		nc, err := m.connect(cert, nkey(t, key))
		refused(t, nc, err)
		if d := m.decision(t); d.Reason != c.want || d.Admitted() {
			t.Errorf("%s: got %+v, want %s", name, d, c.want)
		}
		// It is not the client's fault, and the worker lives.
		s.Close()
		m.registry.admit, m.registry.open = nil, nil
		s = m.start(t, nil)
		if nc, err = m.connect(cert, nkey(t, key)); err != nil {
			t.Fatalf("%s, after it: %v", name, err)
		}
		nc.Close()
		m.decision(t)
		s.Close()
	}
}

// A panic in the middle leaves the same worker able to serve.
func TestWorkerSurvivesPanics(t *testing.T) {
	m := newMesh(t)
	key := user(t)
	cert := m.agents.sign(t, "reader", nil)
	m.registry.add(reader, public(t, key), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, reader, time.Hour, "read:logs")}})
	calls := make(chan struct{}, 1)
	calls <- struct{}{}
	m.registry.admit = func(context.Context) error {
		select {
		case <-calls:
			panic("once")
		default:
			return nil
		}
	}
	m.start(t, func(c *authcallout.Config) {
		c.Workers = 1
		c.Audit = func(d authcallout.Decision) { m.decisions <- d; panic("audit") }
	})
	nc, err := m.connect(cert, nkey(t, key))
	refused(t, nc, err)
	if nc, err = m.connect(cert, nkey(t, key)); err != nil {
		t.Fatalf("the only worker is gone: %v", err)
	}
	nc.Close()
}

// Close answers what it took, takes nothing more and leaves nothing running.
func TestCloseDrains(t *testing.T) {
	m := newMesh(t)
	key := user(t)
	cert := m.agents.sign(t, "reader", nil)
	m.registry.add(reader, public(t, key), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, reader, time.Hour, "read:logs")}})
	entered, release := make(chan struct{}), make(chan struct{})
	m.registry.admit = func(context.Context) error { close(entered); <-release; return nil }

	m.conn.Request("nobody", nil, time.Second) // starts what the connection keeps for replies
	before := goleak.IgnoreCurrent()
	s, err := authcallout.Start(m.config())
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan error, 1)
	go func() {
		nc, err := m.connect(cert, nkey(t, key))
		if err == nil {
			nc.Close()
		}
		connected <- err
	}()
	<-entered
	closed := make(chan struct{})
	go func() { s.Close(); s.Close(); close(closed) }()
	select {
	case <-closed:
		t.Error("Close returned while a request was running")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-connected; err != nil {
		t.Errorf("the request that was taken: %v", err)
	}
	<-closed
	// The connection is the caller's: it is still open, and nobody listens.
	if _, err := m.conn.Request("nobody", nil, time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("got %v on the caller's connection, want it open", err)
	}
	m.registry.admit = nil
	goleak.VerifyNone(t, before)
}

// A registry that never answers does not keep Close waiting for ever.
func TestCloseTakesTheContextAway(t *testing.T) {
	m := newMesh(t)
	key := user(t)
	cert := m.agents.sign(t, "reader", nil)
	entered := make(chan struct{})
	m.registry.admit = func(ctx context.Context) error { close(entered); <-ctx.Done(); return ctx.Err() }
	s := m.start(t, nil)
	s.SetCloseGrace(time.Millisecond)
	connected := make(chan error, 1)
	go func() {
		_, err := m.connect(cert, nkey(t, key))
		connected <- err
	}()
	<-entered
	s.Close()
	refused(t, nil, <-connected)
	if d := m.decision(t); d.Reason != denial.RegistryUnavailable {
		t.Errorf("got %+v, want %s", d, denial.RegistryUnavailable)
	}
}

func TestCloseAfterTheConnection(t *testing.T) {
	m := newMesh(t)
	before := goleak.IgnoreCurrent()
	s := m.start(t, nil)
	m.conn.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	goleak.VerifyNone(t, before)
}

// Two replicas share the work: no request is decided twice.
func TestReplicasShareAQueueGroup(t *testing.T) {
	m := newMesh(t)
	m.start(t, nil)
	m.start(t, nil)
	key := user(t)
	cert := m.agents.sign(t, "reader", nil)
	m.registry.add(reader, public(t, key), authcallout.Admission{Chains: []*capability.Chain{m.authority.chain(t, reader, time.Hour, "read:logs")}})
	const connects = 8
	for range connects {
		nc, err := m.connect(cert, nkey(t, key))
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
		m.decision(t)
	}
	if n := len(m.registry.opened()); n != connects {
		t.Errorf("got %d sessions for %d connects", n, connects)
	}
}

// plainServer is a nats-server on which anybody may publish to the callout's
// subject.
func plainServer(t *testing.T) *nats.Conn {
	t.Helper()
	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server did not start")
	}
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// The reply field does not aim the control plane: answers go to servers' inboxes.
func TestAnswersGoToServersOnly(t *testing.T) {
	d := newDoor(t)
	d.cfg.Conn = plainServer(t)
	d.cfg.Workers = 1 // answers come in order
	d.cfg.Audit = nil
	s, err := authcallout.Start(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all, err := d.cfg.Conn.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	const inbox = "$SYS._INBOX.abcdefgh.x"
	for _, reply := range []string{"$KV.MESH_AGENTS.reader", "_INBOX.x", "", inbox} {
		msg := &nats.Msg{Subject: "$SYS.REQ.USER.AUTH", Reply: reply, Data: []byte("x")}
		if err := d.cfg.Conn.PublishMsg(msg); err != nil {
			t.Fatal(err)
		}
	}
	for {
		msg, err := all.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatalf("the server's request got no answer: %v", err)
		}
		if msg.Subject == "$SYS.REQ.USER.AUTH" {
			continue
		}
		if msg.Subject != inbox || len(msg.Data) != 0 {
			t.Errorf("got an answer at %q with %d bytes, want only the empty one at %q", msg.Subject, len(msg.Data), inbox)
		}
		break
	}
}

// What does not fit into the queue is refused at once, unread, and reported with
// its number instead of one by one.
func TestFullQueueSheds(t *testing.T) {
	d := newDoor(t)
	d.cfg.Conn = plainServer(t)
	d.cfg.Workers = 1
	entered, release := make(chan struct{}, 1000), make(chan struct{})
	shed := make(chan authcallout.Decision, 1000)
	d.cfg.Audit = func(x authcallout.Decision) {
		if x.Reason == denial.Overloaded {
			shed <- x
			return
		}
		entered <- struct{}{}
		<-release
	}
	s, err := authcallout.Start(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	answers, err := d.cfg.Conn.SubscribeSync("$SYS._INBOX.abcdefgh.*")
	if err != nil {
		t.Fatal(err)
	}
	send := func(n int) {
		for range n {
			if err := d.cfg.Conn.PublishRequest("$SYS.REQ.USER.AUTH", "$SYS._INBOX.abcdefgh.x", []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	send(1)
	<-entered // the worker is busy
	const over = 5
	send(authcallout.Waiting + over)
	for range over {
		msg, err := answers.NextMsg(5 * time.Second)
		if err != nil || len(msg.Data) != 0 {
			t.Fatalf("got %v, %v, want an empty answer at once", msg, err)
		}
	}
	if n := len(shed); n != 1 {
		t.Errorf("got %d reports, want 1 within a second", n)
	}
	free()
	for range authcallout.Waiting + 1 {
		if _, err := answers.NextMsg(5 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	m := newMesh(t)
	for name, edit := range map[string]func(*authcallout.Config){
		"no connection":    func(c *authcallout.Config) { c.Conn = nil },
		"no issuer":        func(c *authcallout.Config) { c.Issuers = nil },
		"user key issuer":  func(c *authcallout.Config) { c.Issuers = keys(user(t)) },
		"no xkey":          func(c *authcallout.Config) { c.XKeys = nil },
		"xkey of no curve": func(c *authcallout.Config) { c.XKeys = keys(user(t)) },
		"no account":       func(c *authcallout.Config) { c.Account = "" },
		"no space":         func(c *authcallout.Config) { c.Space = subject.Space{} },
		"no trust domain":  func(c *authcallout.Config) { c.TrustDomain = "" },
		"bad trust domain": func(c *authcallout.Config) { c.TrustDomain = "Mesh" },
		"no roots":         func(c *authcallout.Config) { c.Roots = nil },
		"nil pool":         func(c *authcallout.Config) { c.Roots = func() *x509.CertPool { return nil } },
		"empty pool":       func(c *authcallout.Config) { c.Roots = x509.NewCertPool },
		"no registry":      func(c *authcallout.Config) { c.Registry = nil },
		"no clock":         func(c *authcallout.Config) { c.Clock = nil },
		"negative workers": func(c *authcallout.Config) { c.Workers = -1 },
		"negative session": func(c *authcallout.Config) { c.SessionTTL = -1 },
	} {
		cfg := m.config()
		edit(&cfg)
		if s, err := authcallout.Start(cfg); err == nil {
			s.Close()
			t.Errorf("%s: started", name)
		} else if !strings.HasPrefix(err.Error(), "authcallout: ") {
			t.Errorf("%s: got %q, want the package's prefix", name, err)
		}
	}
	before := goleak.IgnoreCurrent()
	m.conn.Close()
	if s, err := authcallout.Start(m.config()); err == nil {
		s.Close()
		t.Error("closed connection: started")
	}
	goleak.VerifyNone(t, before)
}

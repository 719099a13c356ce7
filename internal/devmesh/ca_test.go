package devmesh_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/devmesh"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// caWorld is a mesh of one node with two agents, one of which calls the other all the
// time.
type caWorld struct {
	*testing.T
	ctx           context.Context
	m             *devmesh.Mesh
	asker, reader string // directories

	calls, failed atomic.Int64
	again         atomic.Int64 // calls made once more after a reload
	stop          context.CancelFunc
	traffic       sync.WaitGroup
}

func newCAWorld(t *testing.T) *caWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	t.Cleanup(cancel)
	log := zerolog.Nop()
	if os.Getenv("CA_LOG") != "" {
		log = zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Logger().Level(zerolog.InfoLevel)
	}
	m, err := devmesh.Start(ctx, t.TempDir()+"/mesh", devmesh.Options{Log: log, ClientLog: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &caWorld{T: t, ctx: ctx, m: m}
	scope := []capability.Scope{capability.RequireScope("read:logs")}
	if w.reader, err = m.Add(ctx, registry.NewAgent{Agent: agentid.Require("reader"), Rights: registry.Rights{Handle: scope}}); err != nil {
		t.Fatal(err)
	}
	if w.asker, err = m.Add(ctx, registry.NewAgent{Agent: agentid.Require("asker"), Rights: registry.Rights{Call: scope}}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *caWorld) connect(dir string) *meshclient.Mesh {
	w.Helper()
	a, err := w.m.Connect(w.ctx, dir)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { a.Close() }) //nolint:errcheck // closed before the mesh, one way or the other
	return a
}

// start begins with the traffic: one call after another until halt.
func (w *caWorld) start() {
	w.Helper()
	reader, asker := w.connect(w.reader), w.connect(w.asker)
	if err := reader.Handle("read:logs", func(context.Context, *meshclient.Request) ([]byte, error) { return []byte("ok"), nil }); err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	w.stop = cancel
	w.traffic.Go(func() {
		for ctx.Err() == nil {
			call, done := context.WithTimeout(ctx, 30*time.Second)
			_, err := asker.Call(call, "read:logs", nil)
			for (errors.Is(err, meshclient.ErrNobody) || errors.Is(err, denial.ReplayUnavailable)) && call.Err() == nil {
				// A reload of their one server cut both. The caller was back first, or
				// the other one had not reached the store of used nonces yet when a
				// call came that had been sent twice, which the client does not make
				// again by itself: this one may be made as often as one likes.
				w.again.Add(1)
				time.Sleep(10 * time.Millisecond)
				_, err = asker.Call(call, "read:logs", nil)
			}
			done()
			w.calls.Add(1)
			if err != nil && ctx.Err() == nil {
				w.failed.Add(1)
				w.Logf("call failed: %v", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	w.Cleanup(w.halt)
}

func (w *caWorld) halt() {
	w.stop()
	w.traffic.Wait()
}

// until waits for a state of the CAs.
func (w *caWorld) until(what string, ok func(wire.CAStatus) bool) {
	w.Helper()
	var s wire.CAStatus
	var err error
	for w.ctx.Err() == nil {
		s = wire.CAStatus{}
		// What is asked while a server is reloaded may never be answered.
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		err = w.m.Operate(ctx, wire.AdminRequest{Op: wire.OpCA}, &s)
		cancel()
		if err == nil && ok(s) {
			return
		}
		select {
		case <-w.ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	w.Fatalf("never came to be: %s; got %+v, rotation %+v, %v", what, s, s.Rotation, err)
}

func (w *caWorld) rotate(role pki.Role, leaked bool) {
	w.Helper()
	if _, err := w.m.Dir.RotateCA(role, leaked, time.Now()); err != nil {
		w.Fatal(err)
	}
}

// hurry has all instances renew now, as they would within half a day.
func (w *caWorld) hurry() {
	w.Helper()
	for {
		// The answer may be lost while a server is reloaded.
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		err := w.m.Operate(ctx, wire.AdminRequest{Op: wire.OpRotate, Over: time.Second}, nil)
		cancel()
		if err == nil {
			return
		}
		if w.ctx.Err() != nil || !errors.Is(err, meshclient.ErrUnavailable) {
			w.Fatal(err)
		}
	}
}

// roots are those that an agent's directory verifies servers with.
func (w *caWorld) roots(dir string) []string {
	w.Helper()
	d, err := agentdir.Open(dir)
	if err != nil {
		w.Fatal(err)
	}
	text, err := pki.ReadFile(d.File(agentdir.CAFile))
	if err != nil {
		w.Fatal(err)
	}
	certs, err := pki.ParseCertificates(text)
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, c := range certs {
		out = append(out, pki.RootHash(c))
	}
	return out
}

// Both CAs are replaced under running agents: no call fails, nobody does anything on
// their hosts, and in the end nothing takes or shows what is of an old root.
func TestRotateCAs(t *testing.T) {
	t.Parallel()
	w := newCAWorld(t)
	w.start()
	version := uint64(1)
	for _, role := range []pki.Role{pki.Agent, pki.Infra} {
		before := map[pki.Role]string{}
		w.until("nothing under way", func(s wire.CAStatus) bool {
			for _, ca := range s.CAs {
				before[pki.Role(ca.Role)] = ca.Roots[0].Hash
			}
			return s.Rotation == nil && s.Trust == version
		})
		w.rotate(role, false)
		if _, err := w.m.Dir.RotateCA(role, false, time.Now()); err == nil || !strings.Contains(err.Error(), "under way") {
			t.Errorf("a second rotation: got %v", err)
		}
		w.until("overlap", func(s wire.CAStatus) bool {
			return s.Rotation != nil && s.Trust == version+1 && s.Rotation.Old == before[role] && s.Rotation.Left > 0
		})
		w.hurry()
		w.until("old root dropped", func(s wire.CAStatus) bool {
			for _, ca := range s.CAs {
				if pki.Role(ca.Role) == role && (len(ca.Roots) != 1 || ca.Roots[0].Hash == before[role]) {
					return false
				}
			}
			return s.Rotation == nil && s.Trust == version+2
		})
		version += 2
	}
	w.halt()
	if n := w.failed.Load(); n > 0 || w.calls.Load() == 0 {
		t.Errorf("%d of %d calls failed", n, w.calls.Load())
	}
	infra, err := w.m.Dir.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{w.asker, w.reader} {
		for len(w.roots(dir)) != 1 && w.ctx.Err() == nil { // the last document may be on its way
			time.Sleep(20 * time.Millisecond)
		}
		if got := w.roots(dir); len(got) != 1 || got[0] != infra.RootHash() {
			t.Errorf("%s trusts %v, want %s alone", dir, got, infra.RootHash())
		}
	}
	t.Logf("%d calls, %d of them again", w.calls.Load(), w.again.Load())
}

// A CA whose key leaked counts no more at once. Whoever has only a certificate of it is
// refused; honest agents come back without anybody's hand, whether they were connected
// or not.
func TestLeakedCAs(t *testing.T) {
	t.Parallel()
	w := newCAWorld(t)
	w.start()
	leaked, err := w.m.Dir.AgentCA()
	if err != nil {
		t.Fatal(err)
	}
	// It is away while all this happens.
	away, err := w.m.Instance(w.ctx, agentid.Require("asker"))
	if err != nil {
		t.Fatal(err)
	}
	forged := forge(t, leaked, "reader", w.m.Dir.Config.TrustDomain)
	if err := w.knock(forged); err != nil {
		t.Fatalf("before it was known that the CA leaked: %v", err)
	}
	w.rotate(pki.Agent, true)
	w.until("old root gone", func(s wire.CAStatus) bool { return s.Trust == 2 })
	for w.knock(forged) == nil { // until the server has read its files
		if w.ctx.Err() != nil {
			t.Fatal("a certificate of the CA that leaked is still let in")
		}
		time.Sleep(50 * time.Millisecond)
	}
	// Those that run have new certificates, and one that did not comes in.
	w.call(w.connect(away))

	// One that is away knows of no server's root that counts afterwards.
	late, err := w.m.Instance(w.ctx, agentid.Require("asker"))
	if err != nil {
		t.Fatal(err)
	}
	_, old, err := w.m.Dir.Trust()
	if err != nil {
		t.Fatal(err)
	}
	oldText, err := os.ReadFile(filepath.Join(w.m.Dir.Dir, "server", "trust.jws"))
	if err != nil {
		t.Fatal(err)
	}
	w.rotate(pki.Infra, true)
	w.until("old root of servers gone", func(s wire.CAStatus) bool { return s.Trust == old.Version+1 })
	infra, err := w.m.Dir.InfraCA()
	if err != nil {
		t.Fatal(err)
	}
	if got := w.roots(late); slices.Contains(got, infra.RootHash()) {
		t.Fatalf("it knows the new root already: %v", got)
	}
	w.call(w.connect(late))
	if got := w.roots(late); len(got) != 1 || got[0] != infra.RootHash() {
		t.Errorf("got %v, want the new root alone", got)
	}
	w.forgeTrust(late, string(oldText), infra.RootHash())
}

// forgeTrust has a broker serve trust documents that no agent may take.
func (w *caWorld) forgeTrust(dir, old, want string) {
	w.Helper()
	var refused atomic.Int64
	log := zerolog.New(io.Discard).Hook(zerolog.HookFunc(func(_ *zerolog.Event, _ zerolog.Level, text string) {
		if text == "trust document refused" {
			refused.Add(1)
		}
	}))
	a, err := w.m.Connect(w.ctx, dir, meshclient.Log(log))
	if err != nil {
		w.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // nothing is under way
	nc, err := devmesh.AsService(w.m.Dir, w.m.Dir.Config.NATS.URLs[0])
	if err != nil {
		w.Fatal(err)
	}
	defer nc.Close()
	records, err := w.m.Dir.RecordsKey()
	if err != nil {
		w.Fatal(err)
	}
	stranger, err := nkeys.CreateAccount()
	if err != nil {
		w.Fatal(err)
	}
	root, err := pki.NewCA(pki.Infra, w.m.Dir.Config.TrustDomain, time.Now())
	if err != nil {
		w.Fatal(err)
	}
	documents := map[string]string{"one from before a root leaked": old, "one that is no document": strings.Repeat("x", 1<<16)}
	for name, key := range map[string]nkeys.KeyPair{"one that the records key signed": records, "one of another mesh": stranger} {
		if documents[name], err = capability.SignTrust(key, w.m.Dir.Config.TrustDomain, 1<<40, []*x509.Certificate{root.Certificate()}, nil, time.Now()); err != nil {
			w.Fatal(err)
		}
	}
	for name, text := range documents {
		before := refused.Load()
		if err := nc.Publish(w.m.Dir.Config.Prefix+".feed.agents."+registry.TrustKey, []byte(text)); err != nil {
			w.Fatal(err)
		}
		for refused.Load() == before {
			if w.ctx.Err() != nil {
				w.Fatalf("%s: not refused", name)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if got := w.roots(dir); len(got) != 1 || got[0] != want {
			w.Errorf("%s: the agent trusts %v now", name, got)
		}
	}
}

// call makes one call, which may have to wait for the other side to be back.
func (w *caWorld) call(a *meshclient.Mesh) {
	w.Helper()
	for {
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		_, err := a.Call(ctx, "read:logs", nil)
		cancel()
		if err == nil {
			return
		}
		if !errors.Is(err, meshclient.ErrUnavailable) || w.ctx.Err() != nil {
			w.Fatalf("the honest agent is not back: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// forge makes a certificate of an agent with a CA's own key.
func forge(t *testing.T, ca *pki.CA, agent, td string) tls.Certificate {
	t.Helper()
	id := agentid.Require(agent)
	key, err := pki.NewTLSKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := pki.CSR(key, id, td)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.SignAgent(t.Context(), csr, id, 0, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	out := tls.Certificate{PrivateKey: key}
	for _, c := range certs {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out
}

// knock returns nil where the TLS of the nats-server takes a client's certificate.
func (w *caWorld) knock(cert tls.Certificate) error {
	w.Helper()
	nc, err := net.DialTimeout("tcp", strings.TrimPrefix(w.m.Dir.Config.NATS.URLs[0], "tls://"), 5*time.Second)
	if err != nil {
		return nil //nolint:nilerr // it is being reloaded: nothing is known
	}
	defer nc.Close()                                 //nolint:errcheck // nothing was said
	nc.SetDeadline(time.Now().Add(10 * time.Second)) //nolint:errcheck // it fails later then
	for b := make([]byte, 1); b[0] != '\n'; {        // INFO
		if _, err := nc.Read(b); err != nil {
			return nil //nolint:nilerr // likewise
		}
	}
	c := tls.Client(nc, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}})
	if err := c.HandshakeContext(w.ctx); err != nil {
		return err
	}
	// What the server thinks of the certificate comes after the handshake.
	if _, err := c.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 64))
	var alert tls.AlertError
	if errors.As(err, &alert) || err != nil && strings.Contains(err.Error(), "remote error: tls:") {
		return err
	}
	return nil
}

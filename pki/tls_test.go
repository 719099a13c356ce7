package pki_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/pki"
)

// handshake makes one connection over loopback, sends a byte each way (in TLS
// 1.3 a client learns only then that it was refused) and returns what the two
// sides saw.
func handshake(t *testing.T, server, client *tls.Config) (atServer, atClient tls.ConnectionState, err error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	served := make(chan error, 1)
	go func() {
		raw, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer func() { _ = raw.Close() }()
		_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
		c := tls.Server(raw, server)
		if err := c.Handshake(); err != nil {
			served <- err
			return
		}
		atServer = c.ConnectionState()
		b := make([]byte, 1)
		if _, err = c.Read(b); err == nil {
			_, err = c.Write(b)
		}
		served <- err
	}()
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	c, clientErr := tls.DialWithDialer(dialer, "tcp", l.Addr().String(), client)
	if clientErr == nil {
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		b := []byte{1}
		if _, clientErr = c.Write(b); clientErr == nil {
			_, clientErr = c.Read(b)
		}
		atClient = c.ConnectionState()
		_ = c.Close()
	}
	serverErr := <-served
	if clientErr != nil {
		return atServer, atClient, clientErr
	}
	return atServer, atClient, serverErr
}

// world is two CAs and the files of one server and one agent.
type world struct {
	agents, infra *pki.CA
	server, agent files
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{agents: newCA(t, pki.Agent), infra: newCA(t, pki.Infra)}
	key := newKey(t)
	w.server = writeFiles(t, key, signServer(t, w.infra, key, "localhost", "127.0.0.1"), w.agents.Roots())
	key = newKey(t)
	w.agent = writeFiles(t, key, signAgent(t, w.agents, key, "reader"), w.infra.Roots())
	return w
}

func TestMutualHandshake(t *testing.T) {
	w := newWorld(t)
	atServer, atClient, err := handshake(t, w.server.source(t).MutualTLS(), w.agent.source(t).ClientTLS("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	if atServer.Version != tls.VersionTLS13 || atClient.DidResume {
		t.Errorf("got version %#x, resumed %v", atServer.Version, atClient.DidResume)
	}
	got, err := pki.VerifyAgent(atServer.PeerCertificates, pool(t, w.agents.Roots()), domain, epoch)
	if err != nil || got.ID.String() != "reader" {
		t.Errorf("the server sees agent %q, %v", got.ID, err)
	}
	if len(atServer.VerifiedChains) == 0 {
		t.Error("no verified chain, which is all that nats-server hands to the callout")
	}
	// With no name configured, the dialler's host counts, also if it is an
	// address.
	if _, _, err := handshake(t, w.server.source(t).MutualTLS(), w.agent.source(t).ClientTLS("")); err != nil {
		t.Errorf("by address: %v", err)
	}
}

func TestServerTLSAsksForNoCertificate(t *testing.T) {
	w := newWorld(t)
	atServer, _, err := handshake(t, w.server.source(t).ServerTLS(), w.agent.source(t).ClientTLS("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	if len(atServer.PeerCertificates) != 0 {
		t.Error("the server asked for a certificate")
	}
	noCA, err := pki.NewSource(w.server.cert, w.server.key, "", clock)
	if err != nil {
		t.Fatal(err)
	}
	// nil would be the operating system's roots.
	if got := noCA.ClientTLS("localhost").RootCAs; got == nil || !got.Equal(x509.NewCertPool()) || noCA.Roots() == nil {
		t.Error("without a CA file, the pool is not an empty one")
	}
	if _, _, err := handshake(t, noCA.ServerTLS(), w.agent.source(t).ClientTLS("localhost")); err != nil {
		t.Errorf("a server needs no CA file to serve: %v", err)
	}
}

// TestNoResumption: a client that keeps sessions still shows and sees a
// certificate on every connection.
func TestNoResumption(t *testing.T) {
	w := newWorld(t)
	for name, server := range map[string]*tls.Config{"server": w.server.source(t).ServerTLS(), "mutual": w.server.source(t).MutualTLS()} {
		client := w.agent.source(t).ClientTLS("localhost")
		client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		for range 3 {
			if _, c, err := handshake(t, server, client); err != nil || c.DidResume {
				t.Errorf("%s: resumed %v, %v", name, c.DidResume, err)
			}
		}
	}
}

func TestHandshakeRefusals(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	serverKey, agentKey := newKey(t), newKey(t)
	good := func() *tls.Config { return w.agent.source(t).ClientTLS("localhost") }
	serve := func() *tls.Config { return w.server.source(t).MutualTLS() }
	both := append(w.infra.Roots(), w.agents.Roots()...)
	asServer := func(key *pki.Key, chain []byte) *tls.Config {
		return writeFiles(t, key, chain, w.agents.Roots()).source(t).MutualTLS()
	}
	asAgent := func(f files, caFile string, at func() time.Time) *tls.Config {
		s, err := pki.NewSource(f.cert, f.key, caFile, at)
		if err != nil {
			t.Fatal(err)
		}
		return s.ClientTLS("localhost")
	}
	edit := func(c *tls.Config, f func(*tls.Config)) *tls.Config { f(c); return c }
	tests := map[string]struct{ server, client *tls.Config }{
		"client without certificate": {serve(), edit(good(), func(c *tls.Config) { c.GetClientCertificate = nil })},
		"client of other CA":         {serve(), asAgent(other.agent, w.agent.ca, clock)},
		"client of infra CA":         {serve(), asAgent(w.server, w.agent.ca, clock)},
		"server with no CA file": {func() *tls.Config {
			s := must(pki.NewSource(w.server.cert, w.server.key, "", clock))
			return s.MutualTLS()
		}(), good()},
		"client with no CA file":        {serve(), asAgent(w.agent, "", clock)},
		"server of other CA":            {other.server.source(t).ServerTLS(), good()},
		"server with agent certificate": {asServer(agentKey, signAgent(t, w.agents, agentKey, "writer")), good()},
		// Somebody put both roots into the agent's CA file.
		"agent as server, both roots": {
			asServer(agentKey, signAgent(t, w.agents, agentKey, "writer")),
			writeFiles(t, agentKey, signAgent(t, w.agents, agentKey, "writer"), both).source(t).ClientTLS("localhost"),
		},
		"server of another name":  {asServer(serverKey, signServer(t, w.infra, serverKey, "nats.example.com")), good()},
		"server without a name":   {asServer(serverKey, signServer(t, w.infra, serverKey)), good()},
		"client speaks TLS 1.2":   {serve(), edit(good(), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 })},
		"server speaks TLS 1.2":   {edit(w.server.source(t).ServerTLS(), func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 }), good()},
		"client skips verifying":  {serve(), edit(good(), func(c *tls.Config) { c.InsecureSkipVerify = true })},
		"server certificate over": {serve(), asAgent(w.agent, w.agent.ca, func() time.Time { return epoch.Add(pki.DefaultServerTTL + time.Hour) })},
		"client certificate over": {func() *tls.Config {
			s := must(pki.NewSource(w.server.cert, w.server.key, w.server.ca, func() time.Time { return epoch.Add(25 * time.Hour) }))
			return s.MutualTLS()
		}(), good()},
	}
	if _, _, err := handshake(t, serve(), good()); err != nil {
		t.Fatalf("control: %v", err)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, _, err := handshake(t, tt.server, tt.client); err == nil {
				t.Error("connected")
			}
		})
	}
}

// TestHotReload renews both sides' files between two handshakes on the same
// configurations.
func TestHotReload(t *testing.T) {
	w := newWorld(t)
	serverSource, agentSource := w.server.source(t), w.agent.source(t)
	server, client := serverSource.MutualTLS(), agentSource.ClientTLS("localhost")
	s1, c1, err := handshake(t, server, client)
	if err != nil {
		t.Fatal(err)
	}

	serverKey, agentKey := newKey(t), newKey(t)
	w.server.write(t, serverKey, signServer(t, w.infra, serverKey, "localhost"), w.agents.Roots())
	w.agent.write(t, agentKey, signAgent(t, w.agents, agentKey, "reader"), w.infra.Roots())
	s2, c2, err := handshake(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	if s1.PeerCertificates[0].Equal(s2.PeerCertificates[0]) {
		t.Error("the client still shows its old certificate")
	}
	if c1.PeerCertificates[0].Equal(c2.PeerCertificates[0]) {
		t.Error("the server still shows its old certificate")
	}
	if !agentSource.Leaf().Equal(s2.PeerCertificates[0]) || !agentSource.NotAfter().Equal(s2.PeerCertificates[0].NotAfter) {
		t.Error("the source tells of another certificate than it uses")
	}

	// The server stops trusting the agents' CA: at once.
	other := newCA(t, pki.Agent)
	if err := pki.WriteFile(w.server.ca, other.Roots()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(t, server, client); err == nil {
		t.Error("the server took a client of a CA that was removed")
	}
	// It trusts it again: at once.
	if err := pki.WriteFile(w.server.ca, append(other.Roots(), w.agents.Roots()...)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(t, server, client); err != nil {
		t.Errorf("after the CA was added: %v", err)
	}
	// The client stops trusting the infra CA: at once, though its configuration
	// was made before.
	if err := pki.WriteFile(w.agent.ca, newCA(t, pki.Infra).Roots()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := handshake(t, server, client); err == nil {
		t.Error("the client took a server of a CA that was removed")
	}
}

// TestHalfDoneRenewal: key and certificate are two files, so between the two
// writes they do not fit. The old pair stays in use.
func TestHalfDoneRenewal(t *testing.T) {
	w := newWorld(t)
	source := w.agent.source(t)
	server, client := w.server.source(t).MutualTLS(), source.ClientTLS("localhost")
	old := source.Leaf()

	key := newKey(t)
	if err := pki.ReplaceSecret(w.agent.key, must(key.PEM())); err != nil {
		t.Fatal(err)
	}
	if s, _, err := handshake(t, server, client); err != nil || !s.PeerCertificates[0].Equal(old) {
		t.Fatalf("with the key written: %v", err)
	}
	if source.Err() == nil || source.Reload() == nil {
		t.Error("nothing tells that key and certificate do not fit")
	}
	chain := signAgent(t, w.agents, key, "reader")
	if err := pki.WriteFile(w.agent.cert, chain); err != nil {
		t.Fatal(err)
	}
	if s, _, err := handshake(t, server, client); err != nil || !s.PeerCertificates[0].Equal(certs(t, chain)[0]) {
		t.Fatalf("with both written: %v", err)
	}
	if err := source.Err(); err != nil {
		t.Errorf("got %v, want none", err)
	}

	// A file that becomes unusable changes nothing either.
	for name, spoil := range map[string]func() error{
		"empty CA file":      func() error { return pki.WriteFile(w.agent.ca, nil) },
		"key open to others": func() error { return os.Chmod(w.agent.key, 0o644) },
		"certificate gone":   func() error { return os.Remove(w.agent.cert) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := handshake(t, server, client); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if source.Err() == nil {
			t.Errorf("%s: nothing tells", name)
		}
		w.agent.write(t, key, chain, w.infra.Roots())
	}
	if err := source.Err(); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

func TestNewSourceRefusals(t *testing.T) {
	w := newWorld(t)
	if _, err := pki.NewSource(w.agent.cert, w.agent.key, w.agent.ca, nil); err == nil {
		t.Error("made without a clock")
	}
	if _, err := pki.NewSource(w.agent.cert, w.server.key, w.agent.ca, clock); err == nil {
		t.Error("made of a key and a certificate that do not belong together")
	}
	if _, err := pki.NewSource(w.agent.cert, w.agent.key, w.agent.cert, clock); err == nil {
		t.Error("took an agent's certificate as a CA")
	}
	if _, err := pki.NewSource(w.agent.cert, w.agent.key, w.agent.ca+"x", clock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing CA file: got %v, want %v", err, fs.ErrNotExist)
	}
	if err := os.Chmod(w.agent.key, 0o640); err != nil {
		t.Fatal(err)
	}
	var wide *pki.ModeError
	if _, err := pki.NewSource(w.agent.cert, w.agent.key, w.agent.ca, clock); !errors.As(err, &wide) {
		t.Errorf("key open to the group: got %v, want a ModeError", err)
	}
}

func TestSourceConcurrently(t *testing.T) {
	w := newWorld(t)
	source := w.agent.source(t)
	stop, done := make(chan struct{}), make(chan error, 4)
	for range cap(done) {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				cert, err := source.ClientTLS("x").GetClientCertificate(nil)
				if err == nil && (cert == nil || source.Roots().Equal(x509.NewCertPool())) {
					err = errors.New("half loaded")
				}
				if err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for range 20 {
		key := newKey(t)
		w.agent.write(t, key, signAgent(t, w.agents, key, "reader"), w.infra.Roots())
	}
	close(stop)
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if err := source.Err(); err != nil {
		t.Errorf("got %v, want none", err)
	}
}

// TestPinnedTLS: the client knows the hash of the infra root and nothing else.
func TestPinnedTLS(t *testing.T) {
	w := newWorld(t)
	other := newCA(t, pki.Infra)
	root := certs(t, w.infra.Roots())[0]
	key := newKey(t)
	chain := signServer(t, w.infra, key, "localhost", "127.0.0.1")
	leaf, mid := certs(t, chain)[0], certs(t, chain)[1]

	// The genuine public key in a certificate that its owner never signed: same
	// hash, other content, here another serial.
	raw := bytes.Clone(root.Raw)
	raw[bytes.Index(raw, root.SerialNumber.Bytes())+1] ^= 1
	forged := must(x509.ParseCertificate(raw))
	if pki.RootHash(forged) != w.infra.RootHash() || forged.Equal(root) {
		t.Fatal("the forged root is none")
	}

	// The infra CA's own certificate for a client, with a host name.
	clientKey := newKey(t)
	template := goodLeaf(t)
	template.URIs, template.DNSNames = nil, []string{"localhost"}
	clientOnly := pki.EncodeCertificates(forge(t, template, mid, clientKey.Public(), w.infra.Key()), mid, root)

	serve := func(key *pki.Key, chain []byte) *tls.Config {
		return writeFiles(t, key, chain, w.agents.Roots()).source(t).ServerTLS()
	}
	agentKey, otherKey := newKey(t), newKey(t)
	tests := map[string]struct {
		server *tls.Config
		hash   string
		name   string
		at     time.Time
		ok     bool
	}{
		"name":                {serve(key, chain), w.infra.RootHash(), "localhost", epoch, true},
		"address":             {serve(key, chain), w.infra.RootHash(), "127.0.0.1", epoch, true},
		"other pin":           {serve(key, chain), other.RootHash(), "localhost", epoch, false},
		"agent CA's pin":      {serve(key, chain), w.agents.RootHash(), "localhost", epoch, false},
		"pin of intermediate": {serve(key, chain), pki.RootHash(mid), "localhost", epoch, false},
		"pin of leaf":         {serve(key, chain), pki.RootHash(leaf), "localhost", epoch, false},
		"other name":          {serve(key, chain), w.infra.RootHash(), "nats.example.com", epoch, false},
		"expired":             {serve(key, chain), w.infra.RootHash(), "localhost", epoch.Add(pki.DefaultServerTTL + time.Hour), false},
		"no time":             {serve(key, chain), w.infra.RootHash(), "localhost", time.Time{}, false},
		"root not sent":       {serve(key, pki.EncodeCertificates(leaf, mid)), w.infra.RootHash(), "localhost", epoch, false},
		"forged root":         {serve(key, pki.EncodeCertificates(leaf, mid, forged)), w.infra.RootHash(), "localhost", epoch, false},
		// A server of another mesh appends the pinned root, which is public.
		"root beside a foreign chain": {
			serve(otherKey, append(signServer(t, other, otherKey, "localhost"), w.infra.Roots()...)), w.infra.RootHash(), "localhost", epoch, false,
		},
		"client as server": {serve(clientKey, clientOnly), w.infra.RootHash(), "localhost", epoch, false},
		"agent as server": {
			serve(agentKey, append(signAgent(t, w.agents, agentKey, "reader"), w.agents.Roots()...)), w.agents.RootHash(), "localhost", epoch, false,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			client, err := pki.PinnedTLS(tt.hash, tt.name, func() time.Time { return tt.at })
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := handshake(t, tt.server, client); (err == nil) != tt.ok {
				t.Errorf("got %v, want connected %v", err, tt.ok)
			}
		})
	}

	hash := w.infra.RootHash()
	for name, bad := range map[string]string{
		"empty": "", "short": hash[:42], "padded": hash + "=", "line break": hash[:20] + "\n" + hash[20:], "long": hash + "AA",
		"standard base64": strings.Repeat("/", 42) + "8",
	} {
		if _, err := pki.PinnedTLS(bad, "localhost", clock); err == nil {
			t.Errorf("%s hash accepted", name)
		}
	}
	if _, err := pki.PinnedTLS(hash, "", clock); err == nil {
		t.Error("made with no server name")
	}
	if _, err := pki.PinnedTLS(hash, "localhost", nil); err == nil {
		t.Error("made with no clock")
	}
}

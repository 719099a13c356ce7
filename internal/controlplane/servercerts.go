package controlplane

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

const (
	// certsMost and certsLeast bound how often the servers' certificates are looked
	// at; in between it is a fiftieth of the shortest life.
	certsMost  = time.Minute
	certsLeast = 250 * time.Millisecond
	certsParts = 50
	// seenMost is how often the servers are dialled to see what they show.
	seenMost = 10 * time.Minute
	// infoMost bounds the line that a nats-server begins with, in bytes.
	infoMost = 64 << 10
	// rollAgain is how long after a roll that failed the next one begins by itself.
	rollAgain = 5 * time.Minute
)

// serverCerts is what the control plane knows of the certificates of the servers.
type serverCerts struct {
	mu      sync.Mutex
	seen    map[string]*x509.Certificate // by name: what a nats-server showed last
	own     map[string]*x509.Certificate // by name: what is in the files here
	dialled time.Time
	pending bool      // files were renewed and not all servers have read them yet
	rolling bool      // they are about to
	failed  time.Time // when a roll failed last
	foreign map[string]bool
}

// Servers' certificates go by the clock of the machine, whatever the control plane's:
// those who verify them do.

// keepServerCerts renews the control plane's certificate, and those of nats-servers
// whose files are here, for as long as the control plane runs.
func (p *Plane) keepServerCerts() {
	p.certs.seen, p.certs.own, p.certs.foreign = map[string]*x509.Certificate{}, map[string]*x509.Certificate{}, map[string]bool{}
	p.wg.Go(func() {
		for {
			p.renewServers()
			p.seeServers()
			p.warnEnds()
			// A roll waits for other replicas and for every client, for minutes. What is
			// due meanwhile must not wait with it: nobody can connect to what has ended.
			if p.rollDue() {
				p.wg.Go(p.rollRenewed)
			}
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(p.certsPause()):
			}
		}
	})
}

// renewServers renews what is due.
func (p *Plane) renewServers() {
	mesh, ca := p.cfg.Mesh, p.authorities().infra
	control := mesh.ControlFiles()
	if renewed, err := mesh.Renew(ca, control, false, time.Now()); err != nil {
		p.log.Error().Err(err).Msg("the control plane's certificate cannot be renewed")
	} else if renewed {
		p.log.Info().Time("not_after", p.source.NotAfter()).Msg("the control plane has renewed its certificate")
	}
	for _, s := range mesh.NATSServers() {
		if !s.Present() {
			continue
		}
		if !p.renewNATS(ca, s) {
			continue
		}
		switch _, here := p.cfg.Embedded[s.Name]; {
		case here:
		case p.sys == nil:
			p.log.Warn().Str("server", s.Name).Msg("a nats-server has a new certificate and has to be reloaded by a signal: there is no system account")
		default:
			p.certs.mu.Lock()
			p.certs.pending = true
			p.certs.mu.Unlock()
		}
	}
}

// renewNATS renews a nats-server's certificate if it is due and these are the files
// that the server reads: the directory in which a mesh was made has copies of those
// that were taken to other hosts.
func (p *Plane) renewNATS(ca *pki.CA, s meshdir.ServerFiles) bool {
	chain, err := s.Chain()
	if err != nil {
		p.log.Error().Err(err).Str("server", s.Name).Msg("certificate of a nats-server cannot be read")
		return false
	}
	defer p.noteOwn(s)
	if err := s.Mend(); err != nil {
		p.log.Error().Err(err).Str("server", s.Name).Msg("certificate of a nats-server was renewed half and cannot be finished")
	}
	if !meshdir.Due(ca, chain, time.Now()) {
		return false
	}
	if shown := p.lookAtServer(s); shown != nil && !shown.Equal(chain[0]) && !p.toRead(s.Name) {
		// Another replica may have renewed it between the two looks.
		if now, err := s.Chain(); err == nil && now[0].Equal(chain[0]) {
			p.elsewhere(s)
		}
		return false
	}
	renewed, err := p.cfg.Mesh.Renew(ca, s, false, time.Now())
	if err != nil {
		p.log.Error().Err(err).Str("server", s.Name).Msg("certificate of a nats-server cannot be renewed")
		return false
	}
	if renewed {
		p.log.Info().Str("server", s.Name).Msg("certificate of a nats-server was renewed")
	}
	return renewed
}

// toRead reports whether a server that shows another certificate than the file holds
// only has not read the file yet, because a roll did not get to it.
func (p *Plane) toRead(name string) bool {
	p.certs.mu.Lock()
	defer p.certs.mu.Unlock()
	return (p.certs.pending || p.certs.rolling) && p.certs.own[name] != nil
}

// elsewhere says once of a server that it reads other files than those here.
func (p *Plane) elsewhere(s meshdir.ServerFiles) {
	p.certs.mu.Lock()
	told := p.certs.foreign[s.Name]
	p.certs.foreign[s.Name] = true
	p.certs.mu.Unlock()
	if !told {
		p.log.Warn().Str("server", s.Name).Str("file", s.Cert).Msg("a nats-server shows another certificate than the one here, so its files are elsewhere: sealmesh cert server renews it there")
	}
}

func (p *Plane) noteOwn(s meshdir.ServerFiles) {
	if chain, err := s.Chain(); err == nil {
		p.certs.mu.Lock()
		p.certs.own[s.Name] = chain[0]
		p.certs.mu.Unlock()
	}
}

// seeServers dials the nats-servers now and then.
func (p *Plane) seeServers() {
	c := &p.certs
	every := min(seenMost, p.certsPause()*10)
	c.mu.Lock()
	wait := !c.dialled.IsZero() && time.Since(c.dialled) < every
	c.mu.Unlock()
	if wait {
		return
	}
	for _, s := range p.cfg.Mesh.NATSServers() {
		if shown := p.lookAtServer(s); shown != nil {
			p.overdue(s, shown)
		}
	}
	c.mu.Lock()
	c.dialled = time.Now()
	c.mu.Unlock()
}

// overdue has a server read its files that shows a certificate with less than a
// quarter of its life left, and has a newer one: a control plane that renewed it ended
// before it rolled.
func (p *Plane) overdue(s meshdir.ServerFiles, shown *x509.Certificate) {
	c := &p.certs
	c.mu.Lock()
	defer c.mu.Unlock()
	own := c.own[s.Name]
	if _, here := p.cfg.Embedded[s.Name]; here || own == nil || c.foreign[s.Name] || !shown.NotBefore.Before(own.NotBefore) {
		return
	}
	c.pending = c.pending || time.Until(shown.NotAfter) < lifeOf(shown)/4
}

// lookAtServer dials a server and notes what it shows; nil where it cannot be reached.
func (p *Plane) lookAtServer(s meshdir.ServerFiles) *x509.Certificate {
	if s.Address == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.ctx, connectWait)
	defer cancel()
	leaf, err := p.shown(ctx, s.Address)
	if err != nil {
		p.log.Debug().Err(err).Str("server", s.Name).Msg("nats-server's certificate cannot be looked at")
		return nil
	}
	p.certs.mu.Lock()
	defer p.certs.mu.Unlock()
	p.certs.seen[s.Name] = leaf
	if own := p.certs.own[s.Name]; own != nil && own.Equal(leaf) {
		delete(p.certs.foreign, s.Name)
	}
	return leaf
}

// certsPause is how long until the next look.
func (p *Plane) certsPause() time.Duration {
	life := lifeOf(p.source.Leaf())
	p.certs.mu.Lock()
	defer p.certs.mu.Unlock()
	for _, c := range p.certs.own {
		life = min(life, lifeOf(c))
	}
	return max(certsLeast, min(certsMost, life/certsParts))
}

func lifeOf(c *x509.Certificate) time.Duration {
	return c.NotAfter.Sub(c.NotBefore.Add(pki.Backdate))
}

// rollDue reports whether servers have to read files that were renewed, and leaves it
// to the caller to have them do so.
func (p *Plane) rollDue() bool {
	c := &p.certs
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.pending || c.rolling || p.sys == nil || !c.failed.IsZero() && time.Since(c.failed) <= rollAgain {
		return false
	}
	// What is renewed from here on is for the next roll.
	c.pending, c.rolling = false, true
	return true
}

func (p *Plane) rollRenewed() {
	// What a roll that failed got done need not be done again: it costs every client
	// a connection.
	err := p.rollThose(p.ctx, "certificates were renewed", func(name string) bool {
		for _, s := range p.cfg.Mesh.NATSServers() {
			chain, err := s.Chain()
			if s.Name != name || err != nil {
				continue
			}
			shown := p.lookAtServer(s)
			return shown != nil && shown.Equal(chain[0])
		}
		return false
	})
	if err == nil {
		for _, s := range p.cfg.Mesh.NATSServers() {
			_, here := p.cfg.Embedded[s.Name]
			chain, readErr := s.Chain()
			if here || readErr != nil {
				continue
			}
			if shown := p.lookAtServer(s); shown != nil && !shown.Equal(chain[0]) {
				p.elsewhere(s)
			}
		}
	}
	p.certs.mu.Lock()
	defer p.certs.mu.Unlock()
	p.certs.rolling, p.certs.failed = false, time.Time{}
	if err != nil {
		p.certs.pending, p.certs.failed = true, time.Now()
		if p.ctx.Err() == nil {
			p.log.Error().Err(err).Dur("again_in", rollAgain).Msg("nats-servers have not all read their new certificates")
		}
	}
	p.certs.dialled = time.Time{}
}

// natsFiles is the digest of what the nats-servers read, where it is here, so that of
// several replicas that share a directory one rolls after a change.
func (p *Plane) natsFiles() string {
	h, any := sha256.New(), false
	for _, conf := range p.cfg.Mesh.ServerConfs() {
		for _, name := range []string{"nats-server.conf", "server.crt", "ca.crt", "infra-ca.crt"} {
			text, err := os.ReadFile(filepath.Join(filepath.Dir(conf), name))
			if err != nil {
				continue
			}
			any = true
			fmt.Fprintf(h, "%s %s %d\n", conf, name, len(text))
			h.Write(text)
		}
	}
	if !any {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

// certifyServer signs the key of a nats-server whose files are on another host. The
// certificate is for the hosts that sealmesh.yaml names, whatever was asked for.
func (p *Plane) certifyServer(by agentid.ID, req wire.AdminRequest) (_ any, err error) {
	defer func() {
		p.change(by, agentid.ID{}, agentid.Instance{}, string(wire.OpServerCertificate), req.Server, err)
	}()
	csr, err := pki.ParseCSR([]byte(req.CSR))
	if err != nil {
		return nil, err
	}
	mesh := p.cfg.Mesh
	for _, s := range mesh.NATSServers() {
		if s.Name != req.Server {
			continue
		}
		chain, err := mesh.SignCSR(p.authorities().infra, s, csr, time.Now())
		if err != nil {
			return nil, err
		}
		leaf, err := pki.ParseCertificates(chain)
		if err != nil {
			return nil, err
		}
		p.log.Info().Str("by", by.String()).Str("server", s.Name).Time("not_after", leaf[0].NotAfter).Msg("certificate of a nats-server was signed")
		return wire.ServerCertificate{
			Schema: wire.ServerCertificateSchema, Server: s.Name, Hosts: s.Hosts(), Certificate: string(chain), NotAfter: leaf[0].NotAfter.UTC(),
		}, nil
	}
	return nil, denial.New(denial.NotFound, "sealmesh.yaml names no nats-server %.80q", req.Server)
}

// shown dials a nats-server as a client does and returns the certificate that it
// shows. Nothing is said there.
func (p *Plane) shown(ctx context.Context, addr string) (*x509.Certificate, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	defer conn.Close() //nolint:errcheck // nothing was said
	if at, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(at); err != nil {
			return nil, fmt.Errorf("controlplane: %w", err)
		}
	}
	// The server speaks first, in the clear, and what follows its line is TLS.
	line := bufio.NewReaderSize(io.LimitReader(conn, infoMost), infoMost)
	if _, err := line.ReadSlice('\n'); err != nil {
		return nil, fmt.Errorf("controlplane: %s is no nats-server: %w", addr, err)
	}
	c := tls.Client(conn, p.source.ClientTLS(host))
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	peers := c.ConnectionState().PeerCertificates
	if len(peers) == 0 {
		return nil, errors.New("controlplane: the server showed no certificate")
	}
	return peers[0], nil
}

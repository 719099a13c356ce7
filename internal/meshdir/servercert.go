package meshdir

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/pki"
)

// ServerFiles are the certificate and the key of one server of the mesh, in this
// directory.
type ServerFiles struct {
	Name    string // of the nats-server; "control" is the control plane
	Address string // host:port where a nats-server is reached; empty where it cannot be known
	Cert    string
	Key     string

	service string   // in its certificate
	hosts   []string // as sealmesh.yaml has them
}

// The services in servers' certificates.
const (
	controlService = "control"
	natsService    = "nats"
)

// ControlFiles returns those of the control plane.
func (m *Mesh) ControlFiles() ServerFiles {
	c := m.Config
	return ServerFiles{
		Name: controlService, Cert: m.path(serverDir, "control.crt"), Key: m.path(serverDir, "control.key"),
		service: controlService, hosts: hosts(c.Certificate.ServerHosts, c.Control.URL),
	}
}

// NATSServers returns those of all nats-servers, whether they are here or not.
func (m *Mesh) NATSServers() []ServerFiles {
	c := m.Config
	_, names := cluster(c.NATS.Servers)
	all := hosts(slices.Concat(names, c.Certificate.ServerHosts), c.NATS.URLs...)
	files := func(name, addr, dir string) ServerFiles {
		return ServerFiles{
			Name: name, Address: addr, Cert: m.path(dir, "server.crt"), Key: m.path(dir, "server.key"), service: natsService, hosts: all,
		}
	}
	if len(c.NATS.Servers) == 0 {
		addr := ""
		if u, err := url.Parse(c.NATS.URLs[0]); err == nil && len(c.NATS.URLs) == 1 {
			addr = u.Host
		}
		return []ServerFiles{files(c.NATS.ServerName, addr, natsDir)}
	}
	var out []ServerFiles
	for _, s := range c.NATS.Servers {
		out = append(out, files(s.Name, s.Client, natsDir+"/"+s.Name))
	}
	return out
}

// Present reports whether the certificate is here; a nats-server's may be on its own
// host.
func (s ServerFiles) Present() bool {
	_, err := os.Stat(s.Cert)
	return err == nil
}

// At returns the same server's files in another folder, as they are called there.
func (s ServerFiles) At(dir string) ServerFiles {
	s.Cert, s.Key = filepath.Join(dir, filepath.Base(s.Cert)), filepath.Join(dir, filepath.Base(s.Key))
	return s
}

// Chain reads the certificate in the file, with what is sent along with it.
func (s ServerFiles) Chain() ([]*x509.Certificate, error) {
	text, err := pki.ReadFile(s.Cert)
	if err != nil {
		return nil, err
	}
	chain, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", s.Cert, err)
	}
	return chain, nil
}

// Hosts returns what the server's certificate is for: the hosts in sealmesh.yaml,
// sorted, each once.
func (s ServerFiles) Hosts() []string { return slices.Clone(s.hosts) }

// Sign returns the chain of a certificate for a key of the server, and for its hosts
// as sealmesh.yaml has them.
func (m *Mesh) Sign(ca *pki.CA, s ServerFiles, key *pki.Key, now time.Time) ([]byte, error) {
	return ca.SignServer(key.Public(), s.hosts, s.service, m.Config.Certificate.ServerTTL, now)
}

// SignCSR is Sign for a key that is somewhere else. The request names nothing.
func (m *Mesh) SignCSR(ca *pki.CA, s ServerFiles, csr *x509.CertificateRequest, now time.Time) ([]byte, error) {
	if err := pki.CheckServerCSR(csr); err != nil {
		return nil, err
	}
	return ca.SignServer(csr.PublicKey, s.hosts, s.service, m.Config.Certificate.ServerTTL, now)
}

// Renew makes a new key and certificate where the one in the files is due: past half
// of its life, or signed before the CA changed. The hosts of the certificate are kept
// that sealmesh.yaml does not name, as those of a mesh that is older than
// certificate.server_hosts. It reports whether it renewed. Any
// number of processes may try at the same time: one renews, and what one left half
// done the next one ends.
func (m *Mesh) Renew(ca *pki.CA, s ServerFiles, force bool, now time.Time) (renewed bool, err error) {
	unlock, err := s.mend()
	if err != nil {
		return false, err
	}
	defer unlock()
	chain, err := s.Chain()
	switch {
	case errors.Is(err, fs.ErrNotExist) && force:
	case err != nil:
		return false, err
	case !force && !Due(ca, chain, now):
		return false, nil
	case !s.owns(chain[0], m.Config.TrustDomain):
		return false, &Error{Path: s.Cert, Problem: "is no certificate of " + s.service + " in " + m.Config.TrustDomain, hint: "restore it from a backup, or make one: sealmesh cert server " + s.Name}
	default:
		s.hosts = append(s.Hosts(), names(chain[0])...)
		slices.Sort(s.hosts)
		s.hosts = slices.Compact(s.hosts)
	}
	key, err := pki.NewTLSKey()
	if err != nil {
		return false, err
	}
	text, err := m.Sign(ca, s, key, now)
	if err != nil {
		return false, err
	}
	return true, pki.ReplacePair(s.Cert, s.Key, key, text)
}

// mend has the files belong together, and keeps others from renewing them until
// unlock: a renewal may be under way, or was left half done by a crash.
func (s ServerFiles) mend() (unlock func(), err error) {
	unlock, err = lockFile(s.Key + ".lock")
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	if _, err := pki.MendPair(s.Cert, s.Key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// Mend finishes or takes back a renewal that a crash left half done, before it is due
// again: a server does not start with a key and a certificate that do not belong
// together.
func (s ServerFiles) Mend() error {
	if !pki.PairHalfDone(s.Key) {
		return nil
	}
	unlock, err := s.mend()
	if err == nil {
		unlock()
	}
	return err
}

// Place puts a chain that was signed elsewhere and its key into the server's files.
func (s ServerFiles) Place(key *pki.Key, chain []byte) error {
	unlock, err := lockFile(s.Key + ".lock")
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	defer unlock()
	return pki.ReplacePair(s.Cert, s.Key, key, chain)
}

// names lists the hosts of a certificate.
func names(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}

// Due reports whether a server's certificate is to be replaced: half of its life is
// over, or the CA is another than when it was signed.
func Due(ca *pki.CA, chain []*x509.Certificate, now time.Time) bool {
	return !now.Before(HalfLife(chain[0])) || !ca.SignedNow(chain)
}

// HalfLife is when half of a certificate's life is over, from when it was signed.
func HalfLife(leaf *x509.Certificate) time.Time {
	signed := leaf.NotBefore.Add(pki.Backdate)
	if signed.After(leaf.NotAfter) {
		return leaf.NotAfter
	}
	return signed.Add(leaf.NotAfter.Sub(signed) / 2)
}

// owns reports whether a certificate is that of a service of the trust domain.
func (s ServerFiles) owns(leaf *x509.Certificate, trustDomain string) bool {
	return len(leaf.URIs) == 1 && leaf.URIs[0].String() == agentid.ServiceSPIFFE(trustDomain, s.service)
}

package meshdir

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/pki"
)

// What server/ holds besides the two CAs of whom a certificate may be from.
const (
	// trustFile is the trust document in force, trustNextFile the one that follows when
	// nobody needs the old root any more, and rotationFile says what is under way.
	trustFile     = "trust.jws"
	trustNextFile = "trust-next.jws"
	rotationFile  = "ca-rotation.json"
	// agentRootsFile are the agent roots that count while there are two.
	agentRootsFile = "agent-roots.crt"
	// nextKey is added to a key's name between the moments at which its certificate and
	// the key itself are replaced, so that there is a pair that fits at every moment.
	nextKey = ".next"
)

// Rotation is a change of a CA's root that is under way.
type Rotation struct {
	Schema  string    `json:"schema"` // sealmesh.ca-rotation/v1
	Role    pki.Role  `json:"role"`
	Old     string    `json:"old"` // pki.RootHash
	New     string    `json:"new"`
	Started time.Time `json:"started"`
	Overlap uint64    `json:"overlap"` // version of the trust document with both roots
	After   uint64    `json:"after"`   // of the one without the old
}

// issuerWait bounds asking an issuer on another host for its roots.
const issuerWait = 10 * time.Second

const rotationSchema = "sealmesh.ca-rotation/v1"

// loadCA reads the online intermediate of a role.
func (m *Mesh) loadCA(role pki.Role) (*pki.CA, error) {
	name := string(role) + "-ca"
	crt, key := m.path(serverDir, name+".crt"), m.path(serverDir, name+".key")
	ca, err := pki.Load(role, m.Config.TrustDomain, crt, key)
	if err == nil {
		return ca, nil
	}
	// Replaced by halves: the certificate is the new one's, and so is this key.
	if next, e := pki.Load(role, m.Config.TrustDomain, crt, key+nextKey); e == nil {
		return next, nil
	}
	return nil, err
}

// Trust reads the trust document in force. A mesh that was made before there were any
// has none, and then both results are zero.
func (m *Mesh) Trust() (string, *capability.Trust, error) { return m.trustIn(trustFile) }

// NextTrust reads the one that follows when the old root is dropped.
func (m *Mesh) NextTrust() (string, *capability.Trust, error) { return m.trustIn(trustNextFile) }

func (m *Mesh) trustIn(name string) (string, *capability.Trust, error) {
	path := m.path(serverDir, name)
	text, err := readPublic(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	t, err := capability.VerifyTrust(string(text), m.Roots(), m.Config.TrustDomain)
	if err != nil {
		return "", nil, &Error{Path: path, Problem: err.Error(), cause: err}
	}
	return string(text), t, nil
}

// Rotation returns what is under way, or nil.
func (m *Mesh) Rotation() (*Rotation, error) {
	var r Rotation
	path := m.path(serverDir, rotationFile)
	err := readJSON(path, &r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is under way
	}
	if err != nil {
		return nil, err
	}
	if r.Schema != rotationSchema || r.Role != pki.Agent && r.Role != pki.Infra {
		return nil, &Error{Path: path, Problem: fmt.Sprintf("schema %q is not %s", clip(r.Schema), rotationSchema)}
	}
	return &r, nil
}

// AgentRoots returns the agent roots that count: those of whom certificates are issued
// now, and the one before while it is replaced.
func (m *Mesh) AgentRoots(issuer pki.Issuer) ([]*x509.Certificate, error) {
	roots, err := pki.ParseCertificates(issuer.Roots())
	if err != nil {
		return nil, err
	}
	text, err := readPublic(m.path(serverDir, agentRootsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return roots, nil
	}
	if err != nil {
		return nil, err
	}
	more, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", m.path(serverDir, agentRootsFile), err)
	}
	return union(roots, more), nil
}

// InfraRoots returns the roots that servers are verified with.
func (m *Mesh) InfraRoots() ([]*x509.Certificate, error) {
	path := m.path(serverDir, "ca.crt")
	text, err := readPublic(path)
	if err != nil {
		return nil, err
	}
	roots, err := pki.ParseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", path, err)
	}
	return roots, nil
}

// AuthorityFiles are the paths of everything that says who signs and who counts.
func (m *Mesh) AuthorityFiles() []string {
	var out []string
	for _, name := range []string{
		"agent-ca.crt", "agent-ca.key", "agent-ca.key" + nextKey, "infra-ca.crt", "infra-ca.key", "infra-ca.key" + nextKey,
		"ca.crt", agentRootsFile, trustFile, trustNextFile, rotationFile,
	} {
		out = append(out, m.path(serverDir, name))
	}
	return out
}

// union is a and what of b is not in it.
func union(a, b []*x509.Certificate) []*x509.Certificate {
	out := slices.Clone(a)
	for _, c := range b {
		if !slices.ContainsFunc(out, c.Equal) {
			out = append(out, c)
		}
	}
	return out
}

// serverTrust is what the nats-servers verify clients with, and, in a cluster, each
// other.
func (m *Mesh) serverTrust(agent, infra []*x509.Certificate) map[string][]byte {
	out := map[string][]byte{}
	for _, dir := range m.natsDirs() {
		// A folder that is on another host is filled there.
		if _, err := os.Stat(m.path(dir)); err != nil {
			continue
		}
		out[dir+"/ca.crt"] = pki.EncodeCertificates(append(slices.Clone(agent), infra...)...)
		if len(m.Config.NATS.Servers) > 0 {
			out[dir+"/infra-ca.crt"] = pki.EncodeCertificates(infra...)
		}
	}
	return out
}

// DropOldCA ends a rotation: the document without the old root takes force, and nothing
// of the mesh directory takes certificates of the old root any more. It is finished by
// calling it again, and does nothing where nothing is under way.
func (m *Mesh) DropOldCA() error {
	r, err := m.Rotation()
	if err != nil || r == nil {
		return err
	}
	ca, err := m.loadCA(r.Role)
	if err != nil {
		return err
	}
	if ca.RootHash() != r.New {
		return &Error{Path: m.path(serverDir, string(r.Role)+"-ca.crt"), Problem: "is not of the root that the rotation brings", hint: "copy all of server/ from where sealmesh ca rotate ran"}
	}
	text, doc, err := m.NextTrust()
	if err != nil {
		return err
	}
	if doc == nil {
		if _, now, err := m.Trust(); err != nil || now == nil || now.Version < r.After {
			return errors.Join(err, &Error{Path: m.path(serverDir, trustNextFile), Problem: "the file is missing", hint: "copy it from where sealmesh ca rotate ran"})
		}
	} else if doc.Version != r.After {
		return &Error{Path: m.path(serverDir, trustNextFile), Problem: fmt.Sprintf("is version %d, not %d", doc.Version, r.After)}
	}
	agent, infra, err := m.rootsNow()
	if err != nil {
		return err
	}
	old := func(c *x509.Certificate) bool { return pki.RootHash(c) == r.Old }
	if r.Role == pki.Agent {
		agent = slices.DeleteFunc(agent, old)
	} else {
		infra = slices.DeleteFunc(infra, old)
	}
	files := m.serverTrust(agent, infra)
	files[serverDir+"/"+string(r.Role)+"-ca.crt"] = ca.Plain().Bundle()
	files[serverDir+"/"+agentRootsFile] = pki.EncodeCertificates(agent...)
	files[serverDir+"/ca.crt"] = pki.EncodeCertificates(infra...)
	if doc != nil {
		files[serverDir+"/"+trustFile] = []byte(text)
	}
	for name, data := range files {
		if err := pki.WriteFile(m.path(name), data); err != nil {
			return err
		}
	}
	// The mark goes last: as long as it is there, all this is done again.
	for _, name := range []string{trustNextFile, rotationFile} {
		if err := os.Remove(m.path(serverDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("meshdir: %w", err)
		}
	}
	return nil
}

// rootsNow are the roots that count now, by the files.
func (m *Mesh) rootsNow() (agent, infra []*x509.Certificate, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), issuerWait)
	defer cancel()
	issuer, err := m.AgentIssuer(ctx)
	if err != nil {
		return nil, nil, err
	}
	if agent, err = m.AgentRoots(issuer); err != nil {
		return nil, nil, err
	}
	infra, err = m.InfraRoots()
	return agent, infra, err
}

func encodeRotation(r Rotation) ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	return append(b, '\n'), nil
}

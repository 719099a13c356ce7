package meshdir

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/pki"
)

// stageDir holds everything that a rotation is going to put in place, complete, before
// the first file changes: who interrupts it finishes it by running it again.
const stageDir = rootDir + "/ca-rotation"

const (
	stageList   = "steps.json"
	stageSchema = "sealmesh.ca-steps/v1"
)

// steps is the list of what is put in place, in order.
type steps struct {
	Schema string   `json:"schema"`
	Done   Rotation `json:"rotation"`
	Leaked bool     `json:"leaked"`
	Steps  []step   `json:"steps"`
}

// step writes a file of the stage to its place, or moves one that was written before.
type step struct {
	File   string `json:"file,omitempty"` // in the stage
	Move   string `json:"move,omitempty"` // from this place
	Remove bool   `json:"remove,omitempty"`
	To     string `json:"to"`
	Secret bool   `json:"secret,omitempty"`
}

// RotateCA replaces the root and the intermediate of a role. Root/ must be online. From
// the next moment on certificates are issued by the new intermediate, which the old
// root certifies as well, and both roots count; [Mesh.DropOldCA] ends that. Where the
// old one leaked there is no such time: it counts no more and certifies nothing.
//
// A run that was interrupted is finished, and said to be the one that it was.
func (m *Mesh) RotateCA(role pki.Role, leaked bool, now time.Time) (Rotation, error) {
	if r, finished, err := m.finishRotation(); finished || err != nil {
		if err == nil && (r.Role != role) {
			err = &Error{Path: m.path(stageDir), Problem: fmt.Sprintf("a rotation of the %s CA had been interrupted; it is finished now, and nothing else was done", r.Role), hint: "run the command again when sealmesh ca show says that it is over"}
		}
		return r, err
	}
	if r, err := m.Rotation(); err != nil {
		return Rotation{}, err
	} else if r != nil && (!leaked || r.Role != role) {
		return *r, &Error{Path: m.path(serverDir, rotationFile), Problem: fmt.Sprintf("a rotation of the %s CA is under way since %s", r.Role, r.Started.UTC().Format(time.RFC3339)), hint: "sealmesh ca show says what it waits for"}
	}
	b := &stager{mesh: m, role: role, leaked: leaked, now: now}
	if err := b.load(); err != nil {
		return Rotation{}, err
	}
	defer b.authority.Wipe()
	if err := b.build(); err != nil {
		return Rotation{}, errors.Join(err, os.RemoveAll(b.dir))
	}
	if err := os.Rename(b.dir, m.path(stageDir)); err != nil {
		return Rotation{}, errors.Join(&Error{Path: m.path(stageDir), Problem: "another run is at work", cause: err}, os.RemoveAll(b.dir))
	}
	r, _, err := m.finishRotation()
	return r, err
}

// stager makes the files of a rotation.
type stager struct {
	mesh   *Mesh
	role   pki.Role
	leaked bool
	now    time.Time

	dir       string
	authority nkeys.KeyPair
	old       *pki.Root
	steps     steps
}

// load reads what has to be there, root/ above all.
func (b *stager) load() error {
	m := b.mesh
	if b.role == pki.Agent {
		if err := m.embedded(); err != nil {
			return err
		}
	}
	name := string(b.role) + "-ca"
	var missing []string
	for _, file := range []string{"authority.nk", name + ".key", name + ".crt"} {
		if _, err := os.Stat(m.path(rootDir, file)); errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, rootDir+"/"+file)
		}
	}
	if len(missing) > 0 {
		return &Error{Path: m.path(rootDir), Problem: "root is offline: " + strings.Join(missing, ", ") + " cannot be found", hint: "bring root/ back from where it is kept, run the command again, and take it offline afterwards", cause: fs.ErrNotExist}
	}
	var err error
	if b.old, err = pki.LoadRoot(b.role, m.Config.TrustDomain, m.path(rootDir, name+".crt"), m.path(rootDir, name+".key")); err != nil {
		return err
	}
	if b.authority, err = m.rootKey(); err != nil {
		return err
	}
	pub, err := b.authority.PublicKey()
	if err != nil {
		return fmt.Errorf("meshdir: authority.nk: %w", err)
	}
	for _, r := range m.Roots() {
		if r == pub {
			return nil
		}
	}
	return &Error{Path: m.path(rootDir, "authority.nk"), Problem: "is not the authority root that this mesh's agents pin"}
}

// rootKey reads the seed of the authority root.
func (m *Mesh) rootKey() (nkeys.KeyPair, error) {
	path := m.path(rootDir, "authority.nk")
	seed, err := pki.ReadSecret(path)
	if err != nil {
		return nil, err
	}
	defer clear(seed)
	kp, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return nil, &Error{Path: path, Problem: "holds no nkey seed of its kind"}
	}
	return kp, nil
}

// embedded refuses where agents' certificates are signed elsewhere.
func (m *Mesh) embedded() error {
	if m.Config.Certificate.Issuer == IssuerVault {
		return &Error{Path: m.path(ConfigFile), Problem: "agents' certificates are signed by Vault, so there is no agent CA here", hint: "rotate the issuer in Vault, and put the roots of both into server/agent-ca.crt meanwhile"}
	}
	return nil
}

// build makes everything in a folder of its own.
func (b *stager) build() error {
	m := b.mesh
	var err error
	if b.dir, err = os.MkdirTemp(m.path(rootDir), ".ca-rotation-"); err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	root, err := pki.NewCA(b.role, m.Config.TrustDomain, b.now)
	if err != nil {
		return err
	}
	ca, err := root.Intermediate(b.now)
	if err != nil {
		return err
	}
	if !b.leaked {
		if ca, err = b.old.Cross(ca, b.now); err != nil {
			return err
		}
	}
	if err := b.keys(root, ca); err != nil {
		return err
	}
	if err := b.trust(root, ca); err != nil {
		return err
	}
	b.steps.Schema, b.steps.Leaked = stageSchema, b.leaked
	list, err := json.MarshalIndent(b.steps, "", "  ")
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	return pki.WriteFile(filepath.Join(b.dir, stageList), append(list, '\n'))
}

// keys stages the old root's files under another name, then the new root and the new
// intermediate.
func (b *stager) keys(root *pki.Root, ca *pki.CA) error {
	name := string(b.role) + "-ca"
	for _, k := range []struct {
		key *pki.Key
		to  string
	}{{b.old.Key(), rootDir + "/" + name + ".old.key"}, {root.Key(), rootDir + "/" + name + ".key"}, {ca.Key(), serverDir + "/" + name + ".key" + nextKey}} {
		text, err := k.key.PEM()
		if err != nil {
			return err
		}
		err = b.stage(text, k.to, true)
		clear(text)
		if err != nil {
			return err
		}
	}
	if err := b.stage(pki.EncodeCertificates(b.old.Certificate()), rootDir+"/"+name+".old.crt", false); err != nil {
		return err
	}
	if err := b.stage(pki.EncodeCertificates(root.Certificate()), rootDir+"/"+name+".crt", false); err != nil {
		return err
	}
	return nil
}

// trust stages who counts from now on: the documents, the roots, and what the servers
// verify with and show.
func (b *stager) trust(root *pki.Root, ca *pki.CA) error {
	m, name := b.mesh, string(b.role)+"-ca"
	agent, infra, err := m.rootsNow()
	if err != nil {
		return err
	}
	version, err := b.version()
	if err != nil {
		return err
	}
	// The roots of before, without and with the one that is replaced.
	list, fresh := &infra, []*x509.Certificate{root.Certificate()}
	if b.role == pki.Agent {
		list = &agent
	}
	b.steps.Done = Rotation{
		Schema: rotationSchema, Role: b.role, Started: b.now.UTC().Truncate(time.Second),
		Old: pki.RootHash(b.old.Certificate()), New: ca.RootHash(), Overlap: version + 1, After: version + 2,
	}
	sign := func(v uint64) (string, error) {
		return capability.SignTrust(b.authority, m.Config.TrustDomain, v, infra, m.announced(agent), b.now)
	}
	*list = fresh
	v := version + 2
	if b.leaked {
		v = version + 1
		b.steps.Done.Overlap, b.steps.Done.After = 0, v
	}
	after, err := sign(v)
	if err != nil {
		return err
	}
	now := after
	if !b.leaked {
		*list = append(fresh, b.old.Certificate())
		if now, err = sign(version + 1); err != nil {
			return err
		}
	}
	// Whoever verifies learns of the new root before anybody shows a certificate of it.
	for to, data := range m.serverTrust(agent, infra) {
		if err := b.stage(data, to, false); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		to   string
		data []byte
	}{
		{"ca.crt", pki.EncodeCertificates(infra...)}, {agentRootsFile, pki.EncodeCertificates(agent...)},
		{name + ".crt", ca.Bundle()},
	} {
		if err := b.stage(f.data, serverDir+"/"+f.to, false); err != nil {
			return err
		}
	}
	b.steps.Steps = append(b.steps.Steps, step{Move: serverDir + "/" + name + ".key" + nextKey, To: serverDir + "/" + name + ".key"})
	if b.role == pki.Infra {
		if err := b.servers(ca); err != nil {
			return err
		}
	}
	if b.leaked {
		b.steps.Steps = append(b.steps.Steps, step{Remove: true, To: serverDir + "/" + trustNextFile}, step{Remove: true, To: serverDir + "/" + rotationFile})
		return b.stage([]byte(now), serverDir+"/"+trustFile, false)
	}
	if err := b.stage([]byte(after), serverDir+"/"+trustNextFile, false); err != nil {
		return err
	}
	record, err := encodeRotation(b.steps.Done)
	if err != nil {
		return err
	}
	if err := b.stage(record, serverDir+"/"+rotationFile, false); err != nil {
		return err
	}
	return b.stage([]byte(now), serverDir+"/"+trustFile, false)
}

// version is the highest that was signed so far, in force or waiting.
func (b *stager) version() (uint64, error) {
	var version uint64
	for _, read := range []func() (string, *capability.Trust, error){b.mesh.Trust, b.mesh.NextTrust} {
		_, t, err := read()
		if err != nil {
			return 0, err
		}
		if t != nil {
			version = max(version, t.Version)
		}
	}
	return version, nil
}

// servers signs the certificates of the services whose folders are here anew, for the
// keys and the names that they have.
func (b *stager) servers(ca *pki.CA) error {
	m := b.mesh
	files := []string{serverDir + "/control.crt"}
	for _, dir := range m.natsDirs() {
		files = append(files, dir+"/server.crt")
	}
	for _, file := range files {
		text, err := readPublic(m.path(file))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is on another host
		}
		if err != nil {
			return err
		}
		certs, err := pki.ParseCertificates(text)
		if err != nil {
			return fmt.Errorf("reading %q: %w", m.path(file), err)
		}
		service, hosts, err := m.named(certs[0])
		if err != nil {
			return &Error{Path: m.path(file), Problem: err.Error()}
		}
		chain, err := ca.SignServer(certs[0].PublicKey, hosts, service, 0, b.now)
		if err != nil {
			return err
		}
		if err := b.stage(chain, file, false); err != nil {
			return err
		}
	}
	return nil
}

// named reads the service and the hosts that a server's certificate is for.
func (m *Mesh) named(c *x509.Certificate) (service string, hosts []string, err error) {
	if len(c.URIs) != 1 {
		return "", nil, errors.New("is not the certificate of a service of this mesh")
	}
	uri := c.URIs[0].String()
	service = uri[strings.LastIndex(uri, "/")+1:]
	if uri != agentid.ServiceSPIFFE(m.Config.TrustDomain, service) {
		return "", nil, errors.New("is not the certificate of a service of this mesh")
	}
	hosts = append(hosts, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return service, hosts, nil
}

// stage keeps data for its place.
func (b *stager) stage(data []byte, to string, secret bool) error {
	name := strings.ReplaceAll(to, "/", "__")
	path := filepath.Join(b.dir, name)
	err := pki.WriteFile(path, data)
	if secret {
		err = pki.ReplaceSecret(path, data)
	}
	b.steps.Steps = append(b.steps.Steps, step{File: name, To: to, Secret: secret})
	return err
}

// finishRotation puts in place what is staged, and reports whether there was anything.
func (m *Mesh) finishRotation() (r Rotation, finished bool, err error) {
	stage := m.path(stageDir)
	if _, err := os.Stat(stage); errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	var s steps
	if err := readJSON(filepath.Join(stage, stageList), &s); err != nil {
		return r, false, err
	}
	if s.Schema != stageSchema {
		return r, false, &Error{Path: filepath.Join(stage, stageList), Problem: fmt.Sprintf("schema %q is not %s", clip(s.Schema), stageSchema)}
	}
	for _, st := range s.Steps {
		if err := m.take(stage, st); err != nil {
			return r, false, err
		}
	}
	// The list goes last, by a name of its own, so that what is left is no rotation.
	gone := stage + ".done"
	if err := errors.Join(os.RemoveAll(gone), os.Rename(stage, gone), os.RemoveAll(gone)); err != nil {
		return r, false, fmt.Errorf("meshdir: %w", err)
	}
	return s.Done, true, nil
}

// take does one step, which may have been done before.
func (m *Mesh) take(stage string, s step) error {
	to := m.path(s.To)
	switch {
	case s.Remove:
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("meshdir: %w", err)
		}
		return nil
	case s.Move != "":
		if err := os.Rename(m.path(s.Move), to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("meshdir: %w", err)
		}
		return nil
	case s.Secret:
		data, err := pki.ReadSecret(filepath.Join(stage, s.File))
		if err != nil {
			return err
		}
		defer clear(data)
		return pki.ReplaceSecret(to, data)
	}
	data, err := readPublic(filepath.Join(stage, s.File))
	if err != nil {
		return err
	}
	return pki.WriteFile(to, data)
}

// RenewCA makes a new intermediate under the root that there is, whose key must be
// online, and returns when that ends.
func (m *Mesh) RenewCA(role pki.Role, now time.Time) (time.Time, error) {
	var none time.Time
	if r, err := m.Rotation(); err != nil {
		return none, err
	} else if r != nil {
		return none, &Error{Path: m.path(serverDir, rotationFile), Problem: "a rotation of the " + string(r.Role) + " CA is under way", hint: "sealmesh ca show says what it waits for"}
	}
	if role == pki.Agent {
		if err := m.embedded(); err != nil {
			return none, err
		}
	}
	name := string(role) + "-ca"
	crt, key := m.path(rootDir, name+".crt"), m.path(rootDir, name+".key")
	if _, err := os.Stat(key); errors.Is(err, fs.ErrNotExist) {
		return none, &Error{Path: key, Problem: "root is offline: the key of the " + string(role) + " CA's root cannot be found", hint: "bring root/ back from where it is kept, run the command again, and take it offline afterwards", cause: err}
	}
	root, err := pki.LoadRoot(role, m.Config.TrustDomain, crt, key)
	if err != nil {
		return none, err
	}
	current, err := m.loadCA(role)
	if err != nil {
		return none, err
	}
	if current.RootHash() != pki.RootHash(root.Certificate()) {
		return none, &Error{Path: crt, Problem: "is not the root of the CA in server/"}
	}
	ca, err := root.Intermediate(now)
	if err != nil {
		return none, err
	}
	text, err := ca.Key().PEM()
	if err != nil {
		return none, err
	}
	defer clear(text)
	to := m.path(serverDir, name+".key")
	if err := pki.ReplaceSecret(to+nextKey, text); err != nil {
		return none, err
	}
	if err := pki.WriteFile(m.path(serverDir, name+".crt"), ca.Bundle()); err != nil {
		return none, err
	}
	if err := os.Rename(to+nextKey, to); err != nil {
		return none, fmt.Errorf("meshdir: %w", err)
	}
	return ca.NotAfter(), nil
}

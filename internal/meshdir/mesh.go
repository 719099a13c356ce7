package meshdir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

// ConfigFile is the name of the configuration in a mesh directory.
const ConfigFile = "sealmesh.yaml"

// The folders of a mesh directory.
const (
	rootDir   = "root"
	serverDir = "server"
	natsDir   = "nats"
	agentsDir = "agents"
)

// The secret files of root/, server/ and nats/.
var (
	rootSecrets   = []string{"authority.nk", "agent-ca.key", "infra-ca.key", "agent-ca.old.key", "infra-ca.old.key", nextRootFile}
	serverSecrets = []string{
		"tokens.nk", "records.nk", "issuer.nk", "xkey.nk", "service.nk", "system.nk",
		"agent-ca.key", "infra-ca.key", "control.key",
	}
	natsSecrets = []string{"server.key", secretFile}
	// passingSecrets are in server/ only while a key is replaced.
	passingSecrets = []string{"old-issuer.nk", "old-xkey.nk", "next-tokens.nk", "next-records.nk"}
)

// trust is server/signing-keys.json: what every agent pins and is told. All of
// it is public.
type trust struct {
	Schema       string   `json:"schema"`
	Roots        []string `json:"roots"`        // public account nkeys
	Certificates []string `json:"certificates"` // signed by one of the roots, or by one before it
	// Leaving are certificates of keys that leaked: they count until nothing rests on
	// them any more.
	Leaving []string `json:"leaving,omitempty"`
	// Successors are the words of roots that were replaced.
	Successors []string `json:"successors,omitempty"`
}

const trustSchema = "sealmesh.signing-keys/v1"

// Mesh is a loaded mesh directory. Its keyring is read again by [Mesh.SigningKeys];
// all else in it stays. It is safe for concurrent use.
type Mesh struct {
	Dir    string // absolute
	Config Config

	ring *atomic.Pointer[capability.Keyring] // shared with copies
}

// Load reads a mesh directory as the control plane needs it: sealmesh.yaml and
// server/. Problems that somebody can mend are an [*Error] or a
// [*pki.ModeError], both with a hint. Secret files that others could read are
// refused here, also those of root/ and nats/ where these are present.
func Load(dir string) (*Mesh, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	m := &Mesh{Dir: abs, ring: new(atomic.Pointer[capability.Keyring])}
	text, err := readPublic(m.path(ConfigFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, m.absent(err)
	}
	if err != nil {
		return nil, err
	}
	if m.Config, err = parse(m.path(ConfigFile), text); err != nil {
		return nil, err
	}
	if err := m.checkSecrets(); err != nil {
		return nil, err
	}
	return m, m.loadTrust()
}

// absent explains a directory without sealmesh.yaml.
func (m *Mesh) absent(cause error) error {
	e := &Error{Path: m.Dir, cause: cause, Problem: "there is no mesh here", hint: "sealmesh init makes one; --mesh DIR or SEALMESH_MESH names another directory"}
	if _, err := os.Stat(m.path(rootDir)); err == nil {
		e.Problem = "has no " + ConfigFile + ", so sealmesh init did not finish here"
		e.hint = "remove the directory and run sealmesh init again"
	}
	return e
}

func (m *Mesh) path(elem ...string) string {
	return filepath.Join(append([]string{m.Dir}, elem...)...)
}

// checkSecrets looks at the modes of all secret files and reads none of them.
func (m *Mesh) checkSecrets() error {
	type folder struct {
		name    string
		files   []string
		missing bool // may be: root/ is offline, nats/ is on another host
	}
	folders := []folder{{rootDir, rootSecrets, true}, {serverDir, slices.Concat(serverSecrets, passingSecrets), false}}
	for _, dir := range m.natsDirs() {
		folders = append(folders, folder{dir, natsSecrets, true})
	}
	for _, d := range folders {
		for _, name := range d.files {
			if name == "agent-ca.key" && m.Config.Certificate.Issuer == IssuerVault {
				continue // Vault has it
			}
			path := m.path(d.name, name)
			info, err := os.Stat(path)
			switch {
			case errors.Is(err, fs.ErrNotExist) && (d.missing || slices.Contains(passingSecrets, name)):
			case errors.Is(err, fs.ErrNotExist):
				return &Error{Path: path, Problem: "the file is missing", hint: "restore it from a backup; without it the control plane cannot run", cause: err}
			case err != nil:
				return fmt.Errorf("meshdir: %w", err)
			case info.Mode().Perm()&^0o600 != 0 && runtime.GOOS != "windows":
				return &pki.ModeError{Path: path, Mode: info.Mode()}
			}
		}
	}
	return nil
}

func (m *Mesh) loadTrust() error {
	_, err := m.readTrust()
	return err
}

// readTrust reads signing-keys.json as it is now, and takes its keyring into use.
func (m *Mesh) readTrust() (trust, error) {
	var t trust
	path := m.path(serverDir, signingKeysFile)
	if err := readJSON(path, &t); err != nil {
		return t, err
	}
	if t.Schema != trustSchema {
		return t, &Error{Path: path, Problem: fmt.Sprintf("schema %q is not %s", clip(t.Schema), trustSchema)}
	}
	ring, err := capability.Follow(t.Roots, t.list(true))
	if err == nil && len(ring.Certificates()) == 0 {
		err = denial.New(denial.UnknownSigner, "no signing key is certified by a root of the file")
	}
	if err != nil {
		return t, &Error{Path: path, Problem: err.Error(), cause: err}
	}
	m.ring.Store(ring)
	return t, nil
}

// Ring returns the pinned authority roots with the signing keys that they
// certify, as they were when they were read last.
func (m *Mesh) Ring() (*capability.Keyring, error) {
	if m.ring == nil || m.ring.Load() == nil {
		return nil, errors.New("meshdir: the mesh was not loaded")
	}
	return m.ring.Load(), nil
}

// Roots returns the public authority roots ("A…") that everybody pins.
func (m *Mesh) Roots() []string { return m.ring.Load().Roots() }

// SigningKeyCertificates returns the authority's certificates of the signing
// keys.
func (m *Mesh) SigningKeyCertificates() []string { return m.ring.Load().Certificates() }

// AgentCA reads the online intermediate that signs agents' certificates.
func (m *Mesh) AgentCA() (*pki.CA, error) {
	return m.loadCA(pki.Agent)
}

// InfraCA reads the online intermediate that signs servers' certificates.
func (m *Mesh) InfraCA() (*pki.CA, error) {
	return m.loadCA(pki.Infra)
}

// ControlSource opens the control plane's TLS identity: its client certificate
// to nats-server and its server certificate for HTTPS. Peers are verified
// against the infra root.
func (m *Mesh) ControlSource() (*pki.Source, error) {
	s := m.ControlFiles()
	// A renewal may be under way, by another replica, and then key and certificate do not
	// belong together. Where the directory cannot be written there is none.
	if unlock, err := s.mend(); err == nil {
		defer unlock()
	}
	return pki.NewSource(s.Cert, s.Key, m.path(serverDir, "ca.crt"), time.Now)
}

// Founders reads the agents that exist before the registry does.
func (m *Mesh) Founders() ([]registry.Founder, error) {
	var f []registry.Founder
	return f, readJSON(m.path(serverDir, "bootstrap.json"), &f)
}

// AgentDir returns the path of the directory of an agent that lives with the
// mesh.
func (m *Mesh) AgentDir(id string) string { return m.path(agentsDir, id) }

// Store returns the absolute path of JetStream's directory where there is one
// nats-server.
func (m *Mesh) Store() string {
	if filepath.IsAbs(m.Config.NATS.Store) {
		return m.Config.NATS.Store
	}
	return m.path(m.Config.NATS.Store)
}

// State returns the absolute path of the directory that the control plane keeps its
// log of epochs in.
func (m *Mesh) State() string {
	if filepath.IsAbs(m.Config.State) {
		return m.Config.State
	}
	return m.path(m.Config.State)
}

// NATSConfig returns what nats-server.conf is written from; on a cluster, that of
// the first server.
func (m *Mesh) NATSConfig() (natsconf.Config, error) {
	all, err := m.NATSConfigs()
	if err != nil {
		return natsconf.Config{}, err
	}
	return all[0], nil
}

// NATSConfigs returns what the configurations of all nats-servers are written
// from. All paths in them are absolute, because nats-server resolves others
// against its working directory.
func (m *Mesh) NATSConfigs() ([]natsconf.Config, error) {
	space, err := subject.New(m.Config.Prefix)
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	c := natsconf.Config{Space: space, NoSystem: m.Config.NATS.NoSystemAccount}
	for _, k := range []struct {
		key keyFile
		to  *string
	}{{issuerKey, &c.Issuer}, {xKey, &c.XKey}, {serviceKey, &c.Service}, {systemKey, &c.System}} {
		if k.key == systemKey && c.NoSystem {
			continue
		}
		if *k.to, err = m.public(k.key); err != nil {
			return nil, err
		}
	}
	var out []natsconf.Config
	for _, s := range m.Config.NATS.Servers {
		out = append(out, m.member(c, s))
	}
	if len(out) > 0 {
		return out, nil
	}
	c.Name, c.Listen, c.StoreDir = m.Config.NATS.ServerName, m.Config.NATS.Listen, m.Store()
	c.TLS = natsconf.TLS{Cert: m.path(natsDir, "server.crt"), Key: m.path(natsDir, "server.key"), CA: m.path(natsDir, "ca.crt")}
	return []natsconf.Config{c}, nil
}

// readJSON reads one JSON document of the mesh's own, in which nothing unknown
// may stand.
func readJSON(path string, v any) error {
	b, err := readPublic(path)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return &Error{Path: path, Problem: err.Error(), cause: err}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return &Error{Path: path, Problem: "holds more than one document"}
	}
	return nil
}

// maxPublic is the longest public file that is read, in bytes.
const maxPublic = 1 << 20

func readPublic(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxPublic+1))
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	if len(b) > maxPublic {
		return nil, &Error{Path: path, Problem: fmt.Sprintf("longer than %d bytes", maxPublic)}
	}
	return slices.Clip(b), nil
}

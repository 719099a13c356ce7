// Package agentdir reads and writes the directory that an instance of an agent
// lives from: who it is, its keys, its certificate, what it trusts, the chains it
// was handed, and the epochs below which it does not go back (docs/operations.md,
// "Files").
//
// One secret a file, each 0600 and refused when wider. A directory belongs to
// one instance; two processes that share one are one instance to the mesh.
package agentdir

import (
	"bytes"
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
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

// The files of an agent's directory.
const (
	InfoFile    = "agent.json"
	KeyFile     = "agent.nk"
	CurveFile   = "curve.nk"
	TLSKeyFile  = "tls.key"
	TLSCertFile = "tls.crt"
	CAFile      = "ca.crt"
	ChainsDir   = "chains"
	ContextFile = "nats-context.json"
)

// Schema is that of agent.json.
const Schema = "sealmesh.agent-dir/v1"

// Info is agent.json: what the instance knows of itself and of its mesh. None
// of it is secret, and none of it is believed without the pinned roots.
type Info struct {
	Schema      string           `json:"schema"`
	Agent       agentid.ID       `json:"agent"`
	Instance    agentid.Instance `json:"instance"`
	TrustDomain string           `json:"trust_domain"`
	Prefix      string           `json:"prefix"`
	NATS        []string         `json:"nats"`    // URLs of the nats-servers
	Control     string           `json:"control"` // URL of the control plane's HTTPS endpoint
	CA          string           `json:"ca"`      // hash of the infra root's key
	Roots       []string         `json:"roots"`   // pinned authority roots
	SigningKeys []string         `json:"signing_keys"`
	Passport    string           `json:"passport"`
}

// Dir is an opened directory.
type Dir struct {
	Path string
	Info Info
}

// Open reads agent.json and checks that the directory is complete. Secrets are
// read when they are asked for. A renewal of the certificate that was interrupted is
// ended.
func Open(path string) (*Dir, error) {
	b, err := os.ReadFile(filepath.Join(path, InfoFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("agentdir: %s is not an agent's directory: it has no %s", path, InfoFile)
	}
	if err != nil {
		return nil, fmt.Errorf("agentdir: %w", err)
	}
	d := &Dir{Path: path}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d.Info); err != nil {
		return nil, fmt.Errorf("agentdir: %s: %w", filepath.Join(path, InfoFile), err)
	}
	i := d.Info
	if i.Schema != Schema || i.Agent.IsZero() || len(i.NATS) == 0 || len(i.Roots) == 0 || i.TrustDomain == "" || i.Prefix == "" {
		return nil, fmt.Errorf("agentdir: %s is incomplete or of another version", filepath.Join(path, InfoFile))
	}
	if err := mend(path); err != nil {
		return nil, err
	}
	return d, nil
}

// File returns the path of one of the directory's files.
func (d *Dir) File(name string) string { return filepath.Join(d.Path, name) }

// Key reads the instance's nkey and checks that it is the one the directory is
// for.
func (d *Dir) Key() (nkeys.KeyPair, error) {
	kp, err := readKey(d.File(KeyFile), nkeys.FromSeed)
	if err != nil {
		return nil, err
	}
	pub, err := kp.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("agentdir: %s: %w", d.File(KeyFile), err)
	}
	if !nkeys.IsValidPublicUserKey(pub) || agentid.InstanceOf(pub) != d.Info.Instance {
		return nil, fmt.Errorf("agentdir: %s is not the key of instance %s/%s", d.File(KeyFile), d.Info.Agent, d.Info.Instance)
	}
	return kp, nil
}

// Seed reads the instance's nkey seed. The caller wipes it.
func (d *Dir) Seed() ([]byte, error) { return d.seed(KeyFile) }

// CurveSeed reads the seed of the key with which the instance opens what is sealed
// to it. The caller wipes it.
func (d *Dir) CurveSeed() ([]byte, error) { return d.seed(CurveFile) }

func (d *Dir) seed(name string) ([]byte, error) {
	b, err := pki.ReadSecret(d.File(name))
	if err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b), nil
}

// Source opens the TLS identity, reloaded when its files change.
func (d *Dir) Source() (s *pki.Source, err error) {
	open := func() error {
		s, err = pki.NewSource(d.File(TLSCertFile), d.File(TLSKeyFile), d.File(CAFile), time.Now)
		return nil
	}
	if open(); err == nil { //nolint:errcheck // err has it
		return s, nil
	}
	// Another process may have replaced one of the two files and not yet the other.
	if e := mend(d.Path); e != nil {
		return nil, e
	}
	if e := locked(d.Path, open); e != nil {
		return nil, e
	}
	return s, err
}

// Write writes agent.json.
func Write(path string, info Info) error {
	info.Schema = Schema
	b, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return fmt.Errorf("agentdir: %w", err)
	}
	return pki.WriteFile(filepath.Join(path, InfoFile), append(b, '\n'))
}

// Keys are the secrets of a new instance, made where it will live.
type Keys struct {
	Key   nkeys.KeyPair
	Curve nkeys.KeyPair
	TLS   *pki.Key
}

// NewKeys makes the keys of a directory, or reads those that an interrupted run
// left there, so that it can be finished with the same keys.
func NewKeys(path string) (Keys, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return Keys{}, fmt.Errorf("agentdir: %w", err)
	}
	var k Keys
	var err error
	if k.Key, err = keepKey(filepath.Join(path, KeyFile), nkeys.CreateUser, nkeys.FromSeed); err != nil {
		return Keys{}, err
	}
	if k.Curve, err = keepKey(filepath.Join(path, CurveFile), nkeys.CreateCurveKeys, nkeys.FromCurveSeed); err != nil {
		return Keys{}, err
	}
	name := filepath.Join(path, TLSKeyFile)
	text, err := pki.ReadSecret(name)
	switch {
	case err == nil:
		k.TLS, err = pki.ParseKey(text)
		return k, err
	case !errors.Is(err, fs.ErrNotExist):
		return Keys{}, err
	}
	if k.TLS, err = pki.NewTLSKey(); err != nil {
		return Keys{}, err
	}
	if text, err = k.TLS.PEM(); err != nil {
		return Keys{}, err
	}
	return k, pki.WriteSecret(name, text)
}

func keepKey(name string, create func() (nkeys.KeyPair, error), parse func([]byte) (nkeys.KeyPair, error)) (nkeys.KeyPair, error) {
	kp, err := readKey(name, parse)
	if !errors.Is(err, fs.ErrNotExist) {
		return kp, err
	}
	if kp, err = create(); err != nil {
		return nil, fmt.Errorf("agentdir: making a key: %w", err)
	}
	seed, err := kp.Seed()
	if err != nil {
		return nil, fmt.Errorf("agentdir: making a key: %w", err)
	}
	return kp, pki.WriteSecret(name, append(seed, '\n'))
}

func readKey(name string, parse func([]byte) (nkeys.KeyPair, error)) (nkeys.KeyPair, error) {
	b, err := pki.ReadSecret(name)
	if err != nil {
		return nil, err
	}
	kp, err := parse(bytes.TrimSpace(b))
	if err != nil {
		// The cause is left out: it must not quote a seed.
		return nil, fmt.Errorf("agentdir: %s holds no nkey seed", name)
	}
	return kp, nil
}

// Chains returns the texts of the chains that the instance was handed.
func (d *Dir) Chains() ([]string, error) {
	names, err := filepath.Glob(filepath.Join(d.Path, ChainsDir, "*.chain"))
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || info.Size() > limits.Chain {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("agentdir: %w", err)
		}
		out = append(out, strings.TrimSpace(string(b)))
	}
	return out, nil
}

// KeepChain stores a chain under its digest.
func (d *Dir) KeepChain(text string) error {
	dir := filepath.Join(d.Path, ChainsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("agentdir: %w", err)
	}
	return pki.WriteFile(filepath.Join(dir, jws.Digest(text)+".chain"), []byte(text+"\n"))
}

// DropChain removes a chain that is worth nothing any more.
func (d *Dir) DropChain(digest string) error {
	if !jws.IsDigest(digest) {
		return fmt.Errorf("agentdir: not a chain digest")
	}
	err := os.Remove(filepath.Join(d.Path, ChainsDir, digest+".chain"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// WriteContext writes the file by which the nats CLI connects as this agent.
func WriteContext(path string, info Info) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(map[string]any{
		"description":  "Sealmesh agent " + info.Agent.String(),
		"url":          strings.Join(info.NATS, ","),
		"nkey":         filepath.Join(abs, KeyFile),
		"cert":         filepath.Join(abs, TLSCertFile),
		"key":          filepath.Join(abs, TLSKeyFile),
		"ca":           filepath.Join(abs, CAFile),
		"inbox_prefix": "_INBOX_" + info.Agent.String() + "_" + info.Instance.String(),
	}, "", "  ")
	if err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(path, ContextFile), append(b, '\n'))
}

// Find resolves what --as or SEALMESH_AS names: a value with a slash is a path,
// anything else an agent ID, looked up in the mesh directory and then in the
// user's configuration directory. An unknown name is an error, never a fallback.
func Find(as, meshDir string) (*Dir, error) {
	if as == "" {
		return nil, errors.New("agentdir: no agent named; use --as ID or set SEALMESH_AS")
	}
	if strings.ContainsRune(as, '/') {
		return Open(as)
	}
	id, err := agentid.Parse(as)
	if err != nil {
		return nil, err
	}
	tried := []string{filepath.Join(meshDir, "agents", id.String())}
	if home, err := os.UserConfigDir(); err == nil {
		tried = append(tried, filepath.Join(home, "sealmesh", "agents", id.String()))
	}
	for _, path := range tried {
		if _, err := os.Stat(filepath.Join(path, InfoFile)); err == nil {
			return Open(path)
		}
	}
	return nil, fmt.Errorf("agentdir: no directory of agent %q in %s", id, strings.Join(tried, " or "))
}

// Update changes agent.json, under the directory's lock.
func Update(path string, change func(*Info)) error {
	return locked(path, func() error {
		b, err := os.ReadFile(filepath.Join(path, InfoFile))
		if err != nil {
			return fmt.Errorf("agentdir: %w", err)
		}
		var i Info
		if err := json.Unmarshal(b, &i); err != nil {
			return fmt.Errorf("agentdir: %s: %w", filepath.Join(path, InfoFile), err)
		}
		change(&i)
		return Write(path, i)
	})
}

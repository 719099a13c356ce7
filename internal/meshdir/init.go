package meshdir

import (
	"cmp"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/pki"
)

// signingKeyTTL is how long the authority certifies a signing key.
const signingKeyTTL = 90 * 24 * time.Hour

// backdate is how long before its issue a signing key's certificate becomes
// valid, for readers whose clock is a little slow.
const backdate = time.Minute

// Init makes a mesh in dir, which must be absent or empty: keys, certificates,
// nats-server configuration, sealmesh.yaml, and the agent `admin` in
// agents/admin. It refuses a directory that holds anything (fs.ErrExist). On an
// error everything that it made is removed again, and nothing else.
func Init(dir string, o InitOptions) (_ *Mesh, err error) {
	if o.Now.IsZero() {
		o.Now = time.Now()
	}
	c, err := o.config()
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	w, err := claim(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.undo())
		}
	}()
	b := &builder{writer: w, mesh: &Mesh{Dir: w.dir, Config: c, ring: new(atomic.Pointer[capability.Keyring])}, options: o, now: o.Now}
	for _, step := range []func() error{b.folders, b.authorities, b.keys, b.trust, b.control, b.nats, b.admin, b.config} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	// What Load would refuse must not be left behind as a mesh.
	return Load(w.dir)
}

// builder makes the parts of a new mesh, in the order of Init.
type builder struct {
	*writer
	mesh    *Mesh
	options InitOptions
	now     time.Time

	agents  pki.Issuer // signs agents' certificates
	infraCA *pki.CA
}

func (b *builder) folders() error {
	// The first one is also the lock: of two that found the directory empty,
	// one fails here and has made nothing.
	for _, d := range []string{rootDir, serverDir, natsDir, agentsDir} {
		if err := b.mkdir(d); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) authorities() error {
	var err error
	if b.mesh.Config.Certificate.Issuer == IssuerVault {
		err = b.vaultAuthority()
	} else {
		b.agents, err = b.authority(pki.Agent)
	}
	if err != nil {
		return err
	}
	if b.infraCA, err = b.authority(pki.Infra); err != nil {
		return err
	}
	// On its own, so that nobody who verifies servers needs the intermediate.
	return b.public(b.infraCA.Roots(), serverDir, "ca.crt")
}

func (b *builder) authority(role pki.Role) (*pki.CA, error) {
	root, err := pki.NewCA(role, b.mesh.Config.TrustDomain, b.now)
	if err != nil {
		return nil, err
	}
	ca, err := root.Intermediate(b.now)
	if err != nil {
		return nil, err
	}
	name := string(role) + "-ca"
	if err := b.tlsKey(root.Key(), rootDir, name+".key"); err != nil {
		return nil, err
	}
	if err := b.public(pki.EncodeCertificates(root.Certificate()), rootDir, name+".crt"); err != nil {
		return nil, err
	}
	if err := b.tlsKey(ca.Key(), serverDir, name+".key"); err != nil {
		return nil, err
	}
	return ca, b.public(ca.Bundle(), serverDir, name+".crt")
}

func (b *builder) keys() error {
	for _, k := range []keyFile{tokensKey, recordsKey, issuerKey, xKey, serviceKey, systemKey} {
		create := func() (nkeys.KeyPair, error) { return nkeys.CreatePair(k.kind) }
		if k.kind == nkeys.PrefixByteCurve {
			create = nkeys.CreateCurveKeys
		}
		kp, err := create()
		if err != nil {
			return fmt.Errorf("meshdir: making a key: %w", err)
		}
		if err := b.nkey(kp, serverDir, k.name); err != nil {
			return err
		}
		kp.Wipe()
	}
	return nil
}

// trust makes the authority root and certifies the signing keys.
func (b *builder) trust() error {
	root, err := nkeys.CreateAccount()
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	defer root.Wipe()
	if err := b.nkey(root, rootDir, "authority.nk"); err != nil {
		return err
	}
	pub, err := root.PublicKey()
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	t := trust{Schema: trustSchema, Roots: []string{pub}}
	for _, k := range []struct {
		key     keyFile
		purpose capability.Purpose
	}{{tokensKey, capability.ForTokens}, {recordsKey, capability.ForRecords}} {
		key, err := b.mesh.public(k.key)
		if err != nil {
			return err
		}
		text, err := capability.CertifyKey(root, key, k.purpose, b.now.Add(-backdate), b.now.Add(cmp.Or(b.options.SigningKeys, signingKeyTTL)), b.now)
		if err != nil {
			return err
		}
		t.Certificates = append(t.Certificates, text)
	}
	if err := b.json(t, serverDir, signingKeysFile); err != nil {
		return err
	}
	if err := b.trustDocument(root); err != nil {
		return err
	}
	return b.mesh.loadTrust()
}

// trustDocument signs the first trust document.
func (b *builder) trustDocument(root nkeys.KeyPair) error {
	agent, err := pki.ParseCertificates(b.agents.Roots())
	if err != nil {
		return err
	}
	text, err := capability.SignTrust(root, b.mesh.Config.TrustDomain, 1, []*x509.Certificate{b.infraCA.Root()}, b.mesh.announced(agent), b.now)
	if err != nil {
		return err
	}
	return b.public([]byte(text), serverDir, trustFile)
}

func (b *builder) control() error {
	c := b.mesh.Config
	return b.server("control", hosts(b.options.Hosts, c.Control.URL), serverDir, "control")
}

func (b *builder) nats() error {
	c := b.mesh.Config
	if len(c.NATS.Servers) > 0 {
		return b.cluster()
	}
	if err := b.server("nats", hosts(b.options.Hosts, c.NATS.URLs...), natsDir, "server"); err != nil {
		return err
	}
	if err := b.public(append(b.agents.Roots(), b.infraCA.Roots()...), natsDir, "ca.crt"); err != nil {
		return err
	}
	conf, err := b.mesh.NATSConfig()
	if err != nil {
		return err
	}
	return b.serverConf(conf, natsDir)
}

// server makes the key and the certificate of a service.
func (b *builder) server(service string, hosts []string, dir, name string) error {
	key, err := pki.NewTLSKey()
	if err != nil {
		return err
	}
	chain, err := b.infraCA.SignServer(key.Public(), hosts, service, b.mesh.Config.Certificate.ServerTTL, b.now)
	if err != nil {
		return err
	}
	if err := b.tlsKey(key, dir, name+".key"); err != nil {
		return err
	}
	return b.public(chain, dir, name+".crt")
}

func (b *builder) config() error {
	text, err := b.mesh.Config.text()
	if err != nil {
		return err
	}
	return b.public(text, ConfigFile)
}

func (b *builder) nkey(kp nkeys.KeyPair, elem ...string) error {
	seed, err := kp.Seed()
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	text := append(seed, '\n')
	defer clear(text)
	return b.secret(text, elem...)
}

func (b *builder) tlsKey(k *pki.Key, elem ...string) error {
	text, err := k.PEM()
	if err != nil {
		return err
	}
	defer clear(text)
	return b.secret(text, elem...)
}

func (b *builder) json(v any, elem ...string) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	return b.public(append(text, '\n'), elem...)
}

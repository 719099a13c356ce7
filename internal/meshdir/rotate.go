package meshdir

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/pki"
)

const (
	signingKeysFile = "signing-keys.json"
	nextRootFile    = "next-authority.nk"
)

// list is what is published of the signing keys; with those that leave, or without.
func (t trust) list(leaving bool) []string {
	out := slices.Concat(t.Certificates, t.Successors)
	if leaving {
		out = append(out, t.Leaving...)
	}
	return out
}

// SigningKeys are the signing keys of the files as they are now.
type SigningKeys struct {
	Ring *capability.Keyring // what counts, keys that leave included
	List []string            // what is published of it
	// Final and FinalList are the same without the keys that leave.
	Final     *capability.Keyring
	FinalList []string
	Leaving   []string // public keys
	Records   nkeys.KeyPair
	Tokens    nkeys.KeyPair
}

// SigningKeys reads the signing keys again, while the mesh runs. Whoever replaces
// them certifies first and puts the key in place then, and here the key is read
// first: so what is read fits together whenever it is read.
func (m *Mesh) SigningKeys() (*SigningKeys, error) {
	var s SigningKeys
	var err error
	if s.Records, err = m.RecordsKey(); err != nil {
		return nil, err
	}
	if s.Tokens, err = m.TokensKey(); err != nil {
		return nil, err
	}
	t, err := m.readTrust()
	if err != nil {
		return nil, err
	}
	s.List, s.FinalList = t.list(true), t.list(false)
	if s.Ring, err = m.Ring(); err != nil {
		return nil, err
	}
	if s.Final, err = capability.Follow(t.Roots, s.FinalList); err != nil {
		return nil, &Error{Path: m.path(serverDir, signingKeysFile), Problem: err.Error(), cause: err}
	}
	stays := keysOf(s.Final)
	for _, k := range keysOf(s.Ring) {
		if !slices.Contains(stays, k) {
			s.Leaving = append(s.Leaving, k)
		}
	}
	return &s, nil
}

func keysOf(ring *capability.Keyring) []string {
	var out []string
	for _, k := range ring.Keys() {
		out = append(out, k.Key)
	}
	return out
}

// SigningKeyFiles are the files that SigningKeys reads.
func (m *Mesh) SigningKeyFiles() []string {
	return []string{m.path(serverDir, signingKeysFile), m.path(serverDir, recordsKey.name), m.path(serverDir, tokensKey.name)}
}

// KeyChange says what is to become of signing keys.
type KeyChange struct {
	// New are the purposes for which there are to be new keys; the others stay.
	New []capability.Purpose
	// Leaked takes the certificates of the replaced keys away as soon as nothing rests
	// on them any more.
	Leaked bool
	For    time.Duration // how long the authority certifies the keys; 90 days where zero
	Now    time.Time
}

func (c *KeyChange) settle() error {
	c.For = cmp.Or(c.For, signingKeyTTL)
	if c.For < time.Second {
		return fmt.Errorf("meshdir: keys cannot be certified for %s", c.For)
	}
	if c.Now.IsZero() {
		c.Now = time.Now()
	}
	return nil
}

// ChangeSigningKeys certifies the signing keys for another while, and makes new ones
// where that is asked for. Root/ must be online. A control plane that runs takes what
// it writes into use by itself.
func (m *Mesh) ChangeSigningKeys(c KeyChange) error {
	return m.changeTrust(&c, func(t *trust, root nkeys.KeyPair, now time.Time) error {
		return m.certify(t, root, c, now)
	})
}

// changeTrust runs one change of signing-keys.json, alone. The new keys are put in
// place once the file that certifies them is.
func (m *Mesh) changeTrust(c *KeyChange, change func(t *trust, root nkeys.KeyPair, now time.Time) error) error {
	if err := c.settle(); err != nil {
		return err
	}
	unlock, err := lockFile(m.path(serverDir, signingKeysFile+".lock"))
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	defer unlock()
	root, err := m.onlineRoot()
	if err != nil {
		return err
	}
	defer root.Wipe()
	t, err := m.readTrust()
	if err != nil {
		return err
	}
	// Later than all that are there, so that two lists have an order.
	now := c.Now
	if least := m.ring.Load().Issued().Add(time.Second); now.Before(least) {
		now = least
	}
	if err := change(&t, root, now); err != nil {
		return err
	}
	if err := m.writeTrust(t); err != nil {
		return err
	}
	for _, p := range c.New {
		k := keyFor(p)
		if err := os.Rename(m.path(serverDir, k.next().name), m.path(serverDir, k.name)); err != nil {
			return fmt.Errorf("meshdir: %w", err)
		}
	}
	return nil
}

// onlineRoot reads the authority root and sees to it that it is the mesh's.
func (m *Mesh) onlineRoot() (nkeys.KeyPair, error) {
	root, err := m.rootKey()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{Path: m.path(rootDir, "authority.nk"), Problem: "the authority root is offline", hint: "bring root/ back from where it is kept, run the command again, and take it offline afterwards", cause: err}
	}
	if err != nil {
		return nil, err
	}
	pub, err := root.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("meshdir: authority.nk: %w", err)
	}
	if !slices.Contains(m.Roots(), pub) {
		// A run that was interrupted after it told everybody of the next one.
		if _, err := os.Lstat(m.path(rootDir, nextRootFile)); err == nil {
			next, err := m.nextRoot(m.path(rootDir, nextRootFile))
			if err != nil {
				return nil, err
			}
			if pub, err := next.PublicKey(); err == nil && slices.Contains(m.Roots(), pub) {
				root.Wipe()
				return next, os.Rename(m.path(rootDir, nextRootFile), m.path(rootDir, "authority.nk"))
			}
		}
		root.Wipe()
		return nil, &Error{Path: m.path(rootDir, "authority.nk"), Problem: "is not the authority root that this mesh's agents pin"}
	}
	return root, nil
}

func keyFor(p capability.Purpose) keyFile {
	if p == capability.ForTokens {
		return tokensKey
	}
	return recordsKey
}

// next is the file of a key that is made and not yet in use.
func (k keyFile) next() keyFile { return keyFile{"next-" + k.name, k.kind} }

// certify signs certificates for the keys of both purposes that are to be in use.
func (m *Mesh) certify(t *trust, root nkeys.KeyPair, c KeyChange, now time.Time) error {
	t.Certificates = slices.DeleteFunc(t.Certificates, func(text string) bool { return ended(t.Roots, text, now) })
	for _, p := range []capability.Purpose{capability.ForTokens, capability.ForRecords} {
		key := keyFor(p)
		fresh := slices.Contains(c.New, p)
		if fresh && c.Leaked {
			old, err := m.public(key)
			if err != nil {
				return err
			}
			t.leave(old)
		}
		if fresh {
			key = key.next()
			if err := m.makeKey(key); err != nil {
				return err
			}
		} else if len(c.New) > 0 {
			continue // a rotation of the other one alone
		}
		pub, err := m.public(key)
		if err != nil {
			return err
		}
		text, err := capability.CertifyKey(root, pub, p, now.Add(-backdate), now.Add(c.For), now)
		if err != nil {
			return err
		}
		t.Certificates = append(t.Certificates, text)
	}
	return nil
}

// ended reports whether nothing counts by a certificate any more.
func ended(roots []string, text string, now time.Time) bool {
	ring, err := capability.NewKeyring(roots, []string{text})
	if err != nil {
		return false // of a root before; goes with it
	}
	return !now.Before(ring.Keys()[0].Expires)
}

// leave moves all certificates of a key to those that leave.
func (t *trust) leave(key string) {
	t.Certificates = slices.DeleteFunc(t.Certificates, func(text string) bool {
		ring, err := capability.NewKeyring(t.Roots, []string{text})
		if err != nil || ring.Keys()[0].Key != key {
			return false
		}
		t.Leaving = append(t.Leaving, text)
		return true
	})
}

// makeKey makes a key, or leaves the one that an interrupted run made.
func (m *Mesh) makeKey(k keyFile) error {
	path := m.path(serverDir, k.name)
	if _, err := os.Lstat(path); err == nil {
		_, err := m.key(k)
		return err
	}
	kp, err := k.make()
	if err != nil {
		return err
	}
	defer kp.Wipe()
	return writeSeed(kp, path, pki.WriteSecret)
}

func (k keyFile) make() (nkeys.KeyPair, error) {
	var kp nkeys.KeyPair
	var err error
	if k.kind == nkeys.PrefixByteCurve {
		kp, err = nkeys.CreateCurveKeys()
	} else {
		kp, err = nkeys.CreatePair(k.kind)
	}
	if err != nil {
		return nil, fmt.Errorf("meshdir: making a key: %w", err)
	}
	return kp, nil
}

func writeSeed(kp nkeys.KeyPair, path string, write func(string, []byte) error) error {
	seed, err := kp.Seed()
	if err != nil {
		return fmt.Errorf("meshdir: making a key: %w", err)
	}
	text := append(slices.Clone(seed), '\n')
	defer clear(text)
	return write(path, text)
}

func (m *Mesh) writeTrust(t trust) error {
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	if _, err := capability.Follow(t.Roots, t.list(true)); err != nil {
		return &Error{Path: m.path(serverDir, signingKeysFile), Problem: err.Error(), cause: err}
	}
	if err := pki.WriteFile(m.path(serverDir, signingKeysFile), append(text, '\n')); err != nil {
		return err
	}
	_, err = m.readTrust()
	return err
}

// FinishSigningKeys forgets what was only for the time of a change: the certificates
// of keys that leaked, of roots that were replaced, and the words of these. Agents that
// have not heard of the new root by then have to be enrolled again.
func (m *Mesh) FinishSigningKeys() error {
	unlock, err := lockFile(m.path(serverDir, signingKeysFile+".lock"))
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	defer unlock()
	t, err := m.readTrust()
	if err != nil {
		return err
	}
	t.Leaving, t.Successors = nil, nil
	t.Certificates = slices.DeleteFunc(t.Certificates, func(text string) bool {
		_, err := capability.NewKeyring(t.Roots, []string{text})
		return err != nil
	})
	return m.writeTrust(t)
}

// RotateRoot makes a new authority root and certifies the signing keys with it. The old
// root's word that this one follows leads agents over by themselves. Where the old one
// leaked it has no word: there are new signing keys too, which it never certified, the
// agents that live in the mesh directory are told here, and all others believe nobody
// until they are enrolled again.
func (m *Mesh) RotateRoot(c KeyChange) (next string, err error) {
	if _, err := os.Stat(m.path(serverDir, rotationFile)); err == nil {
		return "", &Error{Path: m.path(serverDir, rotationFile), Problem: "a CA is being rotated, in documents that the present root signed", hint: "finish that first; sealmesh ca show says what it waits for"}
	}
	c.New = nil
	if c.Leaked {
		c.New = []capability.Purpose{capability.ForTokens, capability.ForRecords}
	}
	path := m.path(rootDir, nextRootFile)
	err = m.changeTrust(&c, func(t *trust, old nkeys.KeyPair, now time.Time) error {
		if len(t.Successors) > 0 {
			return &Error{Path: m.path(serverDir, signingKeysFile), Problem: "the root was replaced lately, and not all agents may have heard of it", hint: "sealmesh keys rotate root --finish ends that"}
		}
		root, err := m.nextRoot(path)
		if err != nil {
			return err
		}
		defer root.Wipe()
		if next, err = root.PublicKey(); err != nil {
			return fmt.Errorf("meshdir: making a key: %w", err)
		}
		return m.replaceRoot(t, old, root, next, c, now)
	})
	if err != nil {
		return "", err
	}
	if err := os.Rename(path, m.path(rootDir, "authority.nk")); err != nil {
		return "", fmt.Errorf("meshdir: %w", err)
	}
	return next, m.tellAgents()
}

// nextRoot reads the root that an interrupted run made, or makes one.
func (m *Mesh) nextRoot(path string) (nkeys.KeyPair, error) {
	if seed, err := pki.ReadSecret(path); err == nil {
		defer clear(seed)
		kp, err := nkeys.FromSeed(seed[:max(0, len(seed)-1)])
		if err != nil {
			return nil, &Error{Path: path, Problem: "holds no nkey seed of its kind"}
		}
		return kp, nil
	}
	kp, err := nkeys.CreateAccount()
	if err != nil {
		return nil, fmt.Errorf("meshdir: making a key: %w", err)
	}
	return kp, writeSeed(kp, path, pki.WriteSecret)
}

// replaceRoot puts the new root in the place of the old one, certifies again all that
// still counts, and signs the trust document anew.
func (m *Mesh) replaceRoot(t *trust, old, root nkeys.KeyPair, next string, c KeyChange, now time.Time) error {
	before := m.ring.Load()
	_, doc, err := m.Trust()
	if err != nil {
		return err
	}
	if !c.Leaked {
		word, err := capability.SignSuccessor(old, next, now)
		if err != nil {
			return err
		}
		t.Successors = append(t.Successors, word)
	}
	certificates := t.Certificates
	t.Roots, t.Certificates, t.Leaving = []string{next}, nil, nil
	for _, k := range before.Keys() {
		if !now.Before(k.Expires) {
			continue
		}
		text, err := capability.CertifyKey(root, k.Key, k.Purpose, k.NotBefore, k.Expires, now)
		if err != nil {
			return err
		}
		t.Certificates = append(t.Certificates, text)
	}
	// With a root that leaked, the keys that it certified leave as well: whoever pins it
	// still believes them, and is to believe nothing.
	if c.Leaked {
		for _, k := range before.Keys() {
			t.leave(k.Key)
		}
		if err := m.certify(t, root, c, now); err != nil {
			return err
		}
	} else {
		// For those who have not heard of the new one yet.
		t.Certificates = append(t.Certificates, certificates...)
	}
	if doc == nil {
		return nil
	}
	infra, err := doc.InfraRoots()
	if err != nil {
		return err
	}
	agent, err := doc.AgentRoots()
	if err != nil {
		return err
	}
	text, err := capability.SignTrust(root, m.Config.TrustDomain, doc.Version+1, infra, agent, now)
	if err != nil {
		return err
	}
	return pki.WriteFile(m.path(serverDir, trustFile), []byte(text))
}

// tellAgents writes the roots and signing keys into the directories of the agents that
// live in the mesh directory, as Init did for the first of them: whoever brings the
// others back needs one that works.
func (m *Mesh) tellAgents() error {
	entries, err := os.ReadDir(m.path(agentsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	var errs []error
	for _, e := range entries {
		d, err := agentdir.Open(m.path(agentsDir, e.Name()))
		if err != nil {
			continue // never enrolled
		}
		errs = append(errs, agentdir.Update(d.Path, func(i *agentdir.Info) {
			i.Roots, i.SigningKeys = m.Roots(), m.SigningKeyCertificates()
		}))
	}
	return errors.Join(errs...)
}

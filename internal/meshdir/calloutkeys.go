package meshdir

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/pki"
)

// old is the file of a key that was replaced and that servers may still name.
func (k keyFile) old() keyFile { return keyFile{"old-" + k.name, k.kind} }

// IssuerKeys reads the keys that sign user JWTs, newest first: while one replaces the
// other there are two.
func (m *Mesh) IssuerKeys() ([]nkeys.KeyPair, error) { return m.both(issuerKey) }

// XKeys reads the curve keys that callout requests are sealed to, newest first.
func (m *Mesh) XKeys() ([]nkeys.KeyPair, error) { return m.both(xKey) }

// CalloutKeyFiles are the files that IssuerKeys and XKeys read.
func (m *Mesh) CalloutKeyFiles() []string {
	var out []string
	for _, k := range []keyFile{issuerKey, xKey} {
		out = append(out, m.path(serverDir, k.name), m.path(serverDir, k.old().name))
	}
	return out
}

// both reads the old key first: while it is replaced, it is laid aside before the new
// one takes its place.
func (m *Mesh) both(k keyFile) ([]nkeys.KeyPair, error) {
	newest, err := m.key(k)
	if err != nil {
		return nil, err
	}
	out := []nkeys.KeyPair{newest}
	old, err := m.key(k.old())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		out = append(out, old)
	}
	return out, nil
}

// CalloutKey names one of the two keys that stand in the servers' configuration.
type CalloutKey string

// The keys of the callout.
const (
	CalloutIssuer CalloutKey = "issuer"
	CalloutXKey   CalloutKey = "xkey"
)

func (c CalloutKey) file() (keyFile, error) {
	switch c {
	case CalloutIssuer:
		return issuerKey, nil
	case CalloutXKey:
		return xKey, nil
	}
	return keyFile{}, fmt.Errorf("meshdir: no key %q", string(c))
}

// ConfChange is what became of the configuration of one nats-server.
type ConfChange struct {
	Path    string `json:"path"`
	Written bool   `json:"written"`
	// Lines are what to change by hand where somebody changed the file, or where it is
	// on another host: from the first to the second.
	Lines [2]string `json:"lines,omitzero"`
	Why   string    `json:"why,omitempty"` // it was not written
}

// RotateCalloutKey makes a new issuer or xkey and writes it into the configuration of
// every nats-server whose folder is here and as it was generated. The old key is kept
// beside it, because servers name it until they read their files again; where it leaked
// it is not kept, and such servers let nobody in meanwhile.
func (m *Mesh) RotateCalloutKey(c CalloutKey, leaked bool) ([]ConfChange, error) {
	k, err := c.file()
	if err != nil {
		return nil, err
	}
	unlock, err := lockFile(m.path(serverDir, signingKeysFile+".lock"))
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	defer unlock()
	old := m.path(serverDir, k.old().name)
	if _, err := os.Lstat(old); err == nil && !leaked {
		return nil, &Error{Path: old, Problem: "the " + string(c) + " was replaced before, and the one before it still counts", hint: "sealmesh keys rotate " + string(c) + " --finish ends that"}
	}
	before, err := m.confTexts()
	if err != nil {
		return nil, err
	}
	was, err := m.public(k)
	if err != nil {
		return nil, err
	}
	if leaked {
		if err := os.Remove(old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("meshdir: %w", err)
		}
	} else if err := m.layAside(k); err != nil {
		return nil, err
	}
	kp, err := k.make()
	if err != nil {
		return nil, err
	}
	defer kp.Wipe()
	if err := writeSeed(kp, m.path(serverDir, k.name), pki.ReplaceSecret); err != nil {
		return nil, err
	}
	is, err := m.public(k)
	if err != nil {
		return nil, err
	}
	after, err := m.confTexts()
	if err != nil {
		return nil, err
	}
	var out []ConfChange
	for i, path := range m.ServerConfs() {
		ch, err := rewrite(path, before[i], after[i], [2]string{string(c) + ": " + was, string(c) + ": " + is})
		if err != nil {
			return out, err
		}
		out = append(out, ch)
	}
	return out, nil
}

// layAside copies the present key to where the one before is kept.
func (m *Mesh) layAside(k keyFile) error {
	kp, err := m.key(k)
	if err != nil {
		return err
	}
	defer kp.Wipe()
	return writeSeed(kp, m.path(serverDir, k.old().name), pki.WriteSecret)
}

func (m *Mesh) confTexts() ([][]byte, error) {
	confs, err := m.NATSConfigs()
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, c := range confs {
		text, err := m.withKeys(c)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}

// rewrite replaces a file that is as it was generated; one that somebody changed is
// his.
func rewrite(path string, before, after []byte, lines [2]string) (ConfChange, error) {
	ch := ConfChange{Path: path, Lines: lines}
	is, err := readPublic(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		ch.Why = "it is not on this host"
		return ch, nil
	case err != nil:
		return ch, err
	case !bytes.Equal(is, before):
		ch.Why = "somebody changed it since it was generated"
		return ch, nil
	}
	return ConfChange{Path: path, Written: true}, pki.WriteFile(path, after)
}

// FinishCalloutKey forgets the key that was replaced. A server that still names it lets
// nobody in any more.
func (m *Mesh) FinishCalloutKey(c CalloutKey) error {
	k, err := c.file()
	if err != nil {
		return err
	}
	if err := os.Remove(m.path(serverDir, k.old().name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("meshdir: %w", err)
	}
	return nil
}

// Keys lists the public form of every key of the mesh as the files have them now.
func (m *Mesh) Keys(now time.Time) ([]wire.KeyView, error) {
	s, err := m.SigningKeys()
	if err != nil {
		return nil, err
	}
	var out []wire.KeyView
	for _, r := range m.Roots() {
		out = append(out, wire.KeyView{Name: "authority root", Public: r, Purpose: "certifies the signing keys; offline", InUse: true})
	}
	purpose := map[string]string{"tokens": "signs root tokens", "records": "signs records, passports and ticks"}
	used := map[string]bool{}
	for _, kp := range []nkeys.KeyPair{s.Tokens, s.Records} {
		pub, err := kp.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("meshdir: %w", err)
		}
		used[pub] = true
	}
	for _, k := range s.Ring.Keys() {
		out = append(out, wire.KeyView{
			Name: string(k.Purpose), Public: k.Key, Purpose: purpose[string(k.Purpose)], InUse: used[k.Key],
			Leaving: slices.Contains(s.Leaving, k.Key), NotBefore: &k.NotBefore, NotAfter: &k.Expires,
		})
	}
	for _, c := range []struct {
		name, purpose string
		key           keyFile
	}{
		{"issuer", "signs user JWTs for nats-server", issuerKey}, {"xkey", "opens what nats-server asks", xKey},
		{"service", "the control plane's user in the account " + natsconf.Control, serviceKey}, {"system", "the control plane's user in the account " + natsconf.System, systemKey},
	} {
		all, err := m.both(c.key)
		if err != nil {
			return nil, err
		}
		for i, kp := range all {
			pub, err := kp.PublicKey()
			if err != nil {
				return nil, fmt.Errorf("meshdir: %w", err)
			}
			out = append(out, wire.KeyView{Name: c.name, Public: pub, Purpose: c.purpose, InUse: i == 0})
		}
	}
	return out, nil
}

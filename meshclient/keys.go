package meshclient

import (
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/agentdir"
)

// onRing hears that other signing keys count, or another root. It must not block.
func (m *Mesh) onRing(*capability.Keyring) {
	m.ringChanged.Store(true)
	m.poke("signing keys changed")
}

// takeRing goes through what rests on signing keys: the delegations that are held, of
// which some may end later now, or at once, and what the directory says of the mesh.
func (m *Mesh) takeRing() {
	if !m.ringChanged.CompareAndSwap(true, false) {
		return
	}
	ring, now := m.peers.Ring(), m.cfg.clock()
	m.mu.Lock()
	var ended []string
	for digest, l := range m.held {
		c, err := capability.Verify(l.chain.Text(), ring, now)
		if denial.Of(err) == denial.UnknownSigner {
			// Its delegator's passport, or the root token, was signed by a key that was
			// taken away. The delegator has a new passport and can lend it again.
			ended = append(ended, digest)
			delete(m.held, digest)
		} else if err == nil {
			m.held[digest] = newLoan(c, now)
		}
	}
	m.noteLenders()
	m.mu.Unlock()
	for _, digest := range ended {
		m.log.Warn().Str("chain", digest).Msg("delegation ended with a signing key that was taken away")
		if err := m.dir.DropChain(digest); err != nil {
			m.log.Warn().Err(err).Msg("ended chain could not be removed")
		}
	}
	// Whoever starts from this directory again begins with what is known now: a broker
	// that serves an old list brings no key back.
	m.writeInfo(func(i *agentdir.Info) { i.Roots, i.SigningKeys = ring.Roots(), ring.Certificates() })
}

// takePassport takes over the passport of the agent's own record: the authority signs
// it anew when its signing key changes.
func (m *Mesh) takePassport(text string) {
	if *m.passport.Load() == text {
		return
	}
	m.passport.Store(&text)
	m.writeInfo(func(i *agentdir.Info) { i.Passport = text })
}

func (m *Mesh) writeInfo(change func(*agentdir.Info)) {
	err := agentdir.Update(m.dir.Path, func(i *agentdir.Info) {
		// Somebody may have enrolled here again meanwhile, as another.
		if i.Instance == m.info.Instance {
			change(i)
		}
	})
	if err != nil {
		m.log.Warn().Err(err).Msg("what changed in the mesh could not be written into the agent's directory")
	}
}

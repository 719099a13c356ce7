package meshdir

import "github.com/sealmesh/sealmesh/internal/natsconf"

// The files of a nats-server below nats/. A server that was there before takes in the
// other three: the first in its authorization block, the second in its accounts block,
// and the third is a user of its system account.
const (
	confFile       = "nats-server.conf"
	calloutFile    = "sealmesh-callout.conf"
	accountsFile   = "sealmesh-accounts.conf"
	systemUserFile = "sealmesh-system-user.conf"
)

// keysConf is the name of the file with the keys that the callout is configured by.
func (m *Mesh) keysConf() string {
	if m.Config.NATS.Existing {
		return calloutFile
	}
	return confFile
}

// withKeys is the text of that file.
func (m *Mesh) withKeys(c natsconf.Config) ([]byte, error) {
	if m.Config.NATS.Existing {
		return c.Callout()
	}
	return c.Text()
}

// serverConf writes what one nats-server is configured by.
func (b *builder) serverConf(c natsconf.Config, dir string) error {
	text, err := b.mesh.withKeys(c)
	if err != nil {
		return err
	}
	if err := b.public(text, dir, b.mesh.keysConf()); err != nil || !b.mesh.Config.NATS.Existing {
		return err
	}
	accounts, err := c.Accounts()
	if err != nil {
		return err
	}
	if err := b.public(accounts, dir, accountsFile); err != nil || c.NoSystem {
		return err
	}
	user, err := c.SystemUser()
	if err != nil {
		return err
	}
	return b.public(user, dir, systemUserFile)
}

// Parts are the files that the configuration of a server takes in which was there
// before, and none on a mesh with servers of its own.
func (m *Mesh) Parts() (callout, accounts, systemUser string) {
	if !m.Config.NATS.Existing {
		return "", "", ""
	}
	callout, accounts = m.path(natsDir, calloutFile), m.path(natsDir, accountsFile)
	if !m.Config.NATS.NoSystemAccount {
		systemUser = m.path(natsDir, systemUserFile)
	}
	return callout, accounts, systemUser
}

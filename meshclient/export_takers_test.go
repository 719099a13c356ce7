package meshclient

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/gate"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Burning has the client's uses of nonces fail where f says so, before they are stored.
func Burning(f func() error) Option {
	return func(c *config) error {
		c.burning = func(b gate.Burner) gate.Burner { return &burning{b, f} }
		return nil
	}
}

type burning struct {
	gate.Burner
	fail func() error
}

func (b *burning) Burn(ctx context.Context, dotted string, sender agentid.ID, nonce string) error {
	if err := b.fail(); err != nil {
		return err
	}
	return b.Burner.Burn(ctx, dotted, sender, nonce)
}

// SetAway is what the client finds out by itself.
func (m *Mesh) SetAway(err error) { m.setAway(err) }

// AskSession asks what the tending goroutine asks.
func (m *Mesh) AskSession(ctx context.Context) (expires time.Time, err error) {
	id, err := m.conn().GetClientID()
	if err != nil {
		return time.Time{}, err
	}
	var resp wire.SessionResponse
	err = m.ask(ctx, wire.SelfSession, wire.SessionRequest{Server: m.conn().ConnectedServerId(), Client: id}, &resp)
	return resp.Expires, err
}

// Takers is what is remembered of who answers.
type Takers struct{ t takers }

func (t *Takers) Note(scope capability.Scope, id agentid.ID)    { t.t.note(scope, id) }
func (t *Takers) List(scope capability.Scope) []agentid.ID      { return t.t.list(scope) }
func (t *Takers) Scopes() int                                   { return len(t.t.of) }
func (m *Mesh) KnownTakers(scope capability.Scope) []agentid.ID { return m.takers.list(scope) }

// Bounds of Takers.
const (
	TakersMost      = takersMost
	TakenScopesMost = takenScopesMost
)

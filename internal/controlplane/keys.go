package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	// signPause is the pause between two documents that are signed anew: everybody who
	// follows one hears of it.
	signPause = 20 * time.Millisecond
	// signEvery is how often documents are looked through without a cause.
	signEvery = time.Hour
	// signAgain is after how long what failed is tried again.
	signAgain = 10 * time.Second
	// leaveAfter is how long the other control planes have to take new keys into use
	// before those that leaked count no more.
	leaveAfter = 2 * lookAtFiles
	// keyWarning makes the ends of signing keys be told from 30 days before, and
	// alarmed from a week before, whatever share of their life that is.
	keyWarning = 30 * 24 * time.Hour
)

// keyring is what the control plane does about the mesh's own keys.
type keyring struct {
	wake chan struct{}

	mu      sync.Mutex
	files   *meshdir.SigningKeys
	seen    registry.Unsigned
	counted bool
	problem error
	asked   map[string]wire.KeyServer // by server

	callout atomic.Pointer[calloutKeys]
}

// calloutKeys are the keys of the callout, newest first; never changed.
type calloutKeys struct{ issuers, xkeys []nkeys.KeyPair }

// signingKeys are the keys of the files, without those that leave where the store was
// told already that they count no more.
func (p *Plane) signingKeys(s *meshdir.SigningKeys) registry.Keys {
	k := registry.Keys{Ring: s.Ring, List: s.List, Records: s.Records, Tokens: s.Tokens, Leaving: s.Leaving}
	if p.store != nil && len(s.Leaving) > 0 && s.Ring.Older(p.store.Ring()) && !s.Final.Older(p.store.Ring()) {
		k.Ring, k.List, k.Leaving = s.Final, s.FinalList, nil
	}
	return k
}

// takeKeys takes the signing keys of the files into use and tells everybody.
func (p *Plane) takeKeys() error {
	s, err := p.cfg.Mesh.SigningKeys()
	if err != nil {
		return err
	}
	if err := p.useKeys(p.signingKeys(s)); err != nil {
		return err
	}
	p.keys.mu.Lock()
	p.keys.files, p.keys.counted = s, false
	p.keys.mu.Unlock()
	p.wakeSigning()
	return nil
}

func (p *Plane) useKeys(k registry.Keys) error {
	if err := p.store.SetKeys(k); err != nil {
		return err
	}
	p.peers.Trust(k.Ring)
	ctx, cancel := context.WithTimeout(p.ctx, connectWait)
	defer cancel()
	return p.store.PublishKeys(ctx)
}

func (p *Plane) wakeSigning() {
	select {
	case p.keys.wake <- struct{}{}:
	default:
	}
}

// followKeys keeps the mesh's own keys as the files have them.
func (p *Plane) followKeys() {
	p.onChange("signing keys", p.cfg.Mesh.SigningKeyFiles, p.takeKeys)
	p.onChange("keys of the callout", p.cfg.Mesh.CalloutKeyFiles, p.loadCallout)
	p.alsoEnds(p.keyEnds)
	p.wg.Go(p.keepSigned)
}

// keepSigned signs anew what an earlier key signed, after each change and now and then
// in case another control plane did not finish.
func (p *Plane) keepSigned() {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.keys.wake:
		case <-wait.C:
		}
		next := signEvery
		if err := p.signAnew(p.ctx); err != nil && p.ctx.Err() == nil {
			p.log.Error().Err(err).Msg("not all documents could be signed with the present key yet")
			next = signAgain
		}
		wait.Reset(next)
	}
}

// signAnew makes one pass, and takes keys that leaked out once nothing rests on them.
func (p *Plane) signAnew(ctx context.Context) (err error) {
	defer func() {
		p.keys.mu.Lock()
		defer p.keys.mu.Unlock()
		p.keys.problem = err
	}()
	p.keys.mu.Lock()
	s := p.keys.files
	p.keys.mu.Unlock()
	leaving := s != nil && len(p.signingKeys(s).Leaving) > 0
	if err := p.signPass(ctx, nil, leaving); err != nil {
		return err
	}
	// A root token ends with its signing key, however long it was to live.
	if err := p.store.RenewTokens(ctx); err != nil || !leaving {
		return err
	}
	// Whoever still signs with the old key has to have stopped.
	if err := sleep(ctx, leaveAfter); err != nil {
		return err
	}
	if err := p.signPass(ctx, nil, true); err != nil {
		return err
	}
	if err := p.store.RenewTokens(ctx); err != nil {
		return err
	}
	if err := p.useKeys(registry.Keys{Ring: s.Final, List: s.FinalList, Records: s.Records, Tokens: s.Tokens}); err != nil {
		return err
	}
	p.log.Warn().Strs("keys", s.Leaving).Msg("signing keys that leaked were taken away: nothing that they signed counts any more")
	// What another control plane wrote with the old key before it heard of that.
	if err := p.signPass(ctx, s.Ring, true); err != nil {
		return err
	}
	return p.store.RenewTokens(ctx)
}

func (p *Plane) signPass(ctx context.Context, ring *capability.Keyring, urgent bool) error {
	seen, err := p.store.SignAnew(ctx, ring, func(ctx context.Context) error {
		if urgent {
			return ctx.Err()
		}
		return sleep(ctx, signPause)
	})
	p.keys.mu.Lock()
	p.keys.seen, p.keys.counted = seen, true
	p.keys.mu.Unlock()
	if seen.Signed > 0 {
		p.log.Info().Int("signed", seen.Signed).Int("left", seen.Left).Int("documents", seen.Documents).Msg("documents of the registry signed with the present key")
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// keyEnds are the signing keys in use.
func (p *Plane) keyEnds() []ending {
	var out []ending
	for _, k := range p.store.Ring().Keys() {
		if k.Key != p.store.RecordsKey() && k.Key != p.store.TokensKey() {
			continue
		}
		since := k.NotBefore
		if k.Expires.Sub(since) > 2*keyWarning {
			since = k.Expires.Add(-endingSoon * keyWarning)
		}
		out = append(out, ending{"signing key", string(k.Purpose), since, k.Expires})
	}
	return out
}

// loadCallout reads the issuer and the xkey, and what they replaced.
func (p *Plane) loadCallout() error {
	var c calloutKeys
	var err error
	if c.issuers, err = p.cfg.Mesh.IssuerKeys(); err != nil {
		return err
	}
	if c.xkeys, err = p.cfg.Mesh.XKeys(); err != nil {
		return err
	}
	p.keys.callout.Store(&c)
	return nil
}

func (p *Plane) issuers() []nkeys.KeyPair { return p.keys.callout.Load().issuers }

func (p *Plane) xkeys() []nkeys.KeyPair { return p.keys.callout.Load().xkeys }

// calloutServers bounds what is remembered of servers.
const calloutServers = 1 << 10

// askedWith notes by which keys a server asked.
func (p *Plane) askedWith(server, issuer, xkey string) {
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	if len(p.keys.asked) >= calloutServers {
		clear(p.keys.asked)
	}
	p.keys.asked[server] = wire.KeyServer{Server: server, Issuer: issuer, XKey: xkey}
}

// keyList answers an operator who asks for the keys.
func (p *Plane) keyList() (any, error) {
	keys, err := p.cfg.Mesh.Keys(p.clock())
	if err != nil {
		return nil, err
	}
	out := wire.KeyList{Schema: wire.KeysSchema, Time: p.clock().UTC(), Keys: keys, Documents: -1, Unsigned: -1, Servers: []wire.KeyServer{}}
	s, err := p.cfg.Mesh.SigningKeys()
	if err != nil {
		return nil, err
	}
	known := p.servers.all()
	p.keys.mu.Lock()
	defer p.keys.mu.Unlock()
	if p.keys.problem != nil {
		out.Problem = p.keys.problem.Error()
	}
	// What the files say, which may not be in use here yet: then nothing is counted.
	records, err := s.Records.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("controlplane: %w", err)
	}
	if p.keys.counted && records == p.store.RecordsKey() && !p.store.Ring().Older(s.Final) {
		out.Documents, out.Unsigned = p.keys.seen.Documents, p.keys.seen.Left
	}
	gone := p.signingKeys(s).Leaving == nil
	out.Leaving = len(s.Leaving) > 0 && !gone
	out.Keys = slices.DeleteFunc(out.Keys, func(k wire.KeyView) bool { return gone && k.Leaving })
	for id := range known {
		// A server that was restarted asks under another ID, and never again under this.
		if p.servers.another(p.servers.name(id), id) {
			continue
		}
		v := p.keys.asked[id]
		v.Server = id
		out.Servers = append(out.Servers, v)
	}
	slices.SortFunc(out.Servers, func(a, b wire.KeyServer) int { return strings.Compare(a.Server, b.Server) })
	return out, nil
}

// firstKeys are the keys that the control plane begins with.
func (p *Plane) firstKeys(c *registry.Config) error {
	s, err := p.cfg.Mesh.SigningKeys()
	if err != nil {
		return err
	}
	pub, err := s.Records.PublicKey()
	if err != nil {
		return fmt.Errorf("controlplane: %w", err)
	}
	if s.Ring.Until(pub, capability.ForRecords, p.clock()).IsZero() {
		return errors.New("controlplane: the records key is not certified at this time, so nothing that it signed counts; sealmesh keys renew certifies it for another while")
	}
	p.keys.mu.Lock()
	p.keys.files = s
	p.keys.mu.Unlock()
	c.Ring, c.List, c.Leaving, c.Records, c.Tokens = s.Ring, s.List, s.Leaving, s.Records, s.Tokens
	return nil
}

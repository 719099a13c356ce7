package gate

// LimitChains makes the memory of chains small, so that a test can fill it.
func (g *Gate) LimitChains(most, bytes int) { g.chains.most, g.chains.mostBytes = most, bytes }

// ParseBurn is parseBurn: what the server may answer, without a server.
var ParseBurn = parseBurn

// Met is how many keys are remembered.
func (p *Peers) Met() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return len(p.named)
}

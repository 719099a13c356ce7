package gate

// LimitChains makes the memory of chains small, so that a test can fill it.
func (g *Gate) LimitChains(most, bytes int) { g.chains.most, g.chains.mostBytes = most, bytes }

// ParseBurn is parseBurn: what the server may answer, without a server.
var ParseBurn = parseBurn

package gate

// FirstUse is the one answer that is known without being parsed.
func FirstUse(data []byte) bool {
	_, ok := firstSeq(data)
	return ok
}

// Waiting is how many writes wait for an answer, and on how many connections.
func (b *NATSBurner) Waiting() (writes, lines int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range [...]*burnLine{b.now, b.old} {
		if l != nil {
			l.mu.Lock()
			writes, lines = writes+len(l.waiting)+len(l.queue), lines+1
			l.mu.Unlock()
		}
	}
	return writes, lines
}

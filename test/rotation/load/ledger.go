package load

import (
	"fmt"
	"slices"
	"sync"
)

// page is how many numbers are noted at once.
const page = 1 << 16

// ledger counts how often each number came. It is safe for concurrent use and takes a
// byte a number.
type ledger struct {
	mu    sync.Mutex
	pages map[uint64]*[page]uint8
}

// note counts a number.
func (l *ledger) note(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pages == nil {
		l.pages = map[uint64]*[page]uint8{}
	}
	p := l.pages[n/page]
	if p == nil {
		p = new([page]uint8)
		l.pages[n/page] = p
	}
	if p[n%page] < 255 {
		p[n%page]++
	}
}

// times returns how often a number came.
func (l *ledger) times(n uint64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.pages[n/page]; p != nil {
		return int(p[n%page])
	}
	return 0
}

// findings are what is wrong, the first of which are told.
type findings struct {
	mu    sync.Mutex
	count int64
	first []string
}

// findingsMost bounds what is told.
const findingsMost = 20

func (f *findings) add(format string, a ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count++; len(f.first) < findingsMost {
		f.first = append(f.first, fmt.Sprintf(format, a...))
	}
}

// told returns the first of them.
func (f *findings) told() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.first)
}

func (f *findings) total() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// journal keeps what server, control plane and agents log, one entry a line: a
// refusal that nobody wrote down does not count as one. It is an io.Writer for
// zerolog.
type journal struct {
	mu      sync.Mutex
	lines   []line
	changed chan struct{} // closed and replaced at every line
}

// line is one log line.
type line map[string]any

func newJournal() *journal { return &journal{changed: make(chan struct{})} }

// Write implements io.Writer; zerolog gives it one line at a time.
func (j *journal) Write(p []byte) (int, error) {
	var l line
	if err := json.Unmarshal(p, &l); err != nil {
		return 0, fmt.Errorf("demo: log line does not parse: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, l)
	close(j.changed)
	j.changed = make(chan struct{})
	return len(p), nil
}

// mark is where the next line will stand.
func (j *journal) mark() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lines)
}

// find returns the first line at or after from that m accepts, and whom to wait
// for if there is none yet.
func (j *journal) find(from int, m func(line) bool) (line, bool, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines[from:] {
		if m(l) {
			return l, true, nil
		}
	}
	return nil, false, j.changed
}

// await waits for a line at or after from that m accepts.
func (j *journal) await(ctx context.Context, from int, what string, m func(line) bool) (line, error) {
	for {
		l, ok, changed := j.find(from, m)
		if ok {
			return l, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("nobody logged %s: %w", what, ctx.Err())
		}
	}
}

// text returns a field, empty where there is none.
func (l line) text(key string) string {
	s, _ := l[key].(string)
	return s
}

// has reports whether the fields have these values: name, value, name, value.
func (l line) has(pairs ...string) bool {
	for i := 0; i+1 < len(pairs); i += 2 {
		if l.text(pairs[i]) != pairs[i+1] {
			return false
		}
	}
	return true
}

// fields accepts lines that have these values.
func fields(pairs ...string) func(line) bool {
	return func(l line) bool { return l.has(pairs...) }
}

// serverSays accepts errors of nats-server that contain the text.
func serverSays(part string) func(line) bool {
	return func(l line) bool { return l.has("nats_level", "error") && strings.Contains(l.text("text"), part) }
}

// words is what nats-server said about TLS, without addresses and fingerprints.
func (l line) words() string {
	text := l.text("text")
	if i := strings.Index(text, "tls: "); i >= 0 {
		text = text[i:]
	}
	text, _, _ = strings.Cut(text, " (")
	return text
}

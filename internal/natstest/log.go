package natstest

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"

	"github.com/rs/zerolog"
)

// Log keeps what a server logged.
type Log struct {
	mu    sync.Mutex
	lines []line
}

type line struct {
	Level string `json:"nats_level"`
	Text  string `json:"text"`
}

// Logger writes into the log at all levels.
func (l *Log) Logger() zerolog.Logger { return zerolog.New(l).Level(zerolog.DebugLevel) }

// Write implements io.Writer for zerolog: one JSON line a call.
func (l *Log) Write(p []byte) (int, error) {
	var e line
	if err := json.Unmarshal(bytes.TrimSpace(p), &e); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, e)
	return len(p), nil
}

// Complaints are the warnings and errors that contain none of the expected
// texts.
func (l *Log) Complaints(expected ...string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, e := range l.lines {
		if !slices.Contains([]string{"warning", "error", "fatal"}, e.Level) && e.Level != "" {
			continue
		}
		if !slices.ContainsFunc(expected, func(x string) bool { return strings.Contains(e.Text, x) }) {
			out = append(out, e.Level+": "+e.Text)
		}
	}
	return out
}

// Lines is how many lines were logged; a log without any shows nothing.
func (l *Log) Lines() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.lines)
}

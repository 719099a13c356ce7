package authcallout

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
)

// Decision is the outcome of one request, for the log and the audit. Fields that
// were not reached are zero. Text from outside is bounded.
type Decision struct {
	ID       string        // "d-…" of a denial, "" where the connection was admitted
	Reason   denial.Reason // "" where the connection was admitted
	Detail   string        // for operators; never sent to the client
	Time     time.Time     // when the decision fell
	Took     time.Duration // from the request's arrival, waiting included
	Agent    agentid.ID    // what the certificate names
	Instance agentid.Instance
	Epoch    string
	Key      string // the nkey that was presented
	Proved   bool   // that key signed this connection's nonce
	ServerID string
	Server   string // its configured name, a hint
	ClientID uint64
	Host     string
	Expires  time.Time // end of the user JWT
	// Suppressed counts earlier denials of the same kind that were not reported
	// one by one, because they came as a flood.
	Suppressed uint64
}

// Admitted reports whether the connection was let in.
func (d Decision) Admitted() bool { return d.Reason == "" && !d.Expires.IsZero() }

// newDenialID returns "d-" and eight characters: forty random bits. It is a
// reference into the log, not a secret.
func newDenialID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return "d-" + agentid.ShortHash(b[:])
}

func (d Decision) log(l zerolog.Logger) {
	e := l.Info()
	if !d.Admitted() {
		e = l.Warn().Str("denial", d.ID).Str("reason", string(d.Reason)).Str("detail", d.Detail)
	}
	e = e.Str("agent", d.Agent.String()).Str("instance", d.Instance.String()).Str("nkey", d.Key).Bool("proved", d.Proved).
		Str("host", d.Host).Str("server", d.Server).Str("server_id", d.ServerID).Uint64("client_id", d.ClientID).
		Int64("took_us", d.Took.Microseconds())
	if d.Suppressed > 0 {
		e = e.Uint64("suppressed", d.Suppressed)
	}
	if d.Admitted() {
		e.Str("epoch", d.Epoch).Time("expires", d.Expires).Msg("connection admitted")
		return
	}
	e.Msg("connection refused")
}

// memory keeps the last denial of each key, bounded: when it is full the key that
// has been there longest goes. A key that was admitted since stays, with a zero
// Decision.
type memory struct {
	mu    sync.Mutex
	byKey map[string]Decision
	order []string // ring of the keys of byKey in order of arrival
	next  int
}

// remembered is how many keys' last denials are kept, some 300 bytes each.
const remembered = 4096

func newMemory() *memory { return &memory{byKey: make(map[string]Decision)} }

func (m *memory) put(d Decision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.byKey[d.Key]; !known {
		if len(m.order) < remembered {
			m.order = append(m.order, d.Key)
		} else {
			delete(m.byKey, m.order[m.next])
			m.order[m.next] = d.Key
			m.next = (m.next + 1) % remembered
		}
	}
	m.byKey[d.Key] = d
}

func (m *memory) forget(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.byKey[key]; known {
		m.byKey[key] = Decision{}
	}
}

func (m *memory) get(key string) (Decision, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.byKey[key]
	return d, d.ID != ""
}

// clip bounds text from outside.
func clip(s string) string {
	const most = 128
	if len(s) > most {
		return s[:most]
	}
	return s
}

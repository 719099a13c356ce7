package wire

import "time"

// RollSchema is that of [Roll].
const RollSchema = "sealmesh.roll/v1"

// The states of a roll.
const (
	RollNone    = "none" // there was none yet
	RollRunning = "running"
	RollDone    = "done"   // every server that is there has read its files
	RollFailed  = "failed" // a server has to be restarted, or it stopped at one; those behind it were left alone
)

// The states of a server in a roll.
const (
	ServerWaiting   = "waiting"
	ServerReloading = "reloading"
	ServerSettling  = "settling" // it has reloaded; its clients come back
	ServerDone      = "done"
	ServerAway      = "away" // it did not answer before the roll came to it; it reads its files when it starts
	ServerFailed    = "failed"
	// ServerRestart is one that takes its files only when it is restarted: of what changed
	// in them nats-server takes some at its start alone, and refuses every other change,
	// new certificates included, until then. Nobody was cut.
	ServerRestart = "restart"
)

// Roll is how far the control plane is with having the nats-servers read their files
// anew, one after another. It is the answer of roll.
type Roll struct {
	Schema  string       `json:"schema"` // sealmesh.roll/v1
	ID      string       `json:"id,omitempty"`
	State   string       `json:"state"`
	Why     string       `json:"why,omitempty"`
	Replica string       `json:"replica,omitempty"` // of the control plane
	Began   *time.Time   `json:"began,omitempty"`
	Ended   *time.Time   `json:"ended,omitempty"`
	Servers []RollServer `json:"servers"`
	Error   string       `json:"error,omitempty"`
}

// RestartNeeded lists the servers that take their files only when they are restarted,
// and reports whether another one failed.
func (r Roll) RestartNeeded() (names []string, failed bool) {
	for _, s := range r.Servers {
		switch s.State {
		case ServerRestart:
			names = append(names, s.Name)
		case ServerFailed:
			failed = true
		}
	}
	return names, failed
}

// RollServer is one nats-server in a roll.
type RollServer struct {
	Name     string     `json:"name"`
	Server   string     `json:"server,omitempty"` // its ID
	State    string     `json:"state"`
	Clients  int        `json:"clients"`   // of agents, that were there before
	Missing  int        `json:"missing"`   // of those, that are not back anywhere
	MS       float64    `json:"ms"`        // until it was settled
	NotAfter *time.Time `json:"not_after"` // of the certificate that it shows now, where it could be seen
	Detail   string     `json:"detail,omitempty"`
}

// Ending is something of the mesh that ends at a time unless it is renewed.
type Ending struct {
	What     string    `json:"what"` // what kind of thing ends
	Name     string    `json:"name"`
	NotAfter time.Time `json:"not_after"`
	Soon     bool      `json:"soon,omitempty"` // less than a fifth of its life is left
}

// ServerCertificate is the answer of server-certificate.
type ServerCertificate struct {
	Schema      string    `json:"schema"` // sealmesh.server-certificate/v1
	Server      string    `json:"server"`
	Hosts       []string  `json:"hosts"`
	Certificate string    `json:"certificate"` // PEM chain
	NotAfter    time.Time `json:"not_after"`
}

// ServerCertificateSchema is that of [ServerCertificate].
const ServerCertificateSchema = "sealmesh.server-certificate/v1"

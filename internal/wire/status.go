package wire

import (
	"fmt"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/denial"
)

// ControlPlane is one replica of the control plane as operators see it.
type ControlPlane struct {
	Replica string    `json:"replica"` // its name until it is started anew
	Host    string    `json:"host"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
	Time    time.Time `json:"time"`   // by its clock
	Server  string    `json:"server"` // name of the nats-server that it is connected to

	FeedLagMS   int64         `json:"feed_lag_ms"`  // since it heard the newest tick; one comes every five seconds
	Denials     uint64        `json:"denials"`      // connects that it refused since its start
	Denied      []DenialCount `json:"denied"`       // what it refused within the window
	PendingCuts int           `json:"pending_cuts"` // that are not confirmed
}

// DenialCount is how often something was refused for one reason.
type DenialCount struct {
	Reason denial.Reason `json:"reason"`
	Count  uint64        `json:"count"`
}

// DenialRate is that of all replicas together.
type DenialRate struct {
	DenialCount
	PerMinute float64 `json:"per_minute"`
}

// DeniedWindow is over how long refusals are counted by reason.
const DeniedWindow = 5 * time.Minute

// StreamView is how the copies of one stream fare.
type StreamView struct {
	Account string   `json:"account"`
	Stream  string   `json:"stream"`
	Leader  string   `json:"leader"` // empty: nobody, or a server without a cluster
	Copies  int      `json:"copies"` // that there are to be; 0: it does not answer
	Online  int      `json:"online"`
	Behind  []string `json:"behind"`  // servers whose copy is not complete
	Offline []string `json:"offline"` // servers whose copy is away
	Quorum  bool     `json:"quorum"`  // it can be written
}

// FeedLate is after how long without a tick clients alarm.
const FeedLate = 15 * time.Second

// Trouble is something about the mesh that somebody has to look at now.
type Trouble struct {
	What    string // one line
	Command string // that helps, or shows more, less the name of the program
	Remedy  string // where there is no one command
}

// Troubles lists what is wrong. `sealmesh status` prints each as an ALARM and its exit
// code says whether there is any; `sealmesh doctor` finds the same.
func (s MeshStatus) Troubles() (out []Trouble) {
	add := func(command, remedy, format string, args ...any) {
		out = append(out, Trouble{fmt.Sprintf(format, args...), command, remedy})
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	for _, e := range s.Expires {
		if e.Soon {
			add("", "", "%s %s ends %s and has not been renewed", e.What, e.Name, at(e.NotAfter))
		}
	}
	switch s.Monitor.State {
	case "held":
		since := "-"
		if s.Monitor.HeldSince != nil {
			since = at(*s.Monitor.HeldSince)
		}
		add("monitor status", "", "nobody expires since %s: %d of %d fell silent together", since, s.Monitor.Held, s.Monitor.Watched)
	case "blind":
		add("monitor status", "", "nobody expires: the monitor does not hear its own heartbeats")
	}
	if len(s.Monitor.Missing) > 0 {
		add("", "", "replicas of the control plane do not answer: %s", strings.Join(s.Monitor.Missing, ", "))
	}
	for _, name := range s.MissingServers {
		add("", "start it, or look into its log", "nats-server %s is not heard of", name)
	}
	for _, v := range s.Streams {
		if !v.Quorum {
			add("", "start the nats-servers that hold it", "stream %s of %s cannot be written: %d of %d copies are there", v.Stream, v.Account, v.Online, v.Copies)
		}
	}
	if lag := time.Duration(s.FeedLagMS) * time.Millisecond; lag > FeedLate {
		add("", "the control plane's log says why it does not tick", "the feed is silent for %s", lag.Round(time.Second))
	}
	if len(s.OlderRecords) > 0 {
		add("", "", "%s older than seen before, and refused: the registry went back", records(len(s.OlderRecords)))
	}
	for _, a := range s.Alarms {
		name := a.Agent.String() + "/" + a.Instance.String()
		if a.Kind == AlarmClone {
			add("", "sealmesh agent revoke "+name+" ends it", "the key of %s is in use on several hosts since %s: %s", name, at(a.Since), strings.Join(a.Hosts, ", "))
			continue
		}
		add("", "", "%s of %s since %s", a.Kind, name, at(a.Since))
	}
	for _, c := range s.PendingCuts {
		if c.Bound == nil { // else it was known that nobody would confirm it
			add("", "it is tried again until every server has confirmed it", "the cut of %s is not confirmed since %s", c.Agent, at(c.Since))
		}
	}
	return out
}

func records(n int) string {
	if n == 1 {
		return "1 record"
	}
	return fmt.Sprintf("%d records", n)
}

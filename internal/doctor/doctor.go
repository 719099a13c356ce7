// Package doctor implements `sealmesh doctor`: it looks at a mesh directory, and at
// what that depends on, for what is wrong or is going to be, and says what helps.
//
// A check is a function in a table; it reads and changes nothing. Findings are in
// groups, one for each part of the mesh. That a check could not look is a finding
// too: nothing is well because nobody could see it.
package doctor

import (
	"context"
	"time"

	"github.com/sealmesh/sealmesh/internal/meshdir"
)

// Level says how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"      // it was looked at and is well
	Warning Level = "warning" // it works, and somebody should see to it
	Wrong   Level = "wrong"   // something does not work, or is not safe
)

// Finding is one thing that was looked at.
type Finding struct {
	Level  Level  `json:"level"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"` // a command or what to do; with everything but OK
}

// Group is what was found about one part of a mesh.
type Group struct {
	Name     string    `json:"name"`
	Findings []Finding `json:"findings"`
}

// Report is all that was found.
type Report struct {
	Groups []Group
}

// Healthy reports whether nothing is wrong.
func (r Report) Healthy() bool { return r.count(Wrong) == 0 }

// Warnings is how many findings are warnings, Problems how many are worse.
func (r Report) Warnings() int { return r.count(Warning) }

// Problems is how many findings are wrong.
func (r Report) Problems() int { return r.count(Wrong) }

func (r Report) count(l Level) (n int) {
	for _, g := range r.Groups {
		for _, f := range g.Findings {
			if f.Level == l {
				n++
			}
		}
	}
	return n
}

// patient is what the checks look at.
type patient struct {
	dir  string        // of the mesh
	mesh *meshdir.Mesh // nil where it does not load
	now  time.Time
}

// check looks at one thing.
type check func(ctx context.Context, p *patient) []Finding

// groups are all checks, in the order in which they are shown.
var groups = []struct {
	name   string
	checks []check
}{
	{"certificates", []check{loads, ends, signingKeys, rootOffline, modes, vaultRole}},
}

// Examine runs all checks on the mesh directory. Those that ask others give up when
// ctx ends.
func Examine(ctx context.Context, dir string, now time.Time) Report {
	p := &patient{dir: dir, now: now}
	// What is wrong with it, the check says.
	if m, err := meshdir.Load(dir); err == nil {
		p.mesh = m
	}
	var r Report
	for _, g := range groups {
		out := Group{Name: g.name, Findings: []Finding{}}
		for _, c := range g.checks {
			out.Findings = append(out.Findings, c(ctx, p)...)
		}
		r.Groups = append(r.Groups, out)
	}
	return r
}

// Package doctor implements `sealmesh doctor`: it looks at a mesh directory, and at
// what that depends on, for what is wrong or is going to be, and says what helps.
//
// A check is a function in a table; it changes nothing but what every command of the
// operator's agent does, which renews its certificate. Findings are in groups, one for
// each part of the mesh. That a check could not look is a finding too: nothing is well
// because nobody could see it. Checks run beside each other, and each is bounded in
// time.
package doctor

import (
	"context"
	"fmt"
	"sync"
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

// Options say what to look at.
type Options struct {
	Dir     string           // of the mesh
	Mesh    *meshdir.Mesh    // where it is loaded already; nil: Dir is
	Now     func() time.Time // time.Now where nil
	Offline bool             // files alone, and Vault: nothing needs to run
	// As is the directory of the agent that asks the control plane; that of the
	// mesh's own administrator where empty.
	As string
}

// patient is what the checks look at.
type patient struct {
	Options
	dir  string        // of the mesh
	mesh *meshdir.Mesh // nil where it does not load
	now  time.Time     // when the examination began
}

// check looks at one thing.
type check func(ctx context.Context, p *patient) []Finding

// checkWait bounds one check, so that one that hangs hides nothing of the others.
const checkWait = 25 * time.Second

// groups are all checks, in the order in which they are shown.
var groups = []struct {
	name   string
	live   bool // something has to run
	checks []check
}{
	{"files", false, []check{loads, modes, owners, rootOffline, state, seeds, insecure, serverConfs}},
	{"certificates", false, []check{ends, signingKeys, vaultRole}},
	{"servers", true, []check{listeners, strangers, routes, members, copies}},
	{"mesh", true, []check{health, operator}},
}

// Examine runs all checks, beside each other. Each gives up when ctx ends, or after
// checkWait.
func Examine(ctx context.Context, o Options) Report {
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &patient{Options: o, dir: o.Dir, mesh: o.Mesh, now: o.Now()}
	if p.mesh == nil {
		// What is wrong with it, the check says.
		if m, err := meshdir.Load(o.Dir); err == nil {
			p.mesh = m
		}
	}
	var r Report
	var wg sync.WaitGroup
	var found [][][]Finding
	for _, g := range groups {
		if g.live && o.Offline {
			continue
		}
		r.Groups = append(r.Groups, Group{Name: g.name, Findings: []Finding{}})
		of := make([][]Finding, len(g.checks))
		found = append(found, of)
		for i, c := range g.checks {
			wg.Go(func() { of[i] = p.run(ctx, g.live, c) })
		}
	}
	wg.Wait()
	for i, of := range found {
		for _, f := range of {
			r.Groups[i].Findings = append(r.Groups[i].Findings, f...)
		}
	}
	return r
}

// run runs one check. One that panics has found something as well.
func (p *patient) run(ctx context.Context, live bool, c check) (out []Finding) {
	ctx, cancel := context.WithTimeout(ctx, checkWait)
	defer cancel()
	defer func() {
		if v := recover(); v != nil {
			out = append(out, Finding{Wrong, fmt.Sprintf("a check broke off: %v", v), "this is an error of sealmesh doctor itself: report it"})
		}
	}()
	if live && p.mesh == nil {
		return nil // nobody knows where anything is, which is a finding of the files
	}
	return c(ctx, p)
}

package wire

import (
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/registry"
)

// Blast is the answer of blast: what whoever has an agent's keys can reach, and
// what they were used for in the last day. Lists are cut; the counts are not.
type Blast struct {
	Schema      string             `json:"schema"` // sealmesh.blast/v1
	Agent       agentid.ID         `json:"agent"`
	Status      registry.Status    `json:"status"`
	Epoch       uint64             `json:"epoch"`
	Admin       bool               `json:"admin"` // it may do all of this to everybody
	Sessions    []SessionView      `json:"sessions"`
	Call        []ReachView        `json:"call"`      // and who handles it
	Handle      []ReachView        `json:"handle"`    // and who may call it
	Publish     []ReachView        `json:"publish"`   // and who subscribes it
	Subscribe   []ReachView        `json:"subscribe"` // and who publishes it
	MayDelegate []capability.Scope `json:"may_delegate"`
	Plain       PlainView          `json:"plain"`
	Lent        []LentView         `json:"lent"`
	Held        []LentView         `json:"held"`
	Audit       AuditWindow        `json:"audit"`
	Did         Activity           `json:"did"`
}

// SessionView is one admitted connection.
type SessionView struct {
	Instance agentid.Instance `json:"instance"`
	Server   string           `json:"server"`
	Client   uint64           `json:"client"`
	Host     string           `json:"host"`
	Since    time.Time        `json:"since"`
	Expires  time.Time        `json:"expires"`
}

// ReachView is one right and whom it reaches: those who are active and hold the
// right at the other end.
type ReachView struct {
	Scope  string       `json:"scope"` // or topic
	Lent   bool         `json:"lent"`  // it holds this by delegations alone
	Count  int          `json:"count"`
	Agents []agentid.ID `json:"agents"`
}

// BlastSchema is that of Blast.
const BlastSchema = "sealmesh.blast/v1"

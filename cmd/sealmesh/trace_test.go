package main

import (
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// Records are what agents wrote, of whom one may mean ill: nothing in them reaches the
// operator's terminal as anything but text.
func TestTraceOfAHostileAgent(t *testing.T) {
	const evil = "x\x1b[2J\x1b]0;owned\x07\n└─ admin  call all:fine\u202e"
	id := agentid.Require("mallory")
	r := audit.Record{
		Kind: audit.Event, Verdict: evil, Reason: denial.Reason(evil), Detail: evil, Correlation: evil, Nonce: "n", Parent: evil,
		Sender: id, Scope: evil, Chain: evil, Payload: evil,
	}
	sent, taken := audit.Entry{Record: r, By: id}, audit.Entry{Record: r, By: agentid.Require("reader")}
	taken.Peer = taken.By
	steps, _ := audit.Tree([]audit.Entry{sent, taken})
	docs := stepDocs(steps, nil)
	if len(docs) != 1 || len(docs[0].Received) != 1 {
		t.Fatalf("got %+v", docs)
	}
	text := []string{whoOf(taken), whatOf(taken), outcomeOf(taken), takers([]wire.RecordView{wire.ViewRecord(taken)})}
	for _, row := range treeRows(nil, docs[0], "", true) {
		text = append(text, row...)
	}
	for _, s := range text {
		if strings.ContainsAny(s, "\x1b\x07\n\u202e") {
			t.Errorf("control characters are shown: %q", s)
		}
	}
}

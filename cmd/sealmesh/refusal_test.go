package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/audit"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

func refusalOf(sender string, reason denial.Reason) meshclient.Refusal {
	return meshclient.Refusal{Class: "call", Scope: "read:logs", Sender: agentid.Require(sender), Reason: reason, Detail: "because"}
}

// The first of a sender and reason is said at once, the rest once a second, and
// none is lost.
func TestRefusalsAreGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		r := (&app{stderr: out, now: time.Now}).refusals()
		said := func(want ...string) {
			t.Helper()
			synctest.Wait()
			text := out.String()
			for line := range strings.Lines(text) {
				if len(want) == 0 || strings.TrimSuffix(line, "\n") != want[0] {
					t.Fatalf("got %q, want %q", text, want)
				}
				want = want[1:]
			}
			if len(want) > 0 {
				t.Fatalf("got %q, want %q after it", text, want)
			}
			out.mu.Lock()
			out.b.Reset()
			out.mu.Unlock()
		}
		for range 5 {
			r.add(refusalOf("mallory", denial.Stale))
		}
		r.add(refusalOf("eve", denial.Stale))
		verified := refusalOf("mallory", denial.Stale)
		verified.Verified = true
		r.add(verified)
		said(
			"refused: call read:logs of mallory: stale (not verified): because",
			"refused: call read:logs of eve: stale (not verified): because",
			"refused: call read:logs of mallory: stale (signature good): because",
		)
		time.Sleep(gatherFor)
		said("refused: call read:logs of mallory: stale (not verified), 4 times, the first: because")
		// It goes on: nothing is said at once.
		r.add(refusalOf("mallory", denial.Stale))
		said()
		time.Sleep(gatherFor)
		said("refused: call read:logs of mallory: stale (not verified): because")
		time.Sleep(gatherFor)
		said()
		// It was quiet for a second, so the next one is news.
		r.add(refusalOf("mallory", denial.Stale))
		said("refused: call read:logs of mallory: stale (not verified): because")
		r.add(refusalOf("mallory", denial.Stale))
		r.end()
		said("refused: call read:logs of mallory: stale (not verified): because")
		time.Sleep(3 * gatherFor)
		r.add(refusalOf("mallory", denial.Stale))
		said("refused: call read:logs of mallory: stale (not verified): because")
	})
}

// However many senders and reasons there are, so many lines are printed and the
// rest is counted, with what the client could not pass on.
func TestRefusalsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &output{}
		r := (&app{stderr: out, now: time.Now, json: true}).refusals()
		const senders = 500
		for i := range senders {
			r.add(refusalOf(fmt.Sprint("agent", i), denial.Stale))
		}
		one := refusalOf("agent0", denial.Stale)
		one.Missed = 1000
		r.add(one)
		synctest.Wait()
		if n := len(out.refused(t)); n != gatheredMost {
			t.Errorf("got %d lines at once, want %d", n, gatheredMost)
		}
		time.Sleep(gatherFor)
		synctest.Wait()
		var total uint64
		docs := out.refused(t)
		for _, d := range docs {
			total += d.Count
		}
		if last := docs[len(docs)-1]; !last.Others || last.Count != senders-gatheredMost+1000 || total != senders+1+1000 {
			t.Errorf("got %+v at the end and %d in all", last, total)
		}
		time.Sleep(2 * gatherFor)
		r.mu.Lock()
		defer r.mu.Unlock()
		if len(r.groups) != 0 {
			t.Errorf("%d senders are remembered", len(r.groups))
		}
	})
}

// What a stranger sent is neither a line of its own nor anything that a terminal
// acts upon, and a program reads it as it was.
func TestRefusalsAreCleanLines(t *testing.T) {
	evil := "x\nrefused: call of boss: forged\r\x1b[2J\x1b]0;owned\x07\u009b31m\u202egnp.exe\u2028\U000e0041\x7f\"}"
	one := refusalOf("mallory", denial.BadEnvelope)
	one.Detail, one.Scope, one.Correlation = evil, evil, evil
	for _, asJSON := range []bool{false, true} {
		out := &output{}
		r := (&app{stderr: out, now: time.Now, json: asJSON}).refusals()
		r.add(one)
		r.end()
		text := out.String()
		if strings.Count(text, "\n") != 1 || strings.ContainsFunc(text, actedUpon) {
			t.Errorf("json %v: got %q", asJSON, text)
		}
		if !asJSON {
			continue
		}
		if docs := out.refused(t); len(docs) != 1 || docs[0].Detail != evil || docs[0].Scope != evil {
			t.Errorf("got %+v, want the text as it was", docs)
		}
	}
}

// actedUpon reports whether a terminal might do something else with a character
// than to show it.
func actedUpon(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }

// Whatever a string holds, the document says the same and shows nothing else.
func FuzzEscaped(f *testing.F) {
	for _, s := range []string{"", "a", "\x1b[2J", "\u009b", "\u202e", "\U000e0041", "grüß <gott>", "\ufffd", "\xff", "\\u202e", "\u2028"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		plain, err := json.Marshal(map[string]string{s: s})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := writeJSON(&b, map[string]string{s: s}, false); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsFunc(b.String(), actedUpon) {
			t.Errorf("%q: got %q", s, b.String())
		}
		var got, want map[string]string
		if err := json.Unmarshal(plain, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b.Bytes(), &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got %q, %v, want %q", s, got, err, want)
		}
	})
}

// The log is without the lines that are gathered, and with all others, whatever
// strangers write into those.
func TestLogWithoutRefusals(t *testing.T) {
	for level, want := range map[string]int{"": 3, "warn": 3 + 4} {
		var b bytes.Buffer
		a := &app{stderr: &b, logLevel: level, level: zerolog.InfoLevel}
		log := a.serveLog()
		for _, kind := range []audit.Kind{audit.Call, audit.Reply, audit.Event, audit.Note} {
			audit.Write(&log, audit.Record{Kind: kind, Verdict: audit.Refused, Reason: denial.Stale})
		}
		audit.Write(&log, audit.Record{Kind: audit.Call, Verdict: audit.Failed, Detail: `"audit":"call","verdict":"refused"`})
		audit.Write(&log, audit.Record{Kind: audit.Made, Verdict: audit.Refused, Reason: denial.Stale})
		audit.Write(&log, audit.Record{Kind: audit.Call, Verdict: audit.Accepted, Scope: `read:logs","audit":"call","verdict":"refused"`})
		if got := strings.Count(b.String(), "\n"); got != want {
			t.Errorf("level %q: got %d lines, want %d:\n%s", level, got, want, b.String())
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
)

// The story on a mesh of its own, and what the README shows of it. A machine with
// other work may be slow; how fast a cut is, other tests measure.
func TestStory(t *testing.T) {
	if testing.Short() {
		t.Skip("builds sealmesh and runs it")
	}
	m, err := startMesh(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	}()
	var out bytes.Buffer
	if err := tell(t.Context(), m, &teller{within: 15 * time.Second, out: &out}); err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := regexp.MustCompile(`(?m)^ *(\d+  .{58})`)
	shown := steps.FindAllString(string(readme), -1)
	told := steps.FindAllString(out.String(), -1)
	if len(told) == 0 || strings.Join(shown, "\n") != strings.Join(told, "\n") {
		t.Errorf("the README shows other steps than were told:\n%s", out.String())
	}
}

// A story that goes wrong must not end well.
func TestWrongSteps(t *testing.T) {
	for name, step := range map[string]func(*teller){
		"nothing told":           func(*teller) {},
		"fails":                  func(l *teller) { l.works("a", "", errors.New("no")) },
		"is let through":         func(l *teller) { l.refused("a", nil, denial.ScopeNotHeld) },
		"breaks in another way":  func(l *teller) { l.refused("a", errors.New("no"), denial.ScopeNotHeld) },
		"is refused for another": func(l *teller) { l.refused("a", denial.Revoked, denial.ScopeNotHeld) },
		"is slow":                func(l *teller) { l.fast("a", time.Second+1) },
		"one of three": func(l *teller) {
			l.works("a", "", nil)
			l.refused("b", nil, denial.Revoked)
			l.works("c", "", nil)
		},
	} {
		l := &teller{within: time.Second, out: new(bytes.Buffer)}
		step(l)
		if l.end() == nil {
			t.Errorf("%s: it ended well", name)
		}
	}
	l := &teller{within: time.Second, out: new(bytes.Buffer)}
	l.works("a", "", nil)
	l.refused("b", denial.New(denial.Revoked, "since the test says so"), denial.ScopeNotHeld, denial.Revoked)
	l.fast("c", time.Second)
	if err := l.end(); err != nil {
		t.Errorf("what went right ended with %v", err)
	}
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/meshclient"
)

// What a caller may do about an error decides the exit code.
func TestFailureOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		exit int
		code string
		hint bool
	}{
		{errors.New("x"), 1, "failed", false},
		{&usageError{errors.New("x"), "h"}, 2, "usage", true},
		{fmt.Errorf("calling: %w", &meshclient.Denied{Reason: denial.ScopeNotHeld}), 3, "scope-not-held", true},
		{&meshclient.Denied{Reason: denial.Suspended, Hint: "h"}, 3, "suspended", true},
		{&meshclient.Denied{Reason: "a-reason-of-tomorrow"}, 3, "a-reason-of-tomorrow", false},
		{&meshclient.Denied{Reason: denial.NotFound}, 1, "not-found", true},
		{&meshclient.Denied{Reason: denial.BadInput}, 2, "bad-input", false},
		{&meshclient.Denied{Reason: denial.Conflict}, 4, "conflict", false},
		{&meshclient.Denied{Reason: denial.RegistryUnavailable}, 4, "registry-unavailable", true},
		{denial.New(denial.BadSignature, "x"), 3, "bad-signature", false},
		{denial.New(denial.WildcardScope, "x"), 2, "wildcard-scope", true},
		{meshclient.ErrUnavailable, 4, "unavailable", false},
		{fmt.Errorf("%w: reader: %w", meshclient.ErrUnavailable, denial.ReplayUnavailable), 4, "replay-unavailable", true},
		{fmt.Errorf("x: %w", meshclient.ErrDeadline), 4, "deadline", true},
		{fmt.Errorf("%w: %w", meshclient.ErrUnavailable, denial.BadRecord), 4, "unavailable", false},
		{fmt.Errorf("%w: %w", meshclient.ErrUnavailable, denial.Revoked), 4, "unavailable", false},
		{context.DeadlineExceeded, 4, "deadline", true},
		{context.Canceled, 1, "interrupted", true},
		{&meshclient.Error{Code: "app-full", Message: "no room"}, 1, "app-full", false},
		{&absent{&meshclient.Denied{Reason: denial.UnlistedAgent}}, 1, "unlisted-agent", true},
	} {
		f := failureOf(tt.err)
		if f.exit != tt.exit || f.Code != tt.code || (f.Hint != "") != tt.hint || f.Retryable != (tt.exit == 4) {
			t.Errorf("%v: got exit %d, code %q, hint %q, retryable %t; want %d, %q, hint %t", tt.err, f.exit, f.Code, f.Hint, f.Retryable, tt.exit, tt.code, tt.hint)
		}
	}
}

// Errors hold what strangers sent, and are printed where people look.
func TestFinishIsOneCleanLine(t *testing.T) {
	var out, errs bytes.Buffer
	a := &app{stdout: &out, stderr: &errs}
	if got := a.finish(&meshclient.Error{Code: "app-x", Message: "a\nb\x1b[2Jc\u202ed"}); got != 1 {
		t.Errorf("got exit code %d, want 1", got)
	}
	if got, want := errs.String(), "sealmesh: app-x: a b [2Jc?d\n"; got != want || out.Len() != 0 {
		t.Errorf("got %q and %q, want %q", got, out.String(), want)
	}
}

func TestPayloadOf(t *testing.T) {
	for _, tt := range []struct{ data, want string }{
		{"", `{"data":""}`}, {"grüß <gott>", `{"data":"grüß <gott>"}`}, {"\xff\xfe", `{"data_b64":"//4="}`},
	} {
		var b strings.Builder
		if err := writeJSON(&b, payloadOf([]byte(tt.data)), false); err != nil || b.String() != tt.want+"\n" {
			t.Errorf("%q: got %q, %v, want %q", tt.data, b.String(), err, tt.want)
		}
	}
}

func TestReadAllStopsAtItsLimit(t *testing.T) {
	for _, tt := range []struct {
		size int
		want denial.Reason
	}{{8, ""}, {9, denial.TooLarge}} {
		b, err := readAll(strings.NewReader(strings.Repeat("x", tt.size)), "it", 8)
		if denial.Of(err) != tt.want || err == nil && len(b) != tt.size {
			t.Errorf("%d bytes: got %d, %v, want reason %q", tt.size, len(b), err, tt.want)
		}
	}
	if _, err := readAll(iotest.ErrReader(errors.New("torn")), "it", 8); err == nil {
		t.Error("a failed read is taken for an end")
	}
	a := &app{stdin: strings.NewReader(strings.Repeat("x", limits.Chain+1))}
	if _, err := a.textArg("-", "the chain", limits.Chain); denial.Of(err) != denial.TooLarge {
		t.Errorf("got %v, want %s", err, denial.TooLarge)
	}
}

func TestTailKeepsTheEnd(t *testing.T) {
	for _, writes := range [][]string{{"abcdefgh"}, {"abc", "defgh"}, {"a", "b", "c", "d", "e", "f", "gh"}, {"abcdef", "g", "h"}} {
		x := &tail{most: 4}
		for _, w := range writes {
			if n, err := x.Write([]byte(w)); n != len(w) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		if string(x.b) != "efgh" {
			t.Errorf("%q: got %q, want efgh", writes, x.b)
		}
	}
}

func request(data string) *meshclient.Request {
	return &meshclient.Request{
		From: agentid.Require("asker"), Scope: capability.RequireScope("run:x"), Data: []byte(data), Correlation: "AAAAAAAAAAAAAAAAAAAAAA",
	}
}

func TestCommand(t *testing.T) {
	for _, tt := range []struct {
		name, script, in, want, code string
	}{
		{"echoes", "cat", "hello", "hello", ""},
		{"says nothing", "true", "hello", "", ""},
		{"fails", "echo half; exit 3", "", "", codeExit},
		{"dies", "kill -9 $$", "", "", codeExit},
		{"floods", "yes", "", "", codeTooMuch},
		{"is told no deadline", `printf %s "[$MESH_DEADLINE]"`, "", "[]", ""},
		{"is told the sender", `printf %s "$MESH_SENDER $MESH_SCOPE"`, "", "asker run:x", ""},
		{"takes no command from the payload", "cat", "$(exit 9); rm -rf x", "$(exit 9); rm -rf x", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("MESH_DEADLINE", "forged")
			c := command{argv: []string{"/bin/sh", "-c", tt.script}, log: zerolog.Nop()}
			got, err := c.handle(t.Context(), request(tt.in))
			var e *meshclient.Error
			if errors.As(err, &e) != (tt.code != "") || e != nil && e.Code != tt.code || string(got) != tt.want {
				t.Errorf("got %.40q, %v, want %q, %q", got, err, tt.want, tt.code)
			}
		})
	}
}

// A caller that no longer waits keeps no process alive, neither the command nor
// what it started, and is told the truth about why.
func TestCommandEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	c := command{argv: []string{"/bin/sh", "-c", "sleep 60 & wait"}, log: zerolog.Nop()}
	start := time.Now()
	_, err := c.handle(ctx, request(""))
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	if took := time.Since(start); took > pipeWait {
		t.Errorf("took %s, so what the command started lived on", took)
	}
}

// A command that ends and leaves its output to something that runs on has not
// answered, and what it left is ended.
func TestCommandLeavesNothingBehind(t *testing.T) {
	c := command{argv: []string{"/bin/sh", "-c", "sleep 60 & echo $! >&2"}}
	var b bytes.Buffer
	c.log = zerolog.New(&b)
	_, err := c.handle(t.Context(), request(""))
	var e *meshclient.Error
	if !errors.As(err, &e) || e.Code != codeExit {
		t.Errorf("got %v, want %s", err, codeExit)
	}
	var line struct{ Stderr string }
	if err := json.Unmarshal(b.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line.Stderr))
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(soon); alive(pid); time.Sleep(poll) {
		if time.Now().After(end) {
			t.Fatalf("process %d lives on", pid)
		}
	}
}

// alive reports whether a process runs; one that ended and that nobody has
// waited for does not.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// Standard error is for the log: whole where it is short, else its end.
func TestCommandLogsItsComplaint(t *testing.T) {
	var b bytes.Buffer
	c := command{argv: []string{"/bin/sh", "-c", "echo private >&2; exit 1"}, log: zerolog.New(&b)}
	_, err := c.handle(t.Context(), request("payload"))
	if err == nil || strings.Contains(err.Error(), "private") {
		t.Errorf("got %v, want an error that keeps it to itself", err)
	}
	if !strings.Contains(b.String(), `"stderr":"private\n"`) || strings.Contains(b.String(), "payload") {
		t.Errorf("log is %s", b.String())
	}
}

func TestSuggestQuotes(t *testing.T) {
	a := &app{mesh: "it's here", getenv: func(string) string { return "" }}
	if got, want := a.suggest("status"), `sealmesh status --mesh 'it'\''s here'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What a command prints is sent as it is printed, whole characters at a time, and
// waits where nobody takes it. Its end is that of the command.
func TestPipe(t *testing.T) {
	pipes := func() (*pipe, *os.File) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close(); w.Close() })
		return &pipe{f: r}, w
	}
	write := func(w *os.File, s string) {
		if _, err := w.WriteString(s); err != nil {
			t.Error(err)
		}
	}
	p, w := pipes()
	parts, result := make(chan string), make(chan error, 1)
	take := func(b []byte) error { parts <- string(b); return nil }
	go func() { result <- p.copy(take) }()
	for _, s := range []struct{ written, sent string }{{"a\n", "a\n"}, {"b\xe2\x82", "b"}, {"\xac!", "€!"}, {"\xffx", "\xffx"}} {
		write(w, s.written)
		if got := <-parts; got != s.sent {
			t.Errorf("%q: got %q, want %q", s.written, got, s.sent)
		}
	}
	// The command ends while nobody takes what it printed, for longer than its
	// output is waited for.
	write(w, "late")
	write(w, strings.Repeat("x", partMost))
	p.end()
	time.Sleep(pipeWait + 100*time.Millisecond)
	w.Close()
	for n := len("late") + partMost; n > 0; {
		select {
		case got := <-parts:
			n -= len(got)
		case err := <-result:
			t.Fatalf("got %v with %d bytes left", err, n)
		}
	}
	if err := <-result; err != nil {
		t.Errorf("got %v, want the end", err)
	}

	// Something holds the output open.
	p, _ = pipes()
	p.end()
	if err := p.copy(take); !errors.Is(err, errLeftBehind) {
		t.Errorf("got %v, want that something was left behind", err)
	}
	// And prints on and on.
	p, w = pipes()
	p.end()
	go func(w *os.File) {
		for {
			if _, err := w.WriteString(strings.Repeat("y", partMost)); err != nil {
				return
			}
		}
	}(w)
	if err := p.copy(func([]byte) error { return nil }); !errors.Is(err, errLeftBehind) {
		t.Errorf("got %v, want that something was left behind", err)
	}
	// The time for what is left begins when it is asked for, however late.
	p, w = pipes()
	write(w, "late")
	w.Close()
	if err := p.f.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	late := ""
	time.AfterFunc(50*time.Millisecond, p.end)
	if err := p.copy(func(b []byte) error { late += string(b); return nil }); err != nil || late != "late" {
		t.Errorf("got %q, %v, want all of it", late, err)
	}
	// Nobody takes it any more.
	p, w = pipes()
	write(w, "z")
	if err := p.copy(func([]byte) error { return meshclient.ErrCancelled }); !errors.Is(err, meshclient.ErrCancelled) {
		t.Errorf("got %v, want why", err)
	}
}

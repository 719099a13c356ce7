package main

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/registry"
)

// exits are the exit codes of refusals that mean something else than "do not
// retry".
var exits = map[denial.Reason]int{
	denial.BadInput: 2, denial.BadPlain: 2, denial.BadScope: 2, denial.WildcardScope: 2, denial.ReservedName: 2,
	denial.AlreadyExists: 1, denial.NotFound: 1, denial.WrongState: 1, denial.QuotaExceeded: 1, denial.TooLarge: 1, denial.Internal: 1,
	denial.RegistryUnavailable: 4, denial.ReplayUnavailable: 4, denial.FeedStale: 4, denial.DeadlinePassed: 4, denial.Overloaded: 4,
	denial.RateLimited: 4, denial.EpochRaced: 4, denial.Conflict: 4, denial.BrokenStream: 4,
	denial.Flapping: 4, denial.SessionTaken: 4,
}

// reply is what the oracle answers to a question, in parts.
type reply struct {
	fields func(*envelope.Fields)
	data   string
}

func errorReply(code, data string) []reply {
	return []reply{{func(f *envelope.Fields) { f.Err = code }, data}}
}

func part(n int, last bool, code, data string) reply {
	return reply{func(f *envelope.Fields) { f.Part, f.Err = envelope.Part{Number: n, Last: last}, code }, data}
}

// Whatever becomes of a call, call --json says it in one document with a schema, a
// stable code, who answered, and the exit code that tells what to do next.
func TestCallShowsEveryCode(t *testing.T) {
	t.Parallel()
	a := newArena(t, 0)
	scope := capability.RequireScope("read:oracle")
	a.add("seeker", registry.Rights{Call: []capability.Scope{scope, capability.RequireScope("read:nothing")}, Publish: []string{"news"}})
	oracle := a.intruder(a.add("oracle", registry.Rights{Handle: []capability.Scope{scope}}))

	type outcome struct {
		code, cause string
		exit        int
		silent      bool   // nobody answered
		hint        string // "*": any; empty: none
		message     string // what it says, if that matters
	}
	questions := map[string][]reply{}
	want := map[string]outcome{}
	for reason := range reasonsOf(t, "Refusals") {
		name := "denied " + string(reason)
		body := must(json.Marshal(wire.Failure{Reason: reason, Hint: "rm -rf /", Detail: foreign}))(t)
		questions[name] = errorReply(meshclient.CodeDenied, string(body))
		exit, ok := exits[reason]
		if !ok {
			exit = exitDenied
		}
		want[name] = outcome{code: string(reason), exit: exit, hint: denial.Hint(reason)}
	}
	// Whoever lacks the right itself is told the command that grants it.
	lacking := want["denied "+string(denial.ScopeNotHeld)]
	lacking.hint = "*"
	want["denied "+string(denial.ScopeNotHeld)] = lacking
	if len(want) < 60 {
		t.Fatalf("got %d reasons, which cannot be all", len(want))
	}
	for _, o := range []struct {
		name    string
		replies []reply
		outcome
	}{
		{"denied without a reason", errorReply("denied", foreign), outcome{code: "internal", exit: 1}},
		{"denied tomorrow", errorReply("denied", `{"reason":"not-invented-yet"}`), outcome{code: "not-invented-yet", exit: 3}},
		{"invalid", errorReply("invalid", "no such colour"), outcome{code: "invalid", exit: 1, hint: "*", message: "invalid: no such colour"}},
		{"not-found", errorReply("not-found", ""), outcome{code: "not-found", exit: 1, hint: "*"}},
		{"unavailable", errorReply("unavailable", ""), outcome{code: "unavailable", exit: 4}},
		{"draining", errorReply("unavailable", "draining"), outcome{code: "unavailable", cause: "draining", exit: 4, hint: "*"}},
		{"deadline", errorReply("deadline", ""), outcome{code: "deadline", exit: 4, hint: "*"}},
		{"loop", errorReply("loop", ""), outcome{code: "loop", exit: 3, hint: "*"}},
		{"internal", errorReply("internal", ""), outcome{code: "internal", exit: 1, hint: "*"}},
		{"app", errorReply("app-full", "try tomorrow"+foreign), outcome{code: "app-full", exit: 1}},
		{"unknown", errorReply("quantum-decay", ""), outcome{code: "quantum-decay", exit: 1}},
		{"an error after parts", []reply{part(1, false, "", "half"), part(2, true, "app-full", "")}, outcome{code: "app-full", exit: 1}},
		{"a whole after a part", []reply{part(1, false, "", "half"), {nil, "whole"}}, outcome{code: "broken-stream", exit: 4, hint: "*"}},
		{"no end", []reply{part(1, false, "", "half")}, outcome{code: "deadline", exit: 4, hint: "*"}},
		{"nothing", nil, outcome{code: "deadline", exit: 4, hint: "*", silent: true}},
	} {
		questions[o.name], want[o.name] = o.replies, o.outcome
	}
	asked := make(chan string, 1)
	for _, filter := range []string{oracle.Space.CallFilter(scope.Dotted()), oracle.Space.AskFilter(oracle.Self, scope.Dotted())} {
		must(oracle.nc.QueueSubscribe(filter, subject.Queue(scope.Dotted()), func(req *nats.Msg) {
			for _, r := range questions[string(req.Data)] {
				oracle.send(oracle.answer(req, r.fields, r.data))
			}
			select {
			case asked <- string(req.Data):
			default:
			}
		}))(t)
	}
	oracle.send()

	check := func(t *testing.T, exit int, stdout string, o outcome) {
		t.Helper()
		var doc struct {
			Schema string  `json:"schema"`
			Error  failure `json:"error"`
		}
		lines := strings.Split(strings.TrimSuffix(stdout, "\n"), "\n")
		dec := json.NewDecoder(strings.NewReader(lines[len(lines)-1]))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&doc); err != nil {
			t.Fatalf("%v in %q", err, stdout)
		}
		e := doc.Error
		if doc.Schema != errorSchema || e.Code != o.code || e.Cause != o.cause || exit != o.exit || e.Retryable != (o.exit == exitUnavailable) {
			t.Errorf("got exit code %d and %s", exit, stdout)
		}
		if o.hint == "*" && e.Hint == "" || o.hint != "*" && e.Hint != o.hint {
			t.Errorf("got hint %q, want %q", e.Hint, o.hint)
		}
		if o.message != "" && e.Message != o.message {
			t.Errorf("got message %q, want %q", e.Message, o.message)
		}
		if !envelopeID(e.Correlation) {
			t.Errorf("got correlation %q", e.Correlation)
		}
		who, instance := oracle.Self, oracle.dir.Info.Instance
		if o.silent {
			who, instance = agentid.ID{}, agentid.Instance{}
		}
		if e.From != who || e.Instance != instance {
			t.Errorf("got %s/%s for who answered", e.From, e.Instance)
		}
		if strings.ContainsFunc(stdout, actedUpon) || strings.Contains(stdout, "rm -rf") {
			t.Errorf("got %q", stdout)
		}
	}
	for name, o := range want {
		t.Run(name, func(t *testing.T) {
			args := []string{"call", "read:oracle", name, "--as", "seeker", "--json"}
			switch name {
			case "no end": // with time to connect, on a busy machine
				t.Parallel()
				args = append(args, "--stream", "--timeout", "5s")
			case "nothing":
				t.Parallel()
				args = append(args, "--to", "oracle", "--timeout", "5s")
			case "an error after parts", "a whole after a part":
				args = append(args, "--stream")
			}
			exit, stdout, stderr := a.sealmesh(t.Context(), args...)
			if stderr != "" {
				t.Errorf("got %q on standard error", stderr)
			}
			check(t, exit, stdout, o)
		})
	}
	for name, o := range map[string]struct {
		args []string
		outcome
	}{
		"nobody":    {[]string{"read:nothing"}, outcome{code: "unavailable", cause: "nobody", exit: 4, hint: "*", silent: true}},
		"not held":  {[]string{"write:oracle"}, outcome{code: "scope-not-held", exit: 3, hint: "*", silent: true}},
		"too large": {[]string{"read:oracle", strings.Repeat("x", 70<<20)}, outcome{code: "too-large", exit: 1, silent: true}},
	} {
		t.Run(name, func(t *testing.T) {
			exit, stdout, _ := a.sealmesh(t.Context(), append([]string{"call", "--as", "seeker", "--json"}, o.args...)...)
			check(t, exit, stdout, o.outcome)
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		o := outcome{code: "interrupted", exit: 1, hint: "*", silent: true}
		for len(asked) > 0 {
			<-asked
		}
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-asked; cancel() }()
		exit, stdout, _ := a.sealmesh(ctx, "call", "read:oracle", "nothing", "--as", "seeker", "--json")
		check(t, exit, stdout, o)

		p := a.start("call", "read:oracle", "nothing", "--as", "seeker", "--json")
		<-asked
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		var ended *exec.ExitError
		if err := p.cmd.Wait(); !errors.As(err, &ended) {
			t.Fatalf("got %v, want an exit code", err)
		}
		check(t, ended.ExitCode(), p.out.String(), o)
	})
	t.Run("publish", func(t *testing.T) {
		publish := []string{"publish", "news", "one", "--as", "seeker", "--json"}
		a.operate(wire.AdminRequest{Op: wire.OpTopicAdd, Topic: &registry.Topic{Topic: "news", MaxAge: 3600}})
		events := must(a.storage().Stream(t.Context(), subject.EventsStream))(t)
		least := events.CachedInfo().Config
		least.MaxMsgsPerSubject = 1
		var exit int
		var stdout string
		for try := 0; ; try++ { // the control plane may put the stream right meanwhile
			must(a.storage().UpdateStream(t.Context(), least))(t)
			if exit, stdout, _ = a.sealmesh(t.Context(), publish...); exit != exitOK || try == 10 {
				break
			}
			if !strings.Contains(stdout, `"sealmesh.publish/v1"`) {
				t.Fatalf("got %s", stdout)
			}
		}
		check(t, exit, stdout, outcome{code: "quota-exceeded", exit: 1, silent: true})
		publish[1] = "secrets"
		exit, stdout, _ = a.sealmesh(t.Context(), publish...)
		check(t, exit, stdout, outcome{code: "scope-not-held", exit: 3, hint: "*", silent: true})
	})
	// What is not listed here is not told to callers, or is no refusal.
	for reason := range maps.Keys(exits) {
		if _, ok := want["denied "+string(reason)]; !ok {
			t.Errorf("%s has an exit code and is no reason", reason)
		}
	}
}

// envelopeID reports whether s has the form of the ID of a call tree.
func envelopeID(s string) bool {
	return len(s) == len(envelope.NewCorrelation()) && !strings.ContainsAny(s, " \n\x1b")
}

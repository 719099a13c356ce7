package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/jws"
)

// app is what every verb works with: where it reads and writes, and the global
// flags.
type app struct {
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
	getenv func(string) string
	now    func() time.Time

	mesh     string
	as       string
	json     bool
	verbose  bool
	timeout  time.Duration
	logLevel string
	level    zerolog.Level // of --log-level, where it was given
}

// run is the whole program but for the process that it runs in. It returns the
// exit code. SIGINT and SIGTERM end it in order; a second one ends it at once.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, getenv: os.Getenv, now: time.Now, json: asksJSON(args)}
	root := newRoot(a)
	root.SetArgs(digestsLast(args))
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return a.finish(root.ExecuteContext(ctx))
}

// asksJSON looks for --json before the flags are parsed, so that what is wrong
// with them is said in the form that was asked for, too.
func asksJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--json", "--json=true":
			return true
		case "--":
			return false
		}
	}
	return false
}

// digestsLast moves digests that begin with a hyphen, as one of 64 does, behind
// "--", so that they are not taken for flags. No flag has their form.
func digestsLast(args []string) []string {
	var flags, digests []string
	rest := args
	for len(rest) > 0 && rest[0] != "--" {
		if arg := rest[0]; strings.HasPrefix(arg, "-") && jws.IsDigest(arg) {
			digests = append(digests, arg)
		} else {
			flags = append(flags, arg)
		}
		rest = rest[1:]
	}
	if len(digests) == 0 {
		return args
	}
	if len(rest) > 0 {
		rest = rest[1:]
	}
	return slices.Concat(flags, []string{"--"}, digests, rest)
}

// deadline bounds a verb by --timeout or, where it was not given, by usual;
// with neither there is no bound.
func (a *app) deadline(ctx context.Context, usual time.Duration) (context.Context, context.CancelFunc) {
	d := a.timeout
	if d == 0 {
		d = usual
	}
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// runLog is the log of verbs that run until they are stopped: info and above.
func (a *app) runLog() zerolog.Logger { return a.logAt(zerolog.InfoLevel) }

// shotLog is the log of verbs that end by themselves: silent, because their one
// error line says what there is to say.
func (a *app) shotLog() zerolog.Logger { return a.logAt(zerolog.Disabled) }

func (a *app) logAt(usual zerolog.Level) zerolog.Logger {
	level := usual
	switch {
	case a.logLevel != "":
		level = a.level
	case a.verbose:
		level = zerolog.InfoLevel
	}
	return zerolog.New(zerolog.SyncWriter(a.stderr)).Level(level).With().Timestamp().Logger()
}

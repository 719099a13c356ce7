package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/meshclient"
)

const (
	// maxReply is the most that a command may print, in bytes.
	maxReply = limits.Body
	// maxComplaint is how much of a command's standard error is logged, in
	// bytes: its end, which says what went wrong last.
	maxComplaint = 4 << 10
	// pipeWait is how long a command's pipes may stay open after it has ended or
	// was killed, because something that it started still holds them.
	pipeWait = 2 * time.Second
)

// The error codes that a caller sees of a command.
const (
	codeExit    = "app-exit"
	codeTooMuch = "app-too-much-output"
)

var errTooMuch = fmt.Errorf("command printed more than %d bytes", maxReply)

// command is a program that answers requests, one process each.
type command struct {
	argv []string
	log  zerolog.Logger
}

// handle runs the command for one request. It is a meshclient.Handler.
func (c *command) handle(ctx context.Context, req *meshclient.Request) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd, complaint := c.prepare(ctx, req)
	out := &head{most: maxReply, full: func() { cancel(errTooMuch) }}
	cmd.Stdout = out
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		endGroup(cmd)
	}
	if err := c.outcome(ctx, req, err, complaint); err != nil {
		return nil, err
	}
	return out.b, nil
}

// prepare makes the process of one request; where its output goes is left open.
func (c *command) prepare(ctx context.Context, req *meshclient.Request) (*exec.Cmd, *tail) {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Env = append(inherited(os.Environ()), c.environment(ctx, req)...)
	cmd.Stdin = bytes.NewReader(req.Data)
	complaint := &tail{most: maxComplaint}
	cmd.Stderr = complaint
	cmd.WaitDelay = pipeWait
	ownGroup(cmd)
	return cmd, complaint
}

// outcome logs how a command ended, and returns what its caller is told of that.
func (c *command) outcome(ctx context.Context, req *meshclient.Request, err error, complaint *tail) error {
	cause := context.Cause(ctx)
	if err != nil || len(complaint.b) > 0 {
		e := c.log.Info()
		if err != nil {
			e = c.log.Warn().AnErr("error", err)
		}
		e.Str("scope", req.Scope.String()).Str("correlation", req.Correlation).Bytes("stderr", complaint.b).Msg("command")
	}
	var exit *exec.ExitError
	switch {
	case errors.Is(cause, errTooMuch), errors.Is(cause, errTooManyParts):
		return &meshclient.Error{Code: codeTooMuch, Message: cause.Error()}
	case cause != nil:
		return cause
	case errors.As(err, &exit):
		return &meshclient.Error{Code: codeExit, Message: "command ended with " + exit.String()}
	case err != nil:
		// It did not start, or left something behind that keeps its output open.
		return &meshclient.Error{Code: codeExit, Message: "command could not be run to its end"}
	}
	return nil
}

// environment tells the command about the request. Every variable is set, so
// that none can be taken over from the environment of this program.
func (c *command) environment(ctx context.Context, req *meshclient.Request) []string {
	deadline := ""
	if end, ok := ctx.Deadline(); ok {
		deadline = end.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
	return []string{
		"MESH_SENDER=" + req.From.String(),
		"MESH_SCOPE=" + req.Scope.String(),
		"MESH_CORRELATION=" + req.Correlation,
		"MESH_DEADLINE=" + deadline,
	}
}

// inherited is the environment less what is secret in it.
func inherited(env []string) []string {
	out := make([]string, 0, len(env)+4)
	for _, v := range env {
		if !strings.HasPrefix(v, joinVariable+"=") {
			out = append(out, v)
		}
	}
	return out
}

// head keeps the first bytes that are written to it and calls full, once or
// more, when there are too many.
type head struct {
	b    []byte
	most int
	full func()
}

func (h *head) Write(p []byte) (int, error) {
	if len(h.b)+len(p) > h.most {
		h.full()
		return 0, errTooMuch
	}
	h.b = append(h.b, p...)
	return len(p), nil
}

// tail keeps the last bytes that are written to it.
type tail struct {
	b    []byte
	most int
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if n >= t.most {
		t.b, p = t.b[:0], p[n-t.most:]
	} else if over := len(t.b) + n - t.most; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	t.b = append(t.b, p...)
	return n, nil
}

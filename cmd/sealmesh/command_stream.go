package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

const (
	// partMost is the most that one part of a command's answer holds, in bytes.
	partMost = 32 << 10
	// pipeMost is more than a pipe holds: of what is read after a command has ended,
	// the rest is from something that it left behind.
	pipeMost = 1 << 20
)

// stream runs the command for one request and sends what it prints while it runs.
// It is a meshclient.Handler.
func (c *command) stream(ctx context.Context, req *meshclient.Request) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	in, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer in.Close() //nolint:errcheck // only read
	cmd, complaint := c.prepare(ctx, req)
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		out.Close() //nolint:errcheck // nothing was written
		return nil, c.outcome(ctx, req, err, complaint)
	}
	out.Close() //nolint:errcheck // the command has it
	p := &pipe{f: in}
	sent := make(chan error, 1)
	go func() {
		err := p.copy(func(part []byte) error { return req.Send(ctx, part) })
		switch {
		case denial.Of(err) == denial.TooLarge:
			cancel(errTooManyParts)
		case err != nil && !errors.Is(err, errLeftBehind):
			cancel(err) // nobody takes what it prints
		}
		sent <- err
	}()
	if err = cmd.Wait(); errors.Is(err, exec.ErrWaitDelay) {
		endGroup(cmd)
	}
	p.end()
	// What it printed before its end is still on its way, for as long as the caller
	// takes: the wait of os/exec would cut that off.
	unsent := <-sent
	if errors.Is(unsent, errLeftBehind) {
		endGroup(cmd)
	}
	if err == nil {
		err = unsent
	}
	return nil, c.outcome(ctx, req, err, complaint)
}

// errTooManyParts says that a command printed more often than an answer has parts.
var errTooManyParts = errors.New("command printed more parts than an answer may have")

// errLeftBehind says that a command ended and something that it started still
// holds its output.
var errLeftBehind = errors.New("command left something behind that keeps its output open")

// pipe is the output of a command. Its end is not told by that of the command,
// which may have started something.
type pipe struct {
	f     *os.File
	ended atomic.Bool // the command has ended
}

// end has what is in the pipe read, and no more waited for.
func (p *pipe) end() {
	p.ended.Store(true)
	p.f.SetReadDeadline(time.Now().Add(pipeWait)) //nolint:errcheck // pipes have deadlines
}

// copy hands on what is written, as it is written. Only what would be cut within
// a character waits for the rest of it.
func (p *pipe) copy(send func([]byte) error) error {
	buf := make([]byte, partMost)
	held, after := 0, 0
	for {
		ended := p.ended.Load()
		if ended {
			p.f.SetReadDeadline(time.Now().Add(pipeWait)) //nolint:errcheck // pipes have deadlines
		}
		n, err := p.f.Read(buf[held:])
		if n += held; n > 0 {
			held = 0
			if err == nil {
				held = unfinished(buf[:n])
			}
			if n > held {
				// Send keeps the bytes until its caller has them.
				if err := send(append([]byte(nil), buf[:n-held]...)); err != nil {
					return err
				}
				copy(buf, buf[n-held:n])
			}
		}
		if ended {
			after += n
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) && !ended:
			// The deadline came while a part was being sent: there may be more.
		case errors.Is(err, os.ErrDeadlineExceeded), after > pipeMost:
			return errLeftBehind
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// unfinished is how many bytes at the end are the beginning of a character.
func unfinished(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if utf8.FullRune(tail) {
				return 0
			}
			return n
		}
	}
	return 0
}

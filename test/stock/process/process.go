//go:build unix

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Soon bounds what is waited for that happens at once on an idle machine.
const Soon = 20 * time.Second

// Process is a running program.
type Process struct {
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	Stdout *Output
	Stderr *Output
	done   chan struct{}
	code   int // valid once done is closed; -1 where a signal ended it
}

// Start runs a program in a working directory until the test ends at the latest.
// It leads a process group of its own, so that what it leaves behind is found.
func Start(t testing.TB, dir, path string, args ...string) *Process {
	t.Helper()
	cmd := exec.Command(path, args...)
	p := &Process{t: t, name: cmd.Args[0] + " " + strings.Join(args, " "), cmd: cmd, Stdout: NewOutput(), Stderr: NewOutput(), done: make(chan struct{})}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, environment(), p.Stdout, p.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Something that it left behind may hold its output open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		cmd.Wait() //nolint:errcheck // the state says what the error says
		p.code = cmd.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may be gone
		<-p.done
		p.inspect()
	})
	return p
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// inspect fails the test for what no program may ever say, and shows what the
// program said where the test failed.
func (p *Process) inspect() {
	said := p.Stderr.String()
	for _, sign := range []string{"DATA RACE", "panic: ", "fatal error: ", "control plane panicked"} {
		if strings.Contains(said, sign) {
			p.t.Errorf("%s said %q", p.name, sign)
		}
	}
	if p.t.Failed() {
		const most = 8 << 10
		p.t.Logf("%s ended with %d; its last words:\n%s\n%s", p.name, p.code, p.Stdout, said[max(0, len(said)-most):])
	}
}

// Await returns when the program has printed text on standard output, or fails
// the test if it ends first or takes too long.
func (p *Process) Await(text string) {
	p.t.Helper()
	if err := p.Says(text); err != nil {
		p.t.Fatal(err)
	}
}

// Says is Await for those who go on where the program ended first: it returns an
// error then, or after too long.
func (p *Process) Says(text string) error { return p.await(p.Stdout, text) }

// AwaitLog is Await for standard error.
func (p *Process) AwaitLog(text string) {
	p.t.Helper()
	if err := p.await(p.Stderr, text); err != nil {
		p.t.Fatal(err)
	}
}

func (p *Process) await(o *Output, text string) error {
	late := time.NewTimer(Soon)
	defer late.Stop()
	for {
		there, more := o.contains(text)
		if there {
			return nil
		}
		select {
		case <-more:
		case <-p.done:
			if there, _ := o.contains(text); there {
				return nil
			}
			return fmt.Errorf("%s ended before it said %q", p.name, text)
		case <-late.C:
			return fmt.Errorf("%s did not say %q", p.name, text)
		}
	}
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal to the program alone.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// Kill ends the program without a warning and returns when it is gone.
func (p *Process) Kill() {
	p.t.Helper()
	p.Signal(os.Kill)
	<-p.done
}

// Wait returns the exit code, -1 where a signal ended the program. It fails the
// test if the program is still there after a time.
func (p *Process) Wait(within time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.code
	case <-time.After(within):
		// Its stacks say what it waits for.
		p.Signal(syscall.SIGQUIT)
		select {
		case <-p.done:
		case <-time.After(time.Second):
		}
		p.t.Fatalf("%s is still there after %s", p.name, within)
		return 0
	}
}

// Terminate asks the program to end and returns its exit code.
func (p *Process) Terminate(within time.Duration) int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait(within)
}

// Survivors reports whether anything of the program's process group is left
// after the program itself has ended.
func (p *Process) Survivors() bool {
	return !errors.Is(syscall.Kill(-p.cmd.Process.Pid, 0), syscall.ESRCH)
}

// Output is what a program prints, to be read while it runs.
type Output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed and replaced at each write
}

// NewOutput returns an empty output.
func NewOutput() *Output { return &Output{more: make(chan struct{})} }

// Write implements io.Writer.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.more)
	o.more = make(chan struct{})
	return o.buf.Write(b)
}

// String returns everything so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// contains reports whether text was printed, and returns the channel that is
// closed when more is.
func (o *Output) contains(text string) (bool, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Contains(o.buf.Bytes(), []byte(text)), o.more
}

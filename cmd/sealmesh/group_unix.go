//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// ownGroup lets a command and what it starts be killed together, and keeps a
// terminal's interrupt from them: this program lets them finish.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// endGroup kills what a command left behind: nobody waits for it any more. The
// group's number cannot be another's while one of its processes lives, and
// there is none to kill otherwise.
func endGroup(cmd *exec.Cmd) {
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // usually nobody is left
	}
}

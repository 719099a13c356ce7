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

// endGroup kills what an ended command left behind with its output open. Only
// while something of the group lives can its number not be another's.
func endGroup(cmd *exec.Cmd) {
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) //nolint:errcheck // it may have ended meanwhile
}

//go:build unix

package run

import (
	"os/exec"
	"syscall"
)

// ownGroup gives the command a process group of its own: a Ctrl-C on the terminal
// then reaches it through the context only, and a stop reaches its children too.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func terminate(cmd *exec.Cmd) error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }

func kill(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }

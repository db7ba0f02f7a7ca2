// Package run runs commands by argument list: never through a shell.
package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Cmd is one command to run.
type Cmd struct {
	Argv           []string  // the program and its arguments
	Dir            string    // working directory; default: the parent's
	Env            []string  // the whole environment; nil: the parent's
	Stdin          io.Reader // nil: empty
	Stdout, Stderr io.Writer // nil: dropped (the error still has the end of stderr)
}

// stopAfter is how long a command has to end after SIGTERM.
const stopAfter = 5 * time.Second

// tailBytes is how much of stderr an error keeps.
const tailBytes = 4096

// Run starts the command and waits for it. When ctx ends, the command and what it
// has started get SIGTERM, and SIGKILL five seconds later. The error is an *Error.
func (c Cmd) Run(ctx context.Context) error {
	if len(c.Argv) == 0 {
		return &Error{ExitCode: -1, Err: errors.New("no command given")}
	}
	tail := &tailWriter{}
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout = c.Dir, c.Env, c.Stdin, c.Stdout
	cmd.Stderr = tail
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(tail, c.Stderr)
	}
	ownGroup(cmd)
	cmd.Cancel = func() error { return terminate(cmd) }
	cmd.WaitDelay = stopAfter
	err := cmd.Run()
	if ctx.Err() != nil && cmd.Process != nil {
		// What the command had started may have outlived it.
		kill(cmd)
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	code := -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return &Error{Argv: c.Argv, ExitCode: code, Stderr: string(tail.buf), Err: err}
}

// Output runs a command and returns its stdout less one trailing newline, also
// beside an error.
func Output(ctx context.Context, argv ...string) (string, error) {
	var out bytes.Buffer
	err := Cmd{Argv: argv, Stdout: &out}.Run(ctx)
	return strings.TrimSuffix(out.String(), "\n"), err
}

// Error is a command that could not be started, failed, or was stopped.
type Error struct {
	Argv     []string
	ExitCode int    // -1 if it did not end by itself
	Stderr   string // its last 4 KiB
	Err      error  // an *exec.ExitError, why it could not start, or why the context ended
}

func (e *Error) Error() string {
	s := fmt.Sprintf("run %s: %v", commandLine(e.Argv), e.Err)
	if said := strings.TrimSpace(e.Stderr); said != "" {
		s += ": " + said
	}
	return s
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// commandLine prints argv so that its borders can be seen; it is for reading, not
// for a shell.
func commandLine(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'`\\") {
			words[i] = fmt.Sprintf("%q", a)
		}
	}
	return strings.Join(words, " ")
}

// tailWriter keeps the last tailBytes bytes.
type tailWriter struct{ buf []byte }

func (w *tailWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	if over := len(w.buf) - tailBytes; over > 0 {
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	return len(p), nil
}

// Environ is the parent's environment with these variables ("NAME=value") set: for
// the Env of a Cmd that needs more than the parent has. It is the one place where a
// library of this module looks at the environment, and only to hand it on.
func Environ(set ...string) []string {
	return append(os.Environ(), set...) // of two with one name the last one counts
}

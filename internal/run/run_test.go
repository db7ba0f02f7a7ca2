package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is the command under test: what it does is chosen by its first
// argument, so that nothing but Go is needed.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "as" {
		os.Exit(act(os.Args[2], os.Args[3:]))
	}
	os.Exit(m.Run())
}

func act(as string, args []string) int {
	switch as {
	case "echo": // each argument on a line, then stdin, then the environment's X
		for _, a := range args {
			fmt.Println(a)
		}
		in := new(bytes.Buffer)
		_, _ = in.ReadFrom(os.Stdin)
		fmt.Print(in.String(), os.Getenv("X"))
		dir, _ := os.Getwd()
		fmt.Fprint(os.Stderr, dir)
	case "fail":
		fmt.Fprint(os.Stderr, strings.Repeat("a", 5000), "the end")
		fmt.Println("half an answer")
		return 7
	case "sleep": // with a child that holds the same stdout
		if len(args) == 1 {
			child := exec.Command(os.Args[0], "as", "sleep")
			child.Stdout = os.Stdout
			if err := child.Start(); err != nil {
				return 1
			}
			if err := os.WriteFile(args[0], []byte(strconv.Itoa(child.Process.Pid)), 0o600); err != nil {
				return 1
			}
		}
		<-time.After(time.Hour)
	}
	return 0
}

func self(t *testing.T, args ...string) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return append([]string{exe, "as"}, args...)
}

func TestOutputPassesArgumentsAsTheyAre(t *testing.T) {
	out, err := Output(t.Context(), self(t, "echo", "a b", "$HOME; rm", "", `"q"`)...)
	if err != nil {
		t.Fatal(err)
	}
	if want := "a b\n$HOME; rm\n\n\"q\""; out != want {
		t.Errorf("output %q, want %q", out, want)
	}
}

func TestCmdFields(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	err = Cmd{Argv: self(t, "echo"), Dir: dir, Env: []string{"X=from the environment"},
		Stdin: strings.NewReader("from stdin, "), Stdout: &stdout, Stderr: &stderr}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := stdout.String(); got != "from stdin, from the environment" {
		t.Errorf("stdout %q", got)
	}
	// Under -cover the child adds a warning of its own, its environment having been replaced.
	if got := stderr.String(); !strings.HasPrefix(got, dir) {
		t.Errorf("ran in %q, want %q", got, dir)
	}
}

func TestEnviron(t *testing.T) {
	t.Setenv("X", "the parent's")
	argv := self(t, "echo")
	for want, env := range map[string][]string{"the parent's": nil, "set": Environ("X=set")} {
		var out bytes.Buffer
		if err := (Cmd{Argv: argv, Env: env, Stdout: &out}).Run(t.Context()); err != nil || out.String() != want {
			t.Errorf("%q, %v; want %q", &out, err, want)
		}
	}
	if env := Environ(); !slices.Contains(env, "X=the parent's") {
		t.Error("the parent's environment is not handed on")
	}
}

func TestFailure(t *testing.T) {
	var stderr bytes.Buffer
	argv := self(t, "fail", "an argument")
	var out bytes.Buffer
	err := Cmd{Argv: argv, Stdout: &out, Stderr: &stderr}.Run(t.Context())
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("error is %T: %v", err, err)
	}
	if e.ExitCode != 7 || len(e.Stderr) != tailBytes || !strings.HasSuffix(e.Stderr, "the end") {
		t.Errorf("exit code %d, %d bytes of stderr", e.ExitCode, len(e.Stderr))
	}
	if stderr.Len() != 5007 || out.String() != "half an answer\n" {
		t.Errorf("the caller's writers got %d bytes and %q", stderr.Len(), out.String())
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Error("the cause is not there to be unwrapped")
	}
	for _, want := range []string{`fail "an argument"`, "exit status 7", "the end"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %.200q does not say %q", err, want)
		}
	}
	if s, err := Output(t.Context(), argv...); s != "half an answer" || err == nil {
		t.Errorf("output %q, error %v", s, err)
	}
}

func TestCannotStart(t *testing.T) {
	_, err := Output(t.Context(), "there-is-no-such-program", "-x")
	var e *Error
	if !errors.As(err, &e) || e.ExitCode != -1 || !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("error %#v", err)
	}
	if err := (Cmd{}).Run(t.Context()); !errors.As(err, &e) || !strings.Contains(err.Error(), "no command") {
		t.Errorf("error %v", err)
	}
}

// A stop reaches the child's child too, at once, and the cause is told.
func TestCancelStopsTheWholeGroup(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	why := errors.New("no longer needed")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	var out bytes.Buffer
	go func() { done <- Cmd{Argv: self(t, "sleep", pidFile), Stdout: &out}.Run(ctx) }()
	var pid int
	for deadline := time.Now().Add(20 * time.Second); pid == 0; {
		raw, _ := os.ReadFile(pidFile)
		pid, _ = strconv.Atoi(string(raw))
		if time.Now().After(deadline) {
			t.Fatal("the command did not start its child within 20s")
		}
		time.Sleep(10 * time.Millisecond)
	}
	begin := time.Now()
	cancel(why)
	var err error
	select {
	case err = <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("Run did not return")
	}
	if took := time.Since(begin); took >= stopAfter {
		t.Errorf("the stop took %s: the child's child held it up", took)
	}
	var e *Error
	if !errors.Is(err, why) || !errors.As(err, &e) || e.ExitCode != -1 {
		t.Errorf("error %#v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); alive(pid); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d, the child's child, still runs", pid)
		}
	}
}

// alive is false for a zombie, which is dead and only not yet reaped.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !os.IsNotExist(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

func TestCommandLine(t *testing.T) {
	if got := commandLine([]string{"a", "", "b c", `d"e`, "-f=g"}); got != `a "" "b c" "d\"e" -f=g` {
		t.Error(got)
	}
}

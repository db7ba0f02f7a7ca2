package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// bin is the program itself: exit codes and streams are part of what it promises.
func bin(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "full")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", name, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return name
}

func TestCommandLine(t *testing.T) {
	full := bin(t)
	scratch := t.TempDir()
	// An engine that is not there: whatever the machine has must not be touched.
	env := append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(scratch, "no-such.sock"))
	for name, tc := range map[string]struct {
		args []string
		code int
		want []string
	}{
		"help":             {[]string{"--help"}, 0, []string{"--keep", "Exit code", "-workers"}},
		"unknown flag":     {[]string{"--colour"}, 2, []string{"colour"}},
		"stray argument":   {[]string{"up"}, 2, []string{`unexpected argument "up"`}},
		"contradiction":    {[]string{"--verify", "--down"}, 2, []string{"exclude each other"}},
		"workers":          {[]string{"--workers", "0"}, 2, []string{"at least one"}},
		"images":           {[]string{"--images", "latest"}, 2, []string{"auto, registry or fromsource"}},
		"kubernetes":       {[]string{"--kubernetes", "1.36"}, 2, []string{`--kubernetes: kubernetes version "1.36"`, "whole version"}},
		"cilium":           {[]string{"--cilium", "1.21.0"}, 2, []string{"--cilium: ", "removed after 1.20"}},
		"no recipe":        {[]string{"--kubernetes", "1.36.4", "--images", "fromsource"}, 1, []string{"there is kindest/node:v1.37.2;"}},
		"mirror":           {[]string{"--mirror", "quay.io"}, 2, []string{"HOST=MIRROR"}},
		"cluster name":     {[]string{"--name", "No Name"}, 2, []string{`"No Name"`}},
		"unknown phase":    {[]string{"--phase", "cillium"}, 1, []string{"cillium"}},
		"engine not there": {[]string{"--images", "fromsource"}, 1, []string{"preflight", "no-such.sock", "NOT PROVEN"}},
		"report folder":    {[]string{"--phase", "preflight", "--report-dir", "/proc/nowhere"}, 1, []string{"writing the report", "/proc/nowhere"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--cache-dir", filepath.Join(scratch, "cache"), "--report-dir", filepath.Join(scratch, "report")}, tc.args...)
			cmd := exec.CommandContext(t.Context(), full, args...)
			cmd.Env = env
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("exit code %d (%v), want %d", code, err, tc.code)
			}
			for _, want := range tc.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the output does not say %q", want)
				}
			}
			if t.Failed() {
				t.Log(out.String())
			}
		})
	}
}

func TestMirrors(t *testing.T) {
	var m mirrors
	for _, s := range []string{"quay.io=a.test/q", "quay.io=b.test", "ghcr.io=a.test/g"} {
		if err := m.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if len(m["quay.io"]) != 2 || m["quay.io"][1] != "b.test" || len(m["ghcr.io"]) != 1 {
		t.Errorf("got %v", m)
	}
}

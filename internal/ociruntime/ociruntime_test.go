package ociruntime

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissing(t *testing.T) {
	tests := []struct {
		status    string
		want, bad bool
	}{
		{"Name:\tx\nCapEff:\t0\nCapBnd:\t000001fffeffffff\n", true, false},
		{"CapBnd:\t000001ffffffffff\n", false, false},
		{"CapBnd:\tnot hex\n", false, true},
		{"", false, true},
	}
	for _, tt := range tests {
		got, err := missing(tt.status, "status")
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("missing(%q) = %v, %v", tt.status, got, err)
		}
	}
}

func TestNeededByAgreesWithNeeded(t *testing.T) {
	self, err := Needed()
	if err != nil {
		t.Fatal(err)
	}
	if other, err := NeededBy(os.Getpid()); err != nil || other != self {
		t.Errorf("NeededBy(self) = %v, %v; Needed() = %v", other, err, self)
	}
}

// The binary must be static, since it runs inside images that have no libc of
// ours, and the same each time, since images are named by their content.
func TestBuild(t *testing.T) {
	dir := t.TempDir()
	runc := filepath.Join(dir, "real")
	if err := os.WriteFile(runc, []byte("#!/bin/sh\necho \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	for _, out := range []string{first, second} {
		if err := Build(t.Context(), out, runc); err != nil {
			t.Fatal(err)
		}
	}
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two builds differ")
	}
	f, err := elf.NewFile(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 {
		t.Errorf("needs shared libraries %v, %v", libs, err)
	}

	out, err := exec.CommandContext(t.Context(), first, "--root", "/x", "state", "id").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "--root /x state id" {
		t.Errorf("the runtime behind it got %q, %v", out, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.new"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSplitCommand(t *testing.T) {
	tests := []struct{ line, command, rest string }{
		{"create --bundle /b id", "create", "--bundle /b id"},
		{"--root /run/runc --log /l/log.json --log-format json create -b /b id", "create", "-b /b id"},
		{"--root=/run/runc --systemd-cgroup --debug run id", "run", "id"},
		{"-log /create -root /exec start id", "start", "id"},
		{"--rootless auto exec -p /p id", "exec", "-p /p id"},
		{"--version", "", ""},
		{"", "", ""},
		{"--root", "", ""},
	}
	for _, tt := range tests {
		command, rest := splitCommand(strings.Fields(tt.line))
		if command != tt.command || strings.Join(rest, " ") != tt.rest {
			t.Errorf("splitCommand(%q) = %q, %q; want %q, %q", tt.line, command, rest, tt.command, tt.rest)
		}
	}
}

func TestFlagValue(t *testing.T) {
	bundle := []string{"bundle", "b"}
	process := []string{"process", "p"}
	tests := []struct {
		line        string
		takes, name []string
		value       string
		found       bool
	}{
		{"--bundle /b id", runcValueFlags, bundle, "/b", true},
		{"--bundle=/b id", runcValueFlags, bundle, "/b", true},
		{"-b /b id", runcValueFlags, bundle, "/b", true},
		{"-b=/b id", runcValueFlags, bundle, "/b", true},
		{"-bundle /b id", runcValueFlags, bundle, "/b", true},
		{"--pid-file /b --no-pivot -b /c id", runcValueFlags, bundle, "/c", true},
		{"--console-socket --bundle -b /c id", runcValueFlags, bundle, "/c", true},
		{"--bundle /a --bundle /b id", runcValueFlags, bundle, "/b", true},
		{"id --bundle /b", runcValueFlags, bundle, "", false},
		{"--bundle", runcValueFlags, bundle, "", false},
		{"id", runcValueFlags, bundle, "", false},
		{"--process /p --detach --pid-file /pid id", execValueFlags, process, "/p", true},
		{"-d -p=/p id", execValueFlags, process, "/p", true},
		{"--user 0 --env A=B id sh -p /x", execValueFlags, process, "", false},
		{"-- id -p /x", execValueFlags, process, "", false},
	}
	for _, tt := range tests {
		value, found := flagValue(strings.Fields(tt.line), tt.takes, tt.name...)
		if value != tt.value || found != tt.found {
			t.Errorf("flagValue(%q) = %q, %v; want %q, %v", tt.line, value, found, tt.value, tt.found)
		}
	}
}

func TestRewriteSpec(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{
			"all sets and the score",
			`{"process":{"capabilities":{"bounding":["CAP_A","CAP_SYS_RESOURCE"],"effective":["CAP_SYS_RESOURCE"],"permitted":["CAP_SYS_RESOURCE","CAP_B"],"inheritable":["CAP_SYS_RESOURCE"],"ambient":["CAP_SYS_RESOURCE"]},"oomScoreAdj":-999}}`,
			`{"process":{"capabilities":{"ambient":[],"bounding":["CAP_A"],"effective":[],"inheritable":[],"permitted":["CAP_B"]},"oomScoreAdj":0}}`,
		},
		{
			"unknown fields and numbers stay as they are",
			`{"x":{"big":18446744073709551615,"f":1.50,"s":"<&>"},"process":{"oomScoreAdj":-1,"y":[1e3]}}`,
			`{"process":{"oomScoreAdj":0,"y":[1e3]},"x":{"big":18446744073709551615,"f":1.50,"s":"<&>"}}`,
		},
		{"nothing to cut", ` { "process": {"oomScoreAdj": 100, "capabilities": {"bounding":["CAP_A"]}} } `, ` { "process": {"oomScoreAdj": 100, "capabilities": {"bounding":["CAP_A"]}} } `},
		{"no process", `{"ociVersion":"1.0.2"}`, `{"ociVersion":"1.0.2"}`},
		{"nulls", `{"process":{"capabilities":null,"oomScoreAdj":null}}`, `{"process":{"capabilities":null,"oomScoreAdj":null}}`},
	}
	for _, tt := range tests {
		got, err := rewriteSpec([]byte(tt.in))
		if err != nil || string(got) != tt.want {
			t.Errorf("%s:\n got %s, %v\nwant %s", tt.name, got, err, tt.want)
		}
	}
	for _, bad := range []string{``, `[]`, `{"process":[]}`, `{"process":{"oomScoreAdj":"x"}}`, `{"process":{"capabilities":{"bounding":"CAP_A"}}}`} {
		if got, err := rewriteSpec([]byte(bad)); err == nil {
			t.Errorf("rewriteSpec(%s) = %s, want an error", bad, got)
		}
	}
}

func TestRewriteForFiles(t *testing.T) {
	dir := t.TempDir()
	spec := filepath.Join(dir, "config.json")
	process := filepath.Join(dir, "process.json")
	write := func() {
		t.Helper()
		for path, doc := range map[string]string{
			spec:    `{"process":{"capabilities":{"bounding":["CAP_SYS_RESOURCE"]}}}`,
			process: `{"capabilities":{"bounding":["CAP_SYS_RESOURCE"]}}`,
		} {
			if err := os.WriteFile(path, []byte(doc), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	cut := func(path string) bool {
		t.Helper()
		doc, err := os.ReadFile(path)
		if err != nil || !json.Valid(doc) {
			t.Fatalf("%s: %q, %v", path, doc, err)
		}
		return !strings.Contains(string(doc), capability)
	}
	tests := []struct {
		args      []string
		wantSpec  bool
		wantOther bool
	}{
		{[]string{"--root", "/r", "create", "--bundle", dir, "id"}, true, false},
		{[]string{"run", "-b=" + dir, "id"}, true, false},
		{[]string{"--log-format", "json", "exec", "--process", process, "-d", "id"}, false, true},
		{[]string{"exec", "id", "true"}, false, false},
		{[]string{"start", "id"}, false, false},
		{[]string{"--version"}, false, false},
	}
	for _, tt := range tests {
		write()
		if err := rewriteFor(tt.args); err != nil {
			t.Errorf("%v: %v", tt.args, err)
		}
		if cut(spec) != tt.wantSpec || cut(process) != tt.wantOther {
			t.Errorf("%v: spec cut %v, process cut %v; want %v, %v", tt.args, cut(spec), cut(process), tt.wantSpec, tt.wantOther)
		}
		if info, err := os.Stat(spec); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v: mode changed to %v, %v", tt.args, info.Mode(), err)
		}
	}
	if err := rewriteFor([]string{"create", "--bundle", filepath.Join(dir, "none"), "id"}); err == nil {
		t.Error("a bundle that is not there must be an error")
	}
	t.Chdir(dir)
	write()
	if err := rewriteFor([]string{"create", "id"}); err != nil || !cut(spec) {
		t.Errorf("without --bundle the working directory is the bundle: %v", err)
	}
}

func TestCapabilityMissing(t *testing.T) {
	tests := []struct {
		status string
		want   bool
		bad    bool
	}{
		{"Name:\tx\nCapBnd:\t000001fffeffffff\nSeccomp:\t0\n", true, false},
		{"CapBnd:\t000001ffffffffff\n", false, false},
		{"CapBnd:\tzz\n", false, true},
		{"Name:\tx\n", false, true},
	}
	for _, tt := range tests {
		got, err := capabilityMissing(tt.status)
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("capabilityMissing(%q) = %v, %v", tt.status, got, err)
		}
	}
}

func TestFindRunc(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	named := filepath.Join(dir, "named")
	inPath := filepath.Join(dir, "bin", "runc")
	loop := filepath.Join(dir, "loop", "runc")
	for _, path := range []string{named, inPath} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/true\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(loop), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, loop); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", strings.Join([]string{filepath.Dir(loop), filepath.Dir(inPath)}, string(os.PathListSeparator)))
	if got, err := findRunc(); err != nil || got != inPath {
		t.Errorf("findRunc() = %q, %v; want %q, not itself", got, err, inPath)
	}
	t.Setenv(envRunc, named)
	if got, err := findRunc(); err != nil || got != named {
		t.Errorf("findRunc() = %q, %v; want %q", got, err, named)
	}
	t.Setenv(envRunc, "")
	t.Setenv("PATH", filepath.Dir(loop))
	if got, err := findRunc(); err == nil || !strings.Contains(err.Error(), envRunc) {
		t.Errorf("findRunc() = %q, %v; want an error that names %s", got, err, envRunc)
	}
}

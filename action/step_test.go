package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/zerotrust"
)

// runner is the environment of a step, less what the inputs are.
func runner(t *testing.T) (map[string]string, string) {
	t.Helper()
	dir := t.TempDir()
	env := map[string]string{
		"GITHUB_WORKSPACE": dir, "ZEROTRUST_ACTION_ROOT": "..", "ZEROTRUST_ACTION_STATE": t.TempDir(),
		"GITHUB_OUTPUT": filepath.Join(dir, "out"), "GITHUB_STEP_SUMMARY": filepath.Join(dir, "summary"),
	}
	for _, f := range []string{"out", "summary"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return env, dir
}

// Wrong inputs are all told at once, in the log, in the summary and in the outputs, and nothing
// is begun.
func TestStepWithWrongInputs(t *testing.T) {
	env, dir := runner(t)
	env["INPUT_INTENT"], env["INPUT_WORKERS"], env["INPUT_CLUSTER-NAME"] = "none.yaml", "zero", "x\n::set-output name=result::passed"
	var b bytes.Buffer
	if code := mainStep(t.Context(), given(env), &b); code != 1 {
		t.Errorf("exit code %d", code)
	}
	summary, _ := os.ReadFile(filepath.Join(dir, "summary"))
	for _, want := range []string{"input workers", "input cluster-name", "input intent", "none.yaml"} {
		for place, text := range map[string]string{"log": b.String(), "summary": string(summary)} {
			if !strings.Contains(text, want) {
				t.Errorf("the %s does not say %q:\n%s", place, want, text)
			}
		}
	}
	if got := commands(b.String()); !slices.Equal(got, []string{"error"}) {
		t.Errorf("the log has the commands %q", got)
	}
	out, _ := os.ReadFile(filepath.Join(dir, "out"))
	if got := readOutputs(t, string(out)); got["result"] != "error" || got["passed"] != "0" {
		t.Errorf("the outputs are %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "zerotrust-report")); err == nil {
		t.Error("a report was written")
	}
	b.Reset()
	if code := postStep(t.Context(), given(env), &b); code != 0 || !strings.Contains(b.String(), "nothing is removed") {
		t.Errorf("post: %d, %s", code, b.String())
	}
}

func TestStepOutsideOfAWorkflow(t *testing.T) {
	var b bytes.Buffer
	if code := mainStep(t.Context(), none, &b); code != 1 || !strings.Contains(b.String(), "GITHUB_WORKSPACE is not set") {
		t.Errorf("exit code %d, %s", code, b.String())
	}
}

func TestDecide(t *testing.T) {
	dir := t.TempDir()
	text, err := zerotrust.Precinct99().YAML()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{"good.yaml": text, "bad.yaml": []byte("version: 1\nnam: x\n"), "kubeconfig": []byte("apiVersion: v1\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	e := environment{workspace: dir, folder: "/f"}
	s, err := decide(inputs{Intent: "good.yaml", ClusterName: "mine", ReportDir: "r"}, e)
	if err != nil || s.demo || s.exists || s.intent.Name != "mine" || s.ReportDir != filepath.Join(dir, "r") || s.Kubeconfig != "/f/kubeconfig" {
		t.Errorf("got %+v, %v", s, err)
	}
	if s, err = decide(inputs{Kubeconfig: "kubeconfig"}, e); err != nil || !s.demo || !s.exists || s.Kubeconfig != filepath.Join(dir, "kubeconfig") {
		t.Errorf("got %+v, %v", s, err)
	}
	_, err = decide(inputs{Intent: "bad.yaml", Kubeconfig: "none"}, e)
	if err == nil || !strings.Contains(err.Error(), "bad.yaml:2") || !strings.Contains(err.Error(), "input kubeconfig") {
		t.Errorf("got %v", err)
	}
}

// The packages of an intent are built in its own module, and the programs that the stack brings along
// in this action's.
func TestSourceOf(t *testing.T) {
	dir := t.TempDir()
	team, deploy := filepath.Join(dir, "team"), filepath.Join(dir, "team", "deploy")
	if err := os.MkdirAll(deploy, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(team, "go.mod"), []byte("module example.org/team\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	builds := zerotrust.Intent{Workloads: []zerotrust.Workload{{Package: "./cmd/a"}}}
	for name, tt := range map[string]struct {
		in   zerotrust.Intent
		file string
		want string
		err  string
	}{
		"the demo":       {builds, "", "/root", ""},
		"nothing built":  {zerotrust.Intent{}, filepath.Join(team, "a.yaml"), "/root", ""},
		"beside go.mod":  {builds, filepath.Join(team, "a.yaml"), team, ""},
		"below it":       {builds, filepath.Join(deploy, "a.yaml"), team, ""},
		"of this module": {builds, "../examples/orders/zerotrust.yaml", here, ""},
		"of no module":   {builds, filepath.Join(dir, "a.yaml"), "", "no go.mod"},
	} {
		got, err := sourceOf(tt.in, tt.file, "/root")
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v; want %q, %q", name, got, err, tt.want, tt.err)
		}
	}
	if cfg := (&step{settings: settings{environment: environment{root: "/root"}}}).config(); cfg.ProgramsDir != "/root" {
		t.Errorf("the programs are built in %q", cfg.ProgramsDir)
	}
}

// Whatever a pod is called, its log stays below the folder.
func TestFileNames(t *testing.T) {
	for _, evil := range append(slices.Clone(evil), "..", ".", "", "../../etc/passwd", "a/b", "/") {
		got := fileName(evil)
		if strings.ContainsAny(got, "/\x00\n") || got == "." || got == ".." || got == "" {
			t.Errorf("%q becomes %q", evil, got)
		}
	}
	e := &export{dir: t.TempDir(), redact: func(s string) string { return strings.ReplaceAll(s, "hunter2", "***") }}
	if err := e.write("a/b.log", "password hunter2\n"); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(filepath.Join(e.dir, "a/b.log")); string(text) != "password ***\n" {
		t.Errorf("the log is %q", text)
	}
	e.dir = "/proc/nowhere"
	if _, err := e.all(t.Context()); err == nil || !errors.Is(err, os.ErrNotExist) && !strings.Contains(err.Error(), "/proc/nowhere") {
		t.Errorf("got %v", err)
	}
}

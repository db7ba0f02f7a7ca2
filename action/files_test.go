package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// readOutputs reads a file of outputs as the runner does.
func readOutputs(t *testing.T, text string) map[string]string {
	t.Helper()
	all := map[string]string{}
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		if lines[i] == "" {
			continue
		}
		name, end, ok := strings.Cut(lines[i], "<<")
		if !ok {
			if name, value, ok := strings.Cut(lines[i], "="); ok {
				all[name] = value
				continue
			}
			t.Fatalf("line %d is no output: %q", i+1, lines[i])
		}
		var value []string
		for i++; ; i++ {
			if i == len(lines) {
				t.Fatalf("output %s does not end", name)
			}
			if lines[i] == end {
				break
			}
			value = append(value, lines[i])
		}
		all[name] = strings.Join(value, "\n")
	}
	return all
}

func TestNoValueMakesAnotherOutput(t *testing.T) {
	for _, said := range evil {
		out := outputs{Result: failed, FailedPhase: said, ClusterName: said, ReportDir: said, Passed: 3}
		text, err := outputText(out.pairs(), randomToken)
		if err != nil {
			t.Fatal(err)
		}
		got := readOutputs(t, text)
		if len(got) != len(out.pairs()) || got["result"] != "failed" || got["passed"] != "3" {
			t.Errorf("%q makes the outputs %q", said, got)
		}
		if want := strings.ReplaceAll(said, "\r\n", "\n"); got["failed-phase"] != want {
			t.Errorf("%q comes as %q", said, got["failed-phase"])
		}
	}
	if _, err := outputText([][2]string{{"a", "x\nD\ny"}}, func() string { return "D" }); err == nil {
		t.Error("a value with its delimiter in it is written")
	}
	if a, b := randomToken(), randomToken(); a == b || len(a) < 26 {
		t.Errorf("the tokens %q and %q can be foreseen", a, b)
	}
}

func TestFilesOfTheRunner(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "out")
	if err := os.WriteFile(good, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := appendFile("GITHUB_OUTPUT", good, "after\n"); err != nil {
		t.Error(err)
	}
	if text, _ := os.ReadFile(good); string(text) != "before\nafter\n" {
		t.Errorf("the file is %q", text)
	}
	for name, tt := range map[string]struct{ path, want string }{
		"no variable": {"", "not set"}, "no file": {filepath.Join(dir, "none"), "no such file"},
		"a folder": {dir, "is a directory"}, "a full disk": {"/dev/full", "no space left"}, "a read-only place": {"/proc/version", "permission denied"},
	} {
		err := appendFile("GITHUB_OUTPUT", tt.path, "x")
		if name == "a read-only place" && err != nil {
			continue // root is refused there with another word
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "GITHUB_OUTPUT") {
			t.Errorf("%s gives %v, want %q", name, err, tt.want)
		}
	}
}

func TestReportsThatCannotBeWritten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	written, err := writeReports(dir, []string{"junit", "html"}, proven())
	if err != nil || len(written) != 2 || written["junit"] != filepath.Join(dir, "junit.xml") {
		t.Errorf("wrote %v, %v", written, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "report.json")); err == nil {
		t.Error("report.json was not asked for")
	}
	// One that is in the way does not keep the others.
	if err := os.MkdirAll(filepath.Join(dir, "report.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	written, err = writeReports(dir, reportNames(), proven())
	if err == nil || !strings.Contains(err.Error(), "report.json") || len(written) != 3 {
		t.Errorf("wrote %v, %v", written, err)
	}
	if _, err := writeReports("/proc/nowhere", reportNames(), proven()); err == nil || !strings.Contains(err.Error(), "/proc/nowhere") {
		t.Errorf("below /proc: %v", err)
	}
	if written, err := writeReports("/proc/nowhere", nil, proven()); err != nil || len(written) != 0 {
		t.Errorf("none: %v, %v", written, err)
	}
}

// end gives the verdict whatever cannot be written, and says what was not.
func TestEndKeepsTheVerdict(t *testing.T) {
	file := func(t *testing.T) string {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, tt := range map[string]struct {
		change func(*step)
		code   int
		want   string
	}{
		"all well":                  {func(*step) {}, 0, "passed: 1 checks passed"},
		"no outputs' file":          {func(s *step) { s.output = "" }, 1, "GITHUB_OUTPUT"},
		"outputs on a full disk":    {func(s *step) { s.output = "/dev/full" }, 1, "no space left"},
		"no summary's file":         {func(s *step) { s.summary = "/none" }, 0, "there is no job summary"},
		"summary on a full disk":    {func(s *step) { s.summary = "/dev/full" }, 0, "no space left"},
		"report folder not there":   {func(s *step) { s.ReportDir = "/proc/nowhere" }, 1, "/proc/nowhere"},
		"the step's folder is gone": {func(s *step) { s.folder = "/none" }, 0, "noting what is to be cleaned up"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			in, err := parseInputs(none)
			if err != nil {
				t.Fatal(err)
			}
			s := &step{settings: settings{inputs: in, environment: environment{output: file(t), summary: file(t), folder: t.TempDir()}}, log: newLog(&b, none)}
			s.ReportDir = t.TempDir()
			tt.change(s)
			out := outputs{Result: passed}
			out.count(proven())
			if code := s.end(proven(), out, nil, nil); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(b.String(), tt.want) || !strings.Contains(b.String(), "passed: 1 checks passed") {
				t.Errorf("the log does not say %q and the verdict:\n%s", tt.want, b.String())
			}
		})
	}
}

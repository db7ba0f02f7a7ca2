package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/zerotrust"
)

// apiServer is a cluster in which every pod, container and event says what it should not.
func apiServer(t *testing.T, said string) *rest.Config {
	t.Helper()
	var pods []corev1.Pod
	// Names of another shape than a path are asked for; the others no client sends.
	for _, name := range []string{said, "gateway-1"} {
		state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		pods = append(pods, corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			Spec:       corev1.PodSpec{NodeName: said},
			Status: corev1.PodStatus{Phase: corev1.PodPhase(said), ContainerStatuses: []corev1.ContainerStatus{
				{Name: said, State: state, RestartCount: 1}, {Name: "gateway", State: state},
			}},
		})
	}
	events := []corev1.Event{{Type: said, Reason: said, Message: said, InvolvedObject: corev1.ObjectReference{Namespace: said, Kind: said, Name: said}}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(kind string, items any) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "v1", "kind": kind, "items": items})
		}
		switch {
		case strings.HasSuffix(r.URL.Path, "/log"):
			fmt.Fprint(w, said+"\nlast line "+said)
		case r.URL.Path == "/api/v1/namespaces/shop/pods":
			answer("PodList", pods)
		case r.URL.Path == "/api/v1/namespaces/shop/events":
			answer("EventList", events)
		default:
			http.Error(w, "nothing but "+said, http.StatusNotFound)
		}
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

// Whatever pods are called and whatever they say: their logs are files below the folder, one line
// is one line, and on the way to the step's log and summary it stays text.
func TestLogsOfAHostileCluster(t *testing.T) {
	for _, said := range append(slices.Clone(evil), "..", "../../../etc/cron.d/x", "a/b") {
		base := t.TempDir()
		e := &export{
			dir: filepath.Join(base, "logs"), cluster: apiServer(t, said), namespaces: []string{"shop"}, apps: []string{"shop"},
			redact: func(s string) string { return s },
		}
		tails, err := e.all(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(tails) < 2 {
			t.Errorf("%q: the ends of %d logs are shown", said, len(tails))
		}
		top, err := os.ReadDir(base)
		if err != nil || len(top) != 1 {
			t.Errorf("%q: beside the folder there is %v, %v", said, top, err)
		}
		found := 0
		err = filepath.WalkDir(e.dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".log") {
				found++
				if rel, err := filepath.Rel(e.dir, path); err != nil || strings.Count(rel, "/") != 3 {
					t.Errorf("%q: a log is %s", said, rel)
				}
			}
			return err
		})
		if err != nil || found < 2 {
			t.Errorf("%q: %d logs, %v", said, found, err)
		}
		for file, lines := range map[string]int{"pods.txt": 2, "events.txt": 1} {
			text, err := os.ReadFile(filepath.Join(e.dir, file))
			if err != nil || strings.Count(string(text), "\n") != lines || strings.ContainsAny(string(text), "\x1b\x00\r") {
				t.Errorf("%q: %s is %q, %v", said, file, text, err)
			}
		}
		var b bytes.Buffer
		l := newLog(&b, none)
		for _, tail := range tails {
			l.quote("the end of the log of "+tail.name, lastLines(tail.text, tailBytes/4))
		}
		for _, c := range commands(b.String()) {
			if c != "group" && c != "endgroup" {
				t.Errorf("%q makes the command %q in\n%s", said, c, b.String())
			}
		}
		if s := summarised(t, broken(said), tails, 0); whole(s) != nil || strings.ContainsAny(s, "\x1b\x00") {
			t.Errorf("%q breaks the summary: %v", said, whole(s))
		}
	}
}

// Intents that are none are told by name, and nothing is begun.
func TestIntentsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty.yaml": "", "binary.yaml": "\x7fELF\x00\x01", "list.yaml": "- a\n", "steering.yaml": "version: 1\nname: \"\\e[2J\\n::error::x\"\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{
		"none.yaml": "no such file", ".": "is a directory", "none.yaml/x": "no such file", "empty.yaml": "empty.yaml", "binary.yaml": "binary.yaml", "list.yaml": "list.yaml",
		"steering.yaml": "name", "/dev/zero": "more than 4 MiB",
	} {
		env, workspace := runner(t)
		env["GITHUB_WORKSPACE"], env["INPUT_INTENT"] = dir, file
		var b bytes.Buffer
		if code := mainStep(t.Context(), given(env), &b); code != 1 {
			t.Errorf("%s: exit code %d", file, code)
		}
		out, _ := os.ReadFile(filepath.Join(workspace, "out"))
		summary, _ := os.ReadFile(filepath.Join(workspace, "summary"))
		if got := readOutputs(t, string(out))["result"]; got != "error" {
			t.Errorf("%s: the result is %q", file, got)
		}
		for place, text := range map[string]string{"log": b.String(), "summary": string(summary)} {
			if !strings.Contains(text, "input intent") || !strings.Contains(text, want) || strings.ContainsAny(text, "\x1b\x00") {
				t.Errorf("%s: the %s does not say %q, or steers:\n%q", file, place, want, text)
			}
		}
		if got := commands(b.String()); !slices.Equal(got, []string{"error"}) {
			t.Errorf("%s: the log has the commands %q", file, got)
		}
	}
}

// A kubeconfig that is none is told before anything begins, and not shown.
func TestKubeconfigsThatAreNone(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "broken": "token: hunter2\n\tx", "without": "apiVersion: v1\nkind: Config\nusers: [{name: a, user: {token: hunter2}}]\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"none", ".", "/dev/zero", "empty", "broken", "without"} {
		env, _ := runner(t)
		env["GITHUB_WORKSPACE"], env["INPUT_KUBECONFIG"], env["INPUT_REGISTRY"] = dir, file, "registry.invalid/team"
		var b bytes.Buffer
		if code := mainStep(t.Context(), given(env), &b); code != 1 {
			t.Errorf("%s: exit code %d", file, code)
		}
		shownOutside := slices.DeleteFunc(strings.Split(b.String(), "\n"), func(l string) bool { return strings.HasPrefix(l, "::add-mask::") })
		if text := strings.Join(shownOutside, "\n"); !strings.Contains(text, "kubeconfig") || strings.Contains(text, "hunter2") {
			t.Errorf("%s: the log is\n%s", file, b.String())
		}
	}
}

// readOnly is a folder in which nothing can be made, whoever asks.
func readOnly(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "there"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		for _, name := range []string{filepath.Join(dir, "there"), dir} {
			if err := os.Chmod(name, 0o500); err != nil {
				t.Fatal(err)
			}
		}
		t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
		return dir
	}
	// Modes do not stop root, a mount does.
	err := syscall.Mount(dir, dir, "", syscall.MS_BIND, "")
	if err == nil {
		t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
		err = syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, "")
	}
	if err != nil {
		t.Fatalf("making %s read-only: %v: run the tests as another user than root, or as one that may mount", dir, err)
	}
	return dir
}

// onFullDisk has every file of these names, in a folder of its own, be on a disk without space.
func onFullDisk(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		if err := os.Symlink("/dev/full", filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Where a step is to leave something and cannot: what is missing is named with its path and the
// system's reason, what can be written is, and the verdict is told in any case.
func TestPlacesThatCannotBeWritten(t *testing.T) {
	locked := readOnly(t)
	there := filepath.Join(locked, "there")
	inTheWay := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(inTheWay, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	denied := func(err string) bool {
		return strings.Contains(err, syscall.EROFS.Error()) || strings.Contains(err, syscall.EACCES.Error())
	}
	says := func(want string) func(string) bool { return func(s string) bool { return strings.Contains(s, want) } }
	reports := []string{"report.html", "report.json", "junit.xml", "report.md"}
	for name, tt := range map[string]struct {
		change  func(*step)
		code    int
		reason  func(string) bool
		path    string
		reports int // written
	}{
		"outputs: a folder":              {func(s *step) { s.output = locked }, 1, says("is a directory"), locked, 4},
		"outputs: not there":             {func(s *step) { s.output = filepath.Join(locked, "none") }, 1, says("no such file"), "GITHUB_OUTPUT", 4},
		"outputs: read-only":             {func(s *step) { s.output = there }, 1, denied, there, 4},
		"outputs: no space":              {func(s *step) { s.output = "/dev/full" }, 1, says("no space left"), "GITHUB_OUTPUT", 4},
		"summary: a folder":              {func(s *step) { s.summary = locked }, 0, says("is a directory"), "GITHUB_STEP_SUMMARY", 4},
		"summary: not there":             {func(s *step) { s.summary = filepath.Join(locked, "none") }, 0, says("no such file"), "GITHUB_STEP_SUMMARY", 4},
		"summary: read-only":             {func(s *step) { s.summary = there }, 0, denied, there, 4},
		"summary: no space":              {func(s *step) { s.summary = "/dev/full" }, 0, says("no space left"), "GITHUB_STEP_SUMMARY", 4},
		"report: below a read-only one":  {func(s *step) { s.ReportDir = filepath.Join(locked, "r") }, 1, denied, filepath.Join(locked, "r"), 0},
		"report: a read-only folder":     {func(s *step) { s.ReportDir = locked }, 1, denied, filepath.Join(locked, "report.html"), 0},
		"report: a file":                 {func(s *step) { s.ReportDir = inTheWay }, 1, says("not a directory"), inTheWay, 0},
		"report: below a file":           {func(s *step) { s.ReportDir = filepath.Join(inTheWay, "r") }, 1, says("not a directory"), inTheWay, 0},
		"report: no space":               {func(s *step) { s.ReportDir = onFullDisk(t, reports...) }, 1, says("no space left"), "report.json", 0},
		"report: no space for one":       {func(s *step) { s.ReportDir = onFullDisk(t, "report.json") }, 1, says("no space left"), "report.json", 3},
		"the step's folder: read-only":   {func(s *step) { s.folder = locked }, 0, denied, "noting what is to be cleaned up", 4},
		"the step's folder: no space":    {func(s *step) { s.folder = onFullDisk(t, stateFile+".new") }, 0, says("no space left"), "noting what is to be cleaned up", 4},
		"everything: no space, forgiven": {func(s *step) { s.output, s.summary, s.FailOn = "/dev/full", "/dev/full", failNever }, 1, says("no space left"), "GITHUB_OUTPUT", 4},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			in, err := parseInputs(none)
			if err != nil {
				t.Fatal(err)
			}
			files := t.TempDir()
			s := &step{settings: settings{inputs: in, environment: environment{output: filepath.Join(files, "out"), summary: filepath.Join(files, "sum"), folder: t.TempDir()}}, log: newLog(&b, none)}
			for _, file := range []string{s.output, s.summary} {
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s.ReportDir = filepath.Join(files, "report")
			tt.change(s)
			out := outputs{Result: passed}
			out.count(proven())
			if code := s.end(proven(), out, nil, nil); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if log := b.String(); !tt.reason(log) || !strings.Contains(log, tt.path) || !strings.Contains(log, fmt.Sprintf("passed: 1 checks passed, 0 did not, 0 were not asked (exit code %d)", tt.code)) {
				t.Errorf("the log has not the reason, %s and the verdict:\n%s", tt.path, log)
			}
			written := 0
			for _, file := range reports {
				if info, err := os.Stat(filepath.Join(s.ReportDir, file)); err == nil && info.Size() > 0 {
					written++
				}
			}
			if written != tt.reports {
				t.Errorf("%d reports are there, want %d", written, tt.reports)
			}
			// What is told to later steps is what there is.
			if s.output == filepath.Join(files, "out") {
				text, err := os.ReadFile(s.output)
				if err != nil {
					t.Fatal(err)
				}
				got := readOutputs(t, string(text))
				if got["result"] != "passed" || (got["report-json"] != "") != (tt.reports == 4) || (got["report-dir"] != "") != (tt.reports > 0) {
					t.Errorf("the outputs are %q", got)
				}
			}
		})
	}
}

// Wrong inputs on a runner where nothing can be written: they are told in the log, beside what
// could not be written.
func TestWrongInputsAndNoPlaces(t *testing.T) {
	locked := readOnly(t)
	env, _ := runner(t)
	env["INPUT_WORKERS"], env["GITHUB_OUTPUT"], env["GITHUB_STEP_SUMMARY"], env["ZEROTRUST_ACTION_STATE"] = "many", locked, "/dev/full", locked
	var b bytes.Buffer
	if code := mainStep(t.Context(), given(env), &b); code != 1 {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"input workers", "GITHUB_OUTPUT", "is a directory", "GITHUB_STEP_SUMMARY", "no space left"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, b.String())
		}
	}
}

// Logs that find no space, or no folder, do not keep the others, nor the verdict.
func TestLogsThatCannotBeWritten(t *testing.T) {
	e := &export{dir: onFullDisk(t, "pods.txt", "events.txt"), cluster: apiServer(t, "x"), namespaces: []string{"shop"}, apps: []string{"shop"}, redact: func(s string) string { return s }}
	tails, err := e.all(t.Context())
	if err != nil || len(tails) < 2 {
		t.Errorf("%d logs are shown, %v", len(tails), err)
	}
	text, err := os.ReadFile(filepath.Join(e.dir, "errors.txt"))
	if err != nil || strings.Count(string(text), "no space left") != 2 {
		t.Errorf("errors.txt is %q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(e.dir, "pods", "shop", "gateway-1", "gateway.log")); err != nil {
		t.Error(err)
	}
	e = &export{dir: filepath.Join(readOnly(t), "logs"), redact: e.redact}
	if _, err := e.all(t.Context()); !errors.Is(err, syscall.EROFS) && !errors.Is(err, syscall.EACCES) {
		t.Errorf("in a read-only folder: %v", err)
	}
	e = &export{dir: onFullDisk(t, "errors.txt"), cluster: apiServer(t, "x"), namespaces: []string{"shop"}, redact: e.redact}
	if _, err := e.all(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("without space for errors.txt: %v", err)
	}
}

// An intent that cannot be kept out of the report is that of the file: hostile values in it are refused
// or stay text.
func TestHostileIntents(t *testing.T) {
	for _, said := range evil {
		in := zerotrust.Precinct99()
		in.Name = said
		if err := in.Validate(); err == nil {
			t.Errorf("an intent may be called %q", said)
		}
		in = zerotrust.Precinct99()
		in.Workloads = slices.Clone(in.Workloads)
		in.Workloads[0].Name = said
		err := in.Validate()
		if err == nil {
			t.Errorf("a workload may be called %q", said)
			continue
		}
		var b bytes.Buffer
		newLog(&b, none).fail(err)
		if got := commands(b.String()); !slices.Equal(got, []string{"error"}) || strings.ContainsAny(b.String(), "\x1b\x00") {
			t.Errorf("a workload called %q makes the commands %q", said, got)
		}
	}
}

//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/kindx/kindtest"
	"github.com/org/spire-vault-99-action/zerotrust"
)

// act executes workflows on this machine. It is run from its module, as actionlint is.
const act = "github.com/nektos/act@v0.2.89"

// checkout is the action that act does itself, by copying the tree.
const checkout = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"

// The cluster and the port are not the demo's, which may be running.
const (
	actCluster = "action-e2e"
	actPort    = 3091
)

// TestE2EAct executes workflows with `uses: ./` on the real stack. The steps share one cluster, in
// their order. With -short the last two are left out, each of which builds another one.
func TestE2EAct(t *testing.T) {
	a := newActions(t)
	t.Run("cancelled half-way, no cluster is left", a.cancelled)
	t.Run("all green, and with cleanup never the cluster stays", a.green)
	t.Run("beside the phases it takes no longer than examples/full and 3 seconds", a.overhead)
	t.Run("an existing cluster, by its kubeconfig", a.existing)
	t.Run("one check broken on purpose", a.broken)
	if testing.Short() {
		t.Log("left out: a cluster to be installed in, and the one-liner (make action)")
		return
	}
	t.Run("installed in a cluster that is there", a.installed)
	t.Run("the demo, with no inputs, gone at the end", a.demo)
}

// actions runs workflows in a copy of this tree.
type actions struct {
	dir    string // the copy: a repository
	act    string // the program
	binary string // the action's
	home   string // what the workflows leave for the test
	intent []byte
}

func newActions(t *testing.T) *actions {
	t.Helper()
	a := &actions{dir: t.TempDir(), home: t.TempDir()}
	bin := t.TempDir()
	a.act, a.binary = filepath.Join(bin, "act"), filepath.Join(bin, "action")
	if given := os.Getenv("ACT"); given != "" {
		a.act = given
	} else if err := (run.Cmd{Argv: []string{"go", "install", act}, Env: run.Environ("GOBIN=" + bin)}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := (run.Cmd{Argv: []string{"go", "build", "-o", a.binary, "."}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	files, err := run.Output(t.Context(), "git", "-C", "..", "ls-files", "--cached", "--others", "--exclude-standard")
	if err != nil {
		t.Fatal(err)
	}
	for f := range strings.Lines(files) {
		f = strings.TrimSpace(f)
		text, err := os.ReadFile(filepath.Join("..", f))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		if err != nil {
			t.Fatal(err)
		}
		a.write(t, f, text)
	}
	if a.intent, err = os.ReadFile("../zerotrust/precinct99.yaml"); err != nil {
		t.Fatal(err)
	}
	a.intent = bytes.Replace(a.intent, []byte("name: precinct-99\n"), []byte("name: "+actCluster+"\n"), 1)
	a.intent = bytes.Replace(a.intent, []byte("hostPort: 3000"), fmt.Appendf(nil, "hostPort: %d", actPort), 1)
	a.write(t, "zerotrust.yaml", a.intent)
	for _, argv := range [][]string{{"init", "--quiet"}, {"add", "--all"}, {"-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "--message", "x"}} {
		if _, err := run.Output(t.Context(), append([]string{"git", "-C", a.dir}, argv...)...); err != nil {
			t.Fatal(err)
		}
	}
	a.remove(t)
	t.Cleanup(func() { a.remove(t) })
	return a
}

func (a *actions) write(t *testing.T, name string, text []byte) {
	t.Helper()
	file := filepath.Join(a.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (a *actions) remove(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute)
	defer cancel()
	cache, err := os.UserCacheDir()
	if err == nil {
		err = kindx.Delete(ctx, actCluster, kindx.Config{Kubeconfig: filepath.Join(a.home, "kubeconfig"), StateDir: filepath.Join(cache, "spire-vault-99", "clusters")})
	}
	if err != nil {
		t.Error(err)
	}
}

// clusterIsThere says whether there is any container of the cluster, whole or not.
func (a *actions) clusterIsThere(t *testing.T, name string) bool {
	t.Helper()
	found, err := run.Output(t.Context(), "docker", "ps", "--all", "--quiet", "--filter", "label=io.x-k8s.kind.cluster="+name)
	if err != nil {
		t.Fatal(err)
	}
	return found != ""
}

// job is a workflow under way or at its end.
type job struct {
	cmd *exec.Cmd
	mu  sync.Mutex
	log bytes.Buffer
	end chan error

	outputs map[string]string
	summary string
}

func (j *job) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.log.Write(p)
}

func (j *job) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.log.String()
}

// start starts a workflow that uses the action with these inputs. A later step notes the outputs and
// the summary, also when the action's failed; more are further steps.
func (a *actions) start(t *testing.T, with map[string]string, more string) *job {
	t.Helper()
	for _, f := range []string{"outputs", "reports"} {
		if err := os.RemoveAll(filepath.Join(a.home, f)); err != nil {
			t.Fatal(err)
		}
	}
	var w strings.Builder
	w.WriteString("on: push\njobs:\n  prove:\n    runs-on: ubuntu-latest\n    steps:\n      - uses: " + checkout + "\n      - id: zerotrust\n        uses: ./\n")
	if len(with) > 0 {
		w.WriteString("        with:\n")
	}
	for k, v := range with {
		fmt.Fprintf(&w, "          %s: %q\n", k, v)
	}
	fmt.Fprintf(&w, "      - if: always()\n        run: |\n          printf '%%s' \"$OUTPUTS\" > %s/outputs\n          [ -z \"$REPORTS\" ] || cp -r \"$REPORTS\" %s/reports\n        env:\n          OUTPUTS: ${{ toJSON(steps.zerotrust.outputs) }}\n          REPORTS: ${{ steps.zerotrust.outputs.report-dir }}\n", a.home, a.home)
	w.WriteString(more)
	file := filepath.Join(t.TempDir(), "workflow.yml")
	if err := os.WriteFile(file, []byte(w.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	j := &job{end: make(chan error, 1)}
	j.cmd = exec.Command(a.act, "push", "--workflows", file, "-P", "ubuntu-latest=-self-hosted", "--action-offline-mode", "--env", "ZEROTRUST_ACTION_BINARY="+a.binary)
	j.cmd.Dir, j.cmd.Stdout, j.cmd.Stderr = a.dir, j, j
	// Its own group: what is meant for the test does not reach it.
	j.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := j.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { j.end <- j.cmd.Wait() }()
	t.Cleanup(func() {
		if j.cmd.ProcessState == nil {
			_ = j.cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("the log of act:\n%s", j.text())
		}
	})
	return j
}

// execute runs a workflow to its end.
func (a *actions) execute(t *testing.T, with map[string]string, more string) (*job, error) {
	t.Helper()
	j := a.start(t, with, more)
	select {
	case err := <-j.end:
		a.read(t, j)
		return j, err
	case <-time.After(20 * time.Minute):
		t.Fatal("the workflow takes longer than 20 minutes")
		return nil, nil
	}
}

var jsonPair = regexp.MustCompile(`"([a-z-]+)": "((?:[^"\\]|\\.)*)"`)

func (a *actions) read(t *testing.T, j *job) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(a.home, "outputs"))
	if err != nil {
		t.Fatalf("%v\n%s", err, j.text())
	}
	j.outputs = map[string]string{}
	for _, m := range jsonPair.FindAllStringSubmatch(string(text), -1) {
		j.outputs[m[1]] = m[2]
	}
	// act shows the summary's file when the step has ended, and then moves it away.
	_, j.summary, _ = strings.Cut(j.text(), "Summary - ")
	if want := fieldNames(outputs{}); len(j.outputs) != len(want) {
		t.Errorf("the outputs are %q, want %q", j.outputs, want)
	}
}

func (j *job) wants(t *testing.T, err error, code int, want map[string]string, summary ...string) {
	t.Helper()
	if (err == nil) != (code == 0) {
		t.Errorf("act ended with %v, want code %d of the action", err, code)
	}
	if !strings.Contains(j.text(), fmt.Sprintf("(exit code %d)", code)) {
		t.Errorf("the action did not end with code %d", code)
	}
	for k, v := range want {
		if j.outputs[k] != v {
			t.Errorf("output %s is %q, want %q", k, j.outputs[k], v)
		}
	}
	for _, s := range summary {
		if !strings.Contains(j.summary, s) {
			t.Errorf("the summary does not say %q:\n%.2000s", s, j.summary)
		}
	}
	if regexp.MustCompile(`(?i)-----BEGIN|client-key|hvs\.`).MatchString(j.summary + j.text() + fmt.Sprint(j.outputs)) {
		t.Error("something secret is shown")
	}
}

var firstPhase = regexp.MustCompile(`the first phase starts ([\d.]+)s after the step`)

// The outputs hold, the summary has the proof, and a later step can use the cluster.
func (a *actions) green(t *testing.T) {
	began := time.Now()
	j, err := a.execute(t, map[string]string{"intent": "zerotrust.yaml", "workers": "1", "images": "fromsource", "cleanup": "never"},
		"      - run: cp \"$KUBECONFIG\" "+a.home+"/kubeconfig && docker exec "+actCluster+"-control-plane kubectl --kubeconfig /etc/kubernetes/admin.conf get nodes\n        env:\n          KUBECONFIG: ${{ steps.zerotrust.outputs.kubeconfig }}\n")
	if j.wants(t, err, 0, map[string]string{"result": "passed", "failed": "0", "skipped": "0", "failed-phase": "", "cluster-name": actCluster, "trust-domain": "demo.local", "logs-dir": ""},
		"✓ PROVEN", "```mermaid", "4D-network-policies", "🔒", "sha256:"); t.Failed() {
		return
	}
	for _, output := range []string{"report-json", "report-junit", "report-html"} {
		if _, err := os.Stat(filepath.Join(a.home, "reports", filepath.Base(j.outputs[output]))); err != nil {
			t.Errorf("output %s: %v", output, err)
		}
	}
	if !a.clusterIsThere(t, actCluster) {
		t.Error("with cleanup: never the cluster is gone")
	}
	if n := strings.Count(j.text(), "::group::"); n < 10 {
		t.Logf("act shows %d groups", n)
	}
	m := firstPhase.FindStringSubmatch(j.text())
	if m == nil {
		t.Fatal("it is not said when the first phase starts")
	}
	if s, _ := strconv.ParseFloat(m[1], 64); s > 2 {
		t.Errorf("with the program there the first phase starts after %ss, want 2s at most", m[1])
	}
	t.Logf("first phase after %ss; phases %ss; the whole workflow %s", m[1], j.outputs["duration-seconds"], time.Since(began).Round(time.Second))
}

// beside is what a process took that wrote this report, before the first phase and after the last one.
func beside(t *testing.T, began, ended time.Time, report string) (before, after time.Duration) {
	t.Helper()
	text, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	var r struct {
		OK             bool
		Started, Ended time.Time
		Phases         []struct{ Name string }
	}
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatalf("%s: %v", report, err)
	}
	if !r.OK || len(r.Phases) < 8 || r.Started.Before(began) || r.Ended.After(ended) {
		t.Fatalf("%s is of %d phases from %s to %s (proven: %t), the process ran from %s to %s", report, len(r.Phases), r.Started, r.Ended, r.OK, began, ended)
	}
	return r.Started.Sub(began), ended.Sub(r.Ended)
}

// The step as the runner starts it, shim and all, and the demo's program bring the same intent up to
// its applications, in the same cluster. What each takes beside the phases is its own.
func (a *actions) overhead(t *testing.T) {
	if !a.clusterIsThere(t, actCluster) {
		t.Fatal("the cluster of the step before is needed")
	}
	dir := t.TempDir()
	for _, file := range []string{"output", "summary", "state"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	timed := func(report string, c run.Cmd) (before, after time.Duration) {
		t.Helper()
		var log bytes.Buffer
		c.Dir, c.Stdout, c.Stderr = a.dir, &log, &log
		began := time.Now()
		if err := c.Run(t.Context()); err != nil {
			t.Fatalf("%v\n%s", err, log.String())
		}
		return beside(t, began, time.Now(), report)
	}
	before, after := timed(filepath.Join(dir, "step", "report.json"), run.Cmd{
		Argv: []string{"node", "action/shim/main.mjs"},
		Env: run.Environ("ZEROTRUST_ACTION_BINARY="+a.binary, "GITHUB_WORKSPACE="+a.dir, "RUNNER_TEMP="+dir,
			"GITHUB_OUTPUT="+filepath.Join(dir, "output"), "GITHUB_STEP_SUMMARY="+filepath.Join(dir, "summary"), "GITHUB_STATE="+filepath.Join(dir, "state"),
			"INPUT_INTENT=zerotrust.yaml", "INPUT_WORKERS=1", "INPUT_IMAGES=fromsource", "INPUT_CLEANUP=never", "INPUT_PHASES=apps", "INPUT_REPORT-DIR="+filepath.Join(dir, "step")),
	})
	fullBefore, fullAfter := timed(filepath.Join(dir, "full", "report.json"), run.Cmd{
		Argv: []string{"go", "run", "./examples/full", "--intent", "zerotrust.yaml", "--workers", "1", "--images", "fromsource", "--keep", "--phase", "apps",
			"--kubeconfig", filepath.Join(dir, "kubeconfig"), "--report-dir", filepath.Join(dir, "full")},
	})
	t.Logf("the step: %.2fs before the phases, %.2fs after them; go run ./examples/full: %.2fs and %.2fs", before.Seconds(), after.Seconds(), fullBefore.Seconds(), fullAfter.Seconds())
	if own := before + after; own > 3*time.Second || own > fullBefore+fullAfter+3*time.Second {
		t.Errorf("the step takes %s beside its phases, want 3s at most", own)
	}
	if before > 2*time.Second {
		t.Errorf("with the program there the first phase starts after %s, want 2s at most", before)
	}
}

// As the one-liner of README has it: the site in a browser too, and nothing left behind.
func (a *actions) demo(t *testing.T) {
	const name = "precinct-99"
	if a.clusterIsThere(t, name) {
		t.Fatalf("cluster %s is running: take it down first (make down)", name)
	}
	began := time.Now()
	j, err := a.execute(t, nil, "")
	j.wants(t, err, 0, map[string]string{"result": "passed", "failed": "0", "skipped": "0", "failed-phase": "", "cluster-name": name, "trust-domain": "demo.local", "logs-dir": ""},
		"✓ PROVEN", "4A-frontend-proxy")
	if a.clusterIsThere(t, name) {
		t.Error("the cluster is still there")
	}
	shots, err := filepath.Glob(filepath.Join(a.home, "reports", "screenshots", "*.png"))
	if err != nil || len(shots) == 0 {
		t.Errorf("screenshots: %v, %v", shots, err)
	}
	t.Logf("phases %ss; the whole workflow, with the clean-up, %s", j.outputs["duration-seconds"], time.Since(began).Round(time.Second))
}

// The nodes pull the prober from the registry that it is pushed to.
func (a *actions) existing(t *testing.T) {
	kubeconfig := filepath.Join(a.home, "kubeconfig")
	if _, err := os.Stat(kubeconfig); err != nil {
		t.Fatalf("the cluster of the step before is needed: %v", err)
	}
	nodes, err := kindx.Nodes(t.Context(), actCluster)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name())
	}
	registry := kindtest.Registry(t, names...)
	j, runErr := a.execute(t, map[string]string{"intent": "zerotrust.yaml", "kubeconfig": kubeconfig, "registry": registry + "/team", "phases": "mesh, 4D-network-policies"}, "")
	j.wants(t, runErr, 0, map[string]string{"result": "passed", "failed": "0", "cluster-name": "", "kubeconfig": kubeconfig, "failed-phase": ""}, "✓ PROVEN", "prober-image", "workloads")
	if !a.clusterIsThere(t, actCluster) {
		t.Error("somebody else's cluster is gone")
	}
}

// A cluster that was made without a network is given everything, and none of it is taken away.
func (a *actions) installed(t *testing.T) {
	kubeconfig, state := filepath.Join(a.home, "bare"), filepath.Join(a.home, "state")
	bare := kindtest.NewBare(t, kindx.Config{Name: actCluster + "-bare", Image: zerotrust.NodeImage, Kubeconfig: kubeconfig, StateDir: state})
	bare.ProvideStorage(t)
	began := time.Now()
	j, err := a.execute(t, map[string]string{
		"intent": "zerotrust.yaml", "kubeconfig": kubeconfig, "registry": kindtest.Registry(t, bare.Nodes...) + "/team", "install": "true", "images": "fromsource",
		"phases": "4B-network-architecture, 4C-cilium-spiffe, mesh, 4D-network-policies",
	}, "")
	j.wants(t, err, 0, map[string]string{"result": "passed", "failed": "0", "cluster-name": "", "kubeconfig": kubeconfig, "failed-phase": ""},
		"✓ PROVEN", "registry", "secrets", "4D-network-policies", "🔒", "sha256:")
	if !a.clusterIsThere(t, actCluster+"-bare") {
		t.Error("somebody else's cluster is gone")
	}
	t.Logf("phases %ss; the whole workflow %s", j.outputs["duration-seconds"], time.Since(began).Round(time.Second))
}

// hole is a policy that the intent knows nothing of.
const hole = `
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: hole, namespace: 99-apps}
specs:
  - endpointSelector: {matchLabels: {app: intruder}}
    egress: [{toEndpoints: [{matchLabels: {app: backend}}]}]
  - endpointSelector: {matchLabels: {app: backend}}
    ingress: [{fromEndpoints: [{matchLabels: {app: intruder}}]}]
`

// What gets through that should not is found, told with what to do, and its logs are there for
// the step that uploads them.
func (a *actions) broken(t *testing.T) {
	nodes, err := kindx.Nodes(t.Context(), actCluster)
	if err != nil {
		t.Fatalf("the cluster of the step before is needed: %v", err)
	}
	if err := nodes[0].Exec(t.Context(), strings.NewReader(hole), nil, "kubectl", "--kubeconfig", "/etc/kubernetes/admin.conf", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	j, err := a.execute(t, map[string]string{"intent": "zerotrust.yaml", "workers": "1", "images": "fromsource"},
		"      - if: failure()\n        run: cp -r \"$LOGS\" "+a.home+"/logs\n        env:\n          LOGS: ${{ steps.zerotrust.outputs.logs-dir }}\n")
	j.wants(t, err, 1, map[string]string{"result": "failed"}, "✗ NOT PROVEN", "What did not pass", "want denied, got through", "How to fix", "## Logs")
	if j.outputs["failed-phase"] == "" || !strings.Contains(j.text(), "::error") {
		t.Errorf("the failed phase is %q, and there are annotations: %v", j.outputs["failed-phase"], strings.Contains(j.text(), "::error"))
	}
	if n, _ := strconv.Atoi(j.outputs["failed"]); n < 1 || n > 5 {
		t.Errorf("%d checks failed, want the edge and what else sees the policy", n)
	}
	for _, file := range []string{"pods.txt", "events.txt", "cilium/status.json", "spire/entries.json", "spire/agents.json", "hubble/flows.txt", "nodes/" + actCluster + "-control-plane/journal.log"} {
		info, err := os.Stat(filepath.Join(a.home, "logs", file))
		if err != nil || info.Size() == 0 {
			t.Errorf("log %s: %v", file, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(a.home, "logs", "errors.txt")); err == nil {
		t.Logf("logs that could not be had:\n%s", text)
	}
	if a.clusterIsThere(t, actCluster) {
		t.Error("with cleanup: always the cluster is still there")
	}
}

// The signal that the runner sends ends the step within the 10 seconds that the runner gives it.
func (a *actions) cancelled(t *testing.T) {
	j := a.start(t, map[string]string{"intent": "zerotrust.yaml", "workers": "1", "images": "fromsource"}, "")
	deadline := time.After(10 * time.Minute)
	for !a.clusterIsThere(t, actCluster) {
		select {
		case err := <-j.end:
			t.Fatalf("it ended with %v before it could be cancelled", err)
		case <-deadline:
			t.Fatal("no cluster is made")
		case <-time.After(500 * time.Millisecond):
		}
	}
	time.Sleep(5 * time.Second) // half-way
	began := time.Now()
	if err := j.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for a.clusterIsThere(t, actCluster) {
		if time.Since(began) > time.Minute {
			t.Fatal("a minute after the signal the cluster is still there")
		}
		time.Sleep(200 * time.Millisecond)
	}
	gone := time.Since(began)
	t.Logf("no node is left %.1fs after the signal", gone.Seconds())
	if gone > 10*time.Second {
		t.Errorf("it takes %s, want 10s at most", gone)
	}
	select {
	case err := <-j.end:
		if err == nil {
			t.Error("a cancelled workflow has succeeded")
		}
	case <-time.After(2 * time.Minute):
		t.Error("the workflow does not end")
	}
	time.Sleep(3 * time.Second)
	if a.clusterIsThere(t, actCluster) {
		t.Error("a node came back")
	}
}

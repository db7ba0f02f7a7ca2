//go:build e2e

package zerotrust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/precinct"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// lab is one real cluster that the steps of TestE2E share, in their order.
type lab struct {
	*testing.T
	cfg   Config
	shots string // folder of the screenshots
}

// sitePort is another one than the demo's, which may be running.
const sitePort = 3099

// labConfig is the demo's intent on a cluster of its own; images come from the
// cache that the demo uses, or are built into it.
func labConfig(tb testing.TB) Config {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatal(err)
	}
	intent := Precinct99()
	intent.Name = "precinct-99-e2e"
	intent.Workloads[0].Publish.HostPort = sitePort
	return Config{
		Intent: intent, Dir: filepath.Join(cache, "spire-vault-99"), SourceDir: "..",
		Kubeconfig: filepath.Join(tb.TempDir(), "kubeconfig"), Images: images.SourceFromSource,
	}
}

// TestE2E brings the demo up on real parts, proves it, breaks it, puts it right
// and takes it down. It needs a container engine, or root on Debian or Ubuntu.
func TestE2E(t *testing.T) {
	l := &lab{T: t, cfg: labConfig(t), shots: t.TempDir()}
	t.Cleanup(l.takeDown)
	l.prepare()
	for _, step := range []struct {
		name string
		run  func(*lab)
	}{
		{"interrupted while the cluster is made", (*lab).interruptedCreation},
		{"from nothing to proven", (*lab).fromNothing},
		{"a second run changes nothing", (*lab).again},
		{"no secret is static", (*lab).noStaticSecret},
		{"a role changed by hand is put right", (*lab).vaultDrift},
		{"an SVID is renewed without a restart", (*lab).svidRenewed},
		{"an unguarded pod is refused", (*lab).unguardedPod},
		{"an edit rolls one workload", (*lab).innerLoop},
		{"entries of another owner by the program", (*lab).entriesProgram},
		{"drills", (*lab).drills},
		{"a withdrawn entry is seen", (*lab).entryWithdrawn},
		{"another configuration is refused", (*lab).otherConfiguration},
		{"an unknown chart version is told", (*lab).unknownChart},
		{"a failed upgrade is rolled back", (*lab).failedUpgrade},
		{"interrupted in any phase", (*lab).interruptedAnywhere},
		{"Ctrl-C in the program", (*lab).ctrlC},
		{"a stopped node is started again", (*lab).stoppedNode},
		{"down leaves nothing", (*lab).down},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			inner := *l
			inner.T = t
			step.run(&inner)
		})
		if !ok {
			t.Fatalf("the steps after %q build on it", step.name)
		}
	}
}

// takeDown removes the cluster, whatever became of the test.
func (l *lab) takeDown() {
	l.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.Context()), 2*time.Minute)
	defer cancel()
	if err := Down(ctx, l.cfg); err != nil {
		l.Error(err)
	}
}

// prepare gets engine and images, which takes long where nothing is cached, and
// removes what an earlier run left.
func (l *lab) prepare() {
	l.Helper()
	r, err := l.run(l.Context(), phase.Options{Only: []string{"images"}}, nil)
	if err != nil {
		l.Fatal(err)
	}
	l.Logf("engine and images ready after %s", r.Ended.Sub(r.Started).Round(time.Second))
	l.takeDown()
}

// run runs the phases of a fresh Stack, as a new process would.
func (l *lab) run(ctx context.Context, o phase.Options, on func(phase.Event)) (phase.Report, error) {
	l.Helper()
	s, err := New(ctx, l.cfg)
	if err != nil {
		return phase.Report{}, err
	}
	defer s.Close()
	// One line a minute at the most for what goes on, so that a long build shows.
	var last time.Time
	all, err := l.phases(s)
	if err != nil {
		return phase.Report{}, err
	}
	return phase.RunWith(ctx, all, o, func(e phase.Event) {
		if e.Kind == phase.PhaseDone || e.Kind == phase.PhaseProgress && time.Since(last) > time.Minute {
			last = time.Now()
			said := e.Text
			if e.Kind == phase.PhaseDone {
				said = e.Status.String() + " " + said
			}
			fmt.Printf("    %s %s: %s\n", e.Time.Format(time.TimeOnly), e.Phase, said)
		}
		if on != nil {
			on(e)
		}
	})
}

// phases are the standard ones and the demo's own, as the program has them.
func (l *lab) phases(s *Stack) ([]*phase.Phase, error) {
	proxy := precinct.FrontendProxy(precinct.Browser{
		URL: fmt.Sprintf("http://127.0.0.1:%d", sitePort), ScreenshotDir: filepath.Join(l.shots, "screenshots"),
	}, func(ctx context.Context) error { return kindx.InstallPackages(ctx, "chromium") })
	proxy.Checks = append(proxy.Checks, s.WorkloadChecks("image of ")...)
	return After(s.Phases(), "apps", proxy)
}

// green runs the phases and wants every check to pass.
func (l *lab) green(o phase.Options) phase.Report {
	l.Helper()
	r, err := l.run(l.Context(), o, nil)
	if err != nil {
		var text bytes.Buffer
		_ = report.Summary(&text, r)
		l.Fatalf("%v\n%s", err, text.String())
	}
	return r
}

// stack is a fresh Stack, as a new process would have, closed when the step ends.
func (l *lab) stack() *Stack {
	l.Helper()
	s, err := New(l.Context(), l.cfg)
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		if err := s.Close(); err != nil {
			l.Error(err)
		}
	})
	return s
}

func took(r phase.Report) time.Duration { return r.Ended.Sub(r.Started) }

// checkOf finds one check of a report.
func (l *lab) checkOf(r phase.Report, name string) phase.CheckResult {
	l.Helper()
	for _, p := range r.Phases {
		for _, c := range p.Checks {
			if c.Name == name {
				return c
			}
		}
	}
	l.Fatalf("no check %q in the report", name)
	return phase.CheckResult{}
}

func (l *lab) interruptedCreation() {
	ctx, cancel := context.WithCancel(l.Context())
	defer cancel()
	_, err := l.run(ctx, phase.Options{Only: []string{"cluster"}}, func(e phase.Event) {
		if e.Phase == "cluster" && strings.Contains(e.Text, "Starting control-plane") {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		l.Fatalf("got %v, want the cancellation", err)
	}
	l.nothingLeft()
}

// nothingLeft wants no container and no kubeconfig entry of the cluster.
func (l *lab) nothingLeft() {
	l.Helper()
	out, err := exec.CommandContext(l.Context(), "docker", "ps", "--all", "--quiet", "--filter", "label=io.x-k8s.kind.cluster="+l.cfg.Intent.Name).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		l.Errorf("containers of the cluster: %s (%v)", out, err)
	}
	if data, err := os.ReadFile(l.cfg.Kubeconfig); err == nil && bytes.Contains(data, []byte(l.cfg.Intent.Name)) {
		l.Errorf("the kubeconfig still names the cluster:\n%s", data)
	}
	if exists, err := Exists(l.Context(), l.cfg); err != nil || exists {
		l.Errorf("Exists: %t, %v", exists, err)
	}
}

func (l *lab) fromNothing() {
	r := l.green(phase.Options{})
	for _, p := range r.Phases {
		l.Logf("%-22s %6.1f s", p.Name, p.Duration.Seconds())
	}
	l.Logf("from nothing to proven: %.1f s", took(r).Seconds())

	// The report is what users get: it must be whole, and say what it rests on.
	var doc bytes.Buffer
	if err := report.JSON(&doc, r); err != nil {
		l.Fatal(err)
	}
	var parsed struct {
		OK     bool
		Phases []struct{ Name, Status string }
	}
	if err := json.Unmarshal(doc.Bytes(), &parsed); err != nil || !parsed.OK || len(parsed.Phases) != 12 {
		l.Errorf("the JSON report reads as %+v, %v", parsed, err)
	}
	if strings.Contains(doc.String(), "PRIVATE KEY") || strings.Contains(doc.String(), "eyJ") {
		l.Error("the report holds a key or a token")
	}
	for check, want := range map[string]string{
		"edge frontend → backend:8000": "auth=SPIRE",
		"edge intruder → backend:8000": "POLICY_DENIED",
		"edge frontend → vault:8200":   "POLICY_DENIED",
	} {
		if c := l.checkOf(r, check); !strings.Contains(c.Evidence.Got, want) {
			l.Errorf("%s: evidence %q lacks %s", check, c.Evidence.Got, want)
		}
	}
}

func (l *lab) again() {
	before := l.state()
	r := l.green(phase.Options{})
	l.Logf("second run: %.1f s", took(r).Seconds())
	if after := l.state(); before != after {
		l.Errorf("the second run changed something:\nbefore %s\nafter  %s", before, after)
	}
}

// state is what a run that changes nothing leaves alone: pods, the Helm release,
// policies, SPIRE's entries.
func (l *lab) state() string {
	l.Helper()
	s := l.stack()
	client, err := s.kube(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	var all []string
	pods, err := client.Clientset().CoreV1().Pods("").List(l.Context(), metav1.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	for _, p := range pods.Items {
		all = append(all, "pod "+p.Name+" "+string(p.UID))
	}
	secrets, err := client.Clientset().CoreV1().Secrets("kube-system").List(l.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil {
		l.Fatal(err)
	}
	for _, p := range secrets.Items {
		all = append(all, "release "+p.Name)
	}
	conn, err := s.spire(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	entries, err := spire.List(l.Context(), conn, spire.ListConfig{})
	if err != nil {
		l.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.ID, Owner+".") {
			all = append(all, fmt.Sprintf("entry %s revision %d", e.ID, e.RevisionNumber))
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func (l *lab) verifyOnly() {
	r := l.green(phase.Options{VerifyOnly: true})
	l.Logf("verify: %.1f s", took(r).Seconds())
	for _, p := range r.Phases {
		if p.Apply != 0 {
			l.Errorf("phase %s was applied", p.Name)
		}
	}
}

func (l *lab) entryWithdrawn() {
	s := l.stack()
	conn, err := s.spire(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	want, err := Entries(l.cfg.Intent)
	if err != nil {
		l.Fatal(err)
	}
	want = slices.DeleteFunc(want, func(e spire.Entry) bool { return strings.HasSuffix(e.SPIFFEID.Path(), "/sa/backend") })
	if _, err := spire.Sync(l.Context(), conn, want, s.syncConfig()); err != nil {
		l.Fatal(err)
	}
	r, err := l.run(l.Context(), phase.Options{VerifyOnly: true, Only: []string{"identities"}}, nil)
	if c := l.checkOf(r, "entries registered"); err == nil || c.Status != phase.Failed {
		l.Errorf("entries registered: %s, %v", c.Status, c.Err)
	}
	l.green(phase.Options{Only: []string{"identities"}})
}

func (l *lab) otherConfiguration() {
	l.cfg.Workers = 1
	_, err := l.run(l.Context(), phase.Options{Only: []string{"cluster"}}, nil)
	var mismatch *kindx.MismatchError
	if !errors.As(err, &mismatch) || !strings.Contains(err.Error(), "workers") {
		l.Errorf("got %v, want a mismatch that names the workers", err)
	}
	l.Log(err)
}

func (l *lab) unknownChart() {
	cluster, cfg := l.cilium()
	cfg.Version, cfg.Timeout = "1.20.999", time.Minute
	_, err := cilium.Upgrade(l.Context(), cluster, cfg)
	if err == nil || !strings.Contains(err.Error(), "1.20.999") {
		l.Errorf("got %v, want an error that names the version", err)
	}
	l.Log(err)
}

// cilium is the connection and the configuration that the cilium phase uses.
func (l *lab) cilium() (*rest.Config, cilium.Config) {
	l.Helper()
	s := l.stack()
	cluster, err := s.rest(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	cfg, err := s.ciliumConfig(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return cluster, cfg
}

func (l *lab) failedUpgrade() {
	cluster, cfg := l.cilium()
	bad := cfg
	bad.Images.Relay, bad.Timeout = "registry.invalid/none:v0", 20*time.Second
	_, err := cilium.Upgrade(l.Context(), cluster, bad)
	var rolled *cilium.RolledBackError
	if !errors.As(err, &rolled) {
		l.Fatalf("got %v, want a rollback", err)
	}
	l.Log(err)
	release, err := cilium.Install(l.Context(), cluster, cfg)
	if err != nil || !release.Unchanged {
		l.Errorf("after the rollback, installing what was there before: %+v, %v; want nothing to do", release, err)
	}
	l.verifyOnly()
}

// interruptedAnywhere cancels a run in each phase; the next one goes on.
// interruptedAnywhere leaves out three phases that, as 4B, only read; ctrlC is in the last one.
func (l *lab) interruptedAnywhere() {
	for _, name := range []string{"images", "cluster", "cilium", "spire", "identities", "secrets", "apps", "4B-network-architecture"} {
		ctx, cancel := context.WithCancel(l.Context())
		var cancelled time.Time
		r, err := l.run(ctx, phase.Options{}, func(e phase.Event) {
			if e.Kind == phase.PhaseStarted && e.Phase == name {
				cancelled = time.Now()
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) || r.OK() {
			l.Errorf("%s: got %v, want the cancellation", name, err)
		}
		if late := time.Since(cancelled); late > 10*time.Second {
			l.Errorf("%s: it took %s to stop", name, late)
		}
		if exists, err := Exists(l.Context(), l.cfg); err != nil || !exists {
			l.Fatalf("%s: the interruption took the cluster away (%v)", name, err)
		}
	}
	l.green(phase.Options{})
}

// ctrlC interrupts the program itself, as a user would.
func (l *lab) ctrlC() {
	bin := filepath.Join(l.TempDir(), "full")
	if out, err := exec.CommandContext(l.Context(), "go", "build", "-o", bin, "../examples/full").CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "--keep", "--name", l.cfg.Intent.Name, "--images", "fromsource",
		"--cache-dir", l.cfg.Dir, "--kubeconfig", l.cfg.Kubeconfig, "--source-dir", "..", "--report-dir", filepath.Join(l.TempDir(), "report"), "--port", fmt.Sprint(sitePort))
	out := &interrupter{at: "4D-network-policies      started", kill: func() error { return cmd.Process.Signal(syscall.SIGINT) }}
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 130 {
		l.Errorf("got %v, want exit code 130:\n%s", err, out.String())
	}
	for _, want := range []string{"interrupted", "cluster " + l.cfg.Intent.Name + " is there", "--down"} {
		if !strings.Contains(out.String(), want) {
			l.Errorf("the output does not say %q:\n%s", want, out.String())
		}
	}
}

// interrupter collects output and kills once it has seen a text. (The buffer is
// not embedded: io.Copy would find its ReadFrom and go past Write.)
type interrupter struct {
	buf  bytes.Buffer
	at   string
	kill func() error
	done bool
}

func (i *interrupter) Write(p []byte) (int, error) {
	n, err := i.buf.Write(p)
	if !i.done && strings.Contains(i.buf.String(), i.at) {
		i.done = true
		err = i.kill()
	}
	return n, err
}

func (i *interrupter) String() string { return i.buf.String() }

func (l *lab) stoppedNode() {
	// The database's, as its lock is left behind when it is killed.
	db, _ := l.cfg.Intent.Running(Postgres)
	pods, err := l.stack().readyPods(l.Context(), db)
	if err != nil {
		l.Fatal(err)
	}
	node := pods[0].Spec.NodeName
	if out, err := exec.CommandContext(l.Context(), "docker", "stop", "--time", "1", node).CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	r := l.green(phase.Options{})
	l.Logf("from a stopped node to proven: %.1f s", took(r).Seconds())
}

func (l *lab) down() {
	for range 2 { // the second time there is nothing to remove, and that is fine
		if err := Down(l.Context(), l.cfg); err != nil {
			l.Fatal(err)
		}
	}
	l.nothingLeft()
}

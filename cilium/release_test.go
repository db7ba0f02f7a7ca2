package cilium

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	helmkube "helm.sh/helm/v3/pkg/kube"
	kubefake "helm.sh/helm/v3/pkg/kube/fake"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/client-go/kubernetes/fake"
)

// lab is a releaser over Helm's own storage in a fake cluster's Secrets.
type lab struct {
	*releaser
	client *kubefake.FailingKubeClient
	store  *storage.Storage
	mu     sync.Mutex
	log    []string
	// onWait replaces the wait for the rollout.
	onWait func() error
	waits  int
	ready  int
}

func (l *lab) Wait(helmkube.ResourceList, time.Duration) error {
	l.waits++
	if l.onWait != nil {
		return l.onWait()
	}
	return nil
}

// labClient is Helm's fake with the lab's wait in it.
type labClient struct {
	*kubefake.FailingKubeClient
	lab *lab
}

func (c labClient) Wait(r helmkube.ResourceList, d time.Duration) error { return c.lab.Wait(r, d) }

func newLab() *lab {
	l := &lab{
		client: &kubefake.FailingKubeClient{PrintingKubeClient: kubefake.PrintingKubeClient{Out: io.Discard}},
		// Real Secrets: what is read back went through Helm's own encoding.
		store: storage.Init(driver.NewSecrets(fake.NewClientset().CoreV1().Secrets(Namespace))),
	}
	l.releaser = &releaser{
		timeout: time.Minute,
		emit: func(source, format string, args ...any) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.log = append(l.log, Event{source, fmt.Sprintf(format, args...)}.String())
		},
		open: func(context.Context) (*action.Configuration, error) {
			return &action.Configuration{
				Releases: l.store, KubeClient: labClient{l.client, l},
				Capabilities: &chartutil.Capabilities{KubeVersion: chartutil.KubeVersion{Version: "v1.37.2", Major: "1", Minor: "37"}, APIVersions: chartutil.DefaultVersionSet}, Log: func(string, ...any) {},
			}, nil
		},
	}
	l.releaser.ready = func(context.Context, string) error { l.ready++; return nil }
	return l
}

func (l *lab) install(t *testing.T, version string, values map[string]any) (Release, error) {
	t.Helper()
	return l.ensure(t.Context(), smallChart("cilium", version), values, true)
}

func (l *lab) must(t *testing.T, version string, values map[string]any) Release {
	t.Helper()
	rel, err := l.install(t, version, values)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

// history is "revision status version mode" of each revision.
func (l *lab) history(t *testing.T) []string {
	t.Helper()
	all, err := l.store.History(releaseName)
	if err != nil && !errors.Is(err, driver.ErrReleaseNotFound) {
		t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b *helmrelease.Release) int { return a.Version - b.Version })
	var out []string
	for _, r := range all {
		out = append(out, fmt.Sprintf("%d %s %s %v", r.Version, r.Info.Status, r.Chart.Metadata.Version, at(r.Config, "ipam.mode")))
	}
	return out
}

func (l *lab) check(t *testing.T, want ...string) {
	t.Helper()
	if got := l.history(t); !slices.Equal(got, want) {
		t.Errorf("history\n got %q\nwant %q", got, want)
	}
}

func mode(m string) map[string]any {
	return map[string]any{"ipam": map[string]any{"mode": m}, "port": 6443, "list": []any{"a"}, "off": false}
}

func TestInstallIsIdempotent(t *testing.T) {
	l := newLab()
	if rel := l.must(t, "1.0.0", mode("a")); rel.Unchanged || rel.Revision != 1 {
		t.Errorf("first: %+v", rel)
	}
	rel := l.must(t, "1.0.0", mode("a"))
	if !rel.Unchanged || rel.Revision != 1 || rel.Fingerprint == "" {
		t.Errorf("second: %+v, want revision 1 unchanged", rel)
	}
	if l.ready != 1 {
		t.Errorf("an unchanged release was not looked at: is it rolled out?")
	}
	l.check(t, "1 deployed 1.0.0 a")
	if rel := l.must(t, "1.0.0", mode("b")); rel.Unchanged || rel.Revision != 2 {
		t.Errorf("other values: %+v", rel)
	}
	if rel := l.must(t, "1.0.1", mode("b")); rel.Unchanged || rel.Revision != 3 {
		t.Errorf("other chart: %+v", rel)
	}
	l.check(t, "1 superseded 1.0.0 a", "2 superseded 1.0.0 b", "3 deployed 1.0.1 b")
	if l.waits != 3 {
		t.Errorf("%d waits for the rollout of 3 changes", l.waits)
	}
}

func TestUnchangedButNotReady(t *testing.T) {
	l := newLab()
	l.must(t, "1.0.0", mode("a"))
	l.releaser.ready = func(context.Context, string) error { return errors.New("agents: 2 of 3 ready") }
	_, err := l.install(t, "1.0.0", mode("a"))
	if err == nil || !strings.Contains(err.Error(), "2 of 3") {
		t.Errorf("got %v, want what is not ready", err)
	}
	l.check(t, "1 deployed 1.0.0 a")
}

func TestUpgradeWantsARelease(t *testing.T) {
	l := newLab()
	_, err := l.ensure(t.Context(), smallChart("cilium", "1.0.0"), mode("a"), false)
	if !errors.Is(err, ErrNotInstalled) {
		t.Errorf("got %v, want ErrNotInstalled", err)
	}
	l.check(t)
}

func TestFailedInstallIsRemoved(t *testing.T) {
	broken := errors.New("ImagePullBackOff")
	l := newLab()
	l.onWait = func() error { return broken }
	_, err := l.install(t, "1.0.0", mode("a"))
	var removed *RemovedError
	if !errors.As(err, &removed) || !strings.Contains(err.Error(), broken.Error()) {
		t.Fatalf("got %v, want a *RemovedError about %v", err, broken)
	}
	l.check(t)
	l.onWait = nil
	l.must(t, "1.0.0", mode("a"))
	l.check(t, "1 deployed 1.0.0 a")
}

func TestFailsBeforeAnythingIsChanged(t *testing.T) {
	l := newLab()
	l.client.BuildError = errors.New("no such kind")
	_, err := l.install(t, "1.0.0", mode("a"))
	if err == nil || !strings.Contains(err.Error(), "before anything was created") {
		t.Errorf("install: got %v", err)
	}
	l.client.BuildError = nil
	l.must(t, "1.0.0", mode("a"))
	l.client.BuildError = errors.New("no such kind")
	_, err = l.install(t, "1.0.0", mode("b"))
	if err == nil || !strings.Contains(err.Error(), "revision 1 is in force") {
		t.Errorf("upgrade: got %v", err)
	}
	l.check(t, "1 deployed 1.0.0 a")
}

func TestFailedUpgradeRollsBack(t *testing.T) {
	broken := errors.New("CrashLoopBackOff")
	l := newLab()
	l.must(t, "1.0.0", mode("a"))
	l.onWait = func() error { l.onWait = nil; return broken } // the rollback's own wait succeeds
	_, err := l.install(t, "1.0.1", mode("b"))
	var back *RolledBackError
	if !errors.As(err, &back) || back.Revision != 1 || !strings.Contains(err.Error(), broken.Error()) {
		t.Fatalf("got %v, want a *RolledBackError to revision 1 about %v", err, broken)
	}
	if !strings.Contains(err.Error(), "rolled back to revision 1") {
		t.Errorf("it does not say so: %v", err)
	}
	l.check(t, "1 superseded 1.0.0 a", "2 failed 1.0.1 b", "3 deployed 1.0.0 a")

	// What is in force again is known for what it is.
	if rel := l.must(t, "1.0.0", mode("a")); !rel.Unchanged || rel.Revision != 3 {
		t.Errorf("the old configuration: %+v, want revision 3 unchanged", rel)
	}
	if rel := l.must(t, "1.0.1", mode("b")); rel.Unchanged {
		t.Errorf("the configuration that failed was taken for deployed")
	}
}

func TestRollbackFailsToo(t *testing.T) {
	l := newLab()
	l.must(t, "1.0.0", mode("a"))
	n := 0
	l.onWait = func() error { n++; return fmt.Errorf("broken %d", n) }
	_, err := l.install(t, "1.0.1", mode("b"))
	var back *RolledBackError
	if err == nil || errors.As(err, &back) {
		t.Fatalf("got %v, want an error that does not claim a rollback", err)
	}
	for _, say := range []string{"broken 1", "broken 2", "rolling back to revision 1 failed"} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("it does not say %q: %v", say, err)
		}
	}
	l.onWait = nil
	l.must(t, "1.0.2", mode("c")) // and the next run mends it
	if h := l.history(t); h[len(h)-1] != "4 deployed 1.0.2 c" {
		t.Errorf("history %q", h)
	}
}

// leave makes the last revision look as a killed run leaves it.
func (l *lab) leave(t *testing.T, status helmrelease.Status) {
	t.Helper()
	last, err := l.store.Last(releaseName)
	if err != nil {
		t.Fatal(err)
	}
	next := *last
	info := *last.Info
	info.Status = status
	next.Info = &info
	if status == helmrelease.StatusPendingInstall || status == helmrelease.StatusUninstalling {
		if err := l.store.Update(&next); err != nil {
			t.Fatal(err)
		}
		return
	}
	next.Version++
	next.Config = mode("half")
	if err := l.store.Create(&next); err != nil {
		t.Fatal(err)
	}
}

func TestRecovery(t *testing.T) {
	for _, tt := range []struct {
		left helmrelease.Status
		then map[string]any
		want []string
		say  string
	}{
		{helmrelease.StatusPendingInstall, mode("a"), []string{"1 deployed 1.0.0 a"}, "removed revision 1 that an earlier run left pending-install"},
		{helmrelease.StatusUninstalling, mode("a"), []string{"1 deployed 1.0.0 a"}, "removed revision 1 that an earlier run left uninstalling"},
		// The old configuration is back and wanted: nothing more to do.
		{helmrelease.StatusPendingUpgrade, mode("a"), []string{"1 superseded 1.0.0 a", "2 pending-upgrade 1.0.0 half", "3 deployed 1.0.0 a"}, "rolled back to revision 1 from revision 2 that an earlier run left pending-upgrade"},
		{helmrelease.StatusPendingUpgrade, mode("half"), []string{"1 superseded 1.0.0 a", "2 pending-upgrade 1.0.0 half", "3 superseded 1.0.0 a", "4 deployed 1.0.0 half"}, "rolled back to revision 1"},
		{helmrelease.StatusPendingRollback, mode("a"), []string{"1 superseded 1.0.0 a", "2 pending-rollback 1.0.0 half", "3 deployed 1.0.0 a"}, "left pending-rollback"},
	} {
		t.Run(fmt.Sprint(tt.left, " ", at(tt.then, "ipam.mode")), func(t *testing.T) {
			l := newLab()
			l.must(t, "1.0.0", mode("a"))
			l.leave(t, tt.left)
			rel := l.must(t, "1.0.0", tt.then)
			if !strings.Contains(rel.Recovered, tt.say) {
				t.Errorf("Recovered is %q, want %q", rel.Recovered, tt.say)
			}
			if !slices.ContainsFunc(l.log, func(s string) bool { return strings.Contains(s, tt.say) }) {
				t.Errorf("no event says %q: %q", tt.say, l.log)
			}
			// Helm calls a pending revision that was rolled back over either way.
			got := l.history(t)
			for i := range got {
				got[i] = strings.Replace(got[i], "2 superseded 1.0.0 half", fmt.Sprintf("2 %s 1.0.0 half", tt.left), 1)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("history\n got %q\nwant %q", got, tt.want)
			}
			if rel := l.must(t, "1.0.0", tt.then); !rel.Unchanged || rel.Recovered != "" {
				t.Errorf("run again: %+v", rel)
			}
		})
	}
}

func TestInterrupted(t *testing.T) {
	l := newLab()
	ctx, cancel := context.WithCancel(t.Context())
	l.onWait = func() error { cancel(); return ctx.Err() }
	_, err := l.ensure(ctx, smallChart("cilium", "1.0.0"), mode("a"), true)
	var interrupted *InterruptedError
	if !errors.As(err, &interrupted) || interrupted.Doing != "install" || !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want an *InterruptedError of the install", err)
	}
	l.onWait = nil
	if rel := l.must(t, "1.0.0", mode("a")); rel.Recovered == "" {
		t.Errorf("the next run says nothing of what it found: %+v", rel)
	}
}

func TestDeadlineStillRollsBack(t *testing.T) {
	l := newLab()
	l.must(t, "1.0.0", mode("a"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	l.onWait = func() error { l.onWait = nil; <-ctx.Done(); return ctx.Err() }
	_, err := l.ensure(ctx, smallChart("cilium", "1.0.0"), mode("b"), true)
	var back *RolledBackError
	if !errors.As(err, &back) {
		t.Errorf("got %v, want a *RolledBackError", err)
	}
}

func TestRemove(t *testing.T) {
	l := newLab()
	if err := l.remove(t.Context()); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	l.must(t, "1.0.0", mode("a"))
	if err := l.remove(t.Context()); err != nil {
		t.Error(err)
	}
	l.check(t)
}

func TestFingerprint(t *testing.T) {
	base, err := fingerprint(smallChart("cilium", "1.0.0"), mode("a"))
	if err != nil {
		t.Fatal(err)
	}
	// What comes back out of a release is equal: JSON turns every number to float64.
	var stored map[string]any
	raw, err := json.Marshal(mode("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &stored); err != nil {
		t.Fatal(err)
	}
	if got, err := fingerprint(smallChart("cilium", "1.0.0"), stored); err != nil || got != base {
		t.Errorf("stored values have fingerprint %s (%v), want %s", got, err, base)
	}
	other := smallChart("cilium", "1.0.0")
	other.Templates[0].Data = append(other.Templates[0].Data, '#')
	if got, err := fingerprint(other, mode("a")); err != nil || got == base {
		t.Errorf("a changed template goes unseen (%v)", err)
	}
	other = smallChart("cilium", "1.0.0")
	other.Values["number"] = 4
	if got, err := fingerprint(other, mode("a")); err != nil || got == base {
		t.Errorf("a changed default value goes unseen (%v)", err)
	}
	if _, err := fingerprint(smallChart("cilium", "1.0.0"), map[string]any{"f": func() {}}); err == nil {
		t.Error("values that are no data were taken")
	}
}

// TestFingerprintOfTheRealChart holds that Cilium's own chart comes back out of
// Helm's storage as it went in, or no install would ever be unchanged.
func TestFingerprintOfTheRealChart(t *testing.T) {
	l := newLab()
	c := Config{ClusterName: "precinct-99", APIServerHost: "h", TrustDomain: demo, DisableEnvoy: true}
	for want := range 2 {
		values, err := Values(c)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := load(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		rel, err := l.ensure(t.Context(), ch, values, true)
		if err != nil {
			t.Fatal(err)
		}
		if rel.Unchanged != (want == 1) {
			t.Errorf("run %d: %+v", want+1, rel)
		}
	}
}

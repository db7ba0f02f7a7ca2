package cilium

import (
	"context"
	"errors"
	"fmt"
	"time"

	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
	helmrelease "helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/storage/driver"
	"k8s.io/client-go/rest"
)

// Release is what Install or Upgrade left in the cluster.
type Release struct {
	// Version is the chart's version, Revision Helm's count of changes.
	Version  string
	Revision int
	// Unchanged says that the release was already so and nothing was written.
	Unchanged bool
	// Recovered says what was done about a release that an earlier run had left
	// half made; empty when there was none.
	Recovered string
	// Fingerprint names chart and values.
	Fingerprint string
}

// RolledBackError is a failed upgrade that was taken back: Revision's chart and
// values are in force again.
type RolledBackError struct {
	Revision int
	Err      error
}

func (e *RolledBackError) Error() string {
	return fmt.Sprintf("cilium: upgrade failed and was rolled back to revision %d, which is in force again: %v", e.Revision, e.Err)
}
func (e *RolledBackError) Unwrap() error { return e.Err }

// RemovedError is a failed first install that was taken away again: no release of
// Cilium is in the cluster.
type RemovedError struct{ Err error }

func (e *RemovedError) Error() string {
	return fmt.Sprintf("cilium: install failed and was removed again: %v", e.Err)
}
func (e *RemovedError) Unwrap() error { return e.Err }

// InterruptedError is an install or upgrade whose context was cancelled. The
// release is left as it is, half made; the next Install puts it right.
type InterruptedError struct {
	// Doing is "install" or "upgrade".
	Doing string
	Err   error
}

func (e *InterruptedError) Error() string {
	return fmt.Sprintf("cilium: %s interrupted: the release is left half made; run Install again and it is recovered first: %v", e.Doing, e.Err)
}
func (e *InterruptedError) Unwrap() error { return e.Err }

// ErrNotInstalled is Upgrade's answer where there is no release.
var ErrNotInstalled = errors.New("cilium: there is no release to upgrade: use Install")

// Install makes the cluster run what c says and waits until agents, operator and
// Relay are rolled out. A release that is deployed with the same chart and values
// is left alone ([Release].Unchanged); another is upgraded.
//
// A failed first install is removed again (*[RemovedError]), a failed upgrade is
// rolled back (*[RolledBackError]). What a killed run left pending is first rolled
// back or removed, and said in [Release].Recovered. When ctx is cancelled the
// release is left as it is (*[InterruptedError]).
func Install(ctx context.Context, cluster *rest.Config, c Config) (Release, error) {
	return ensure(ctx, cluster, c, true)
}

// Upgrade is [Install] for a release that must be there: [ErrNotInstalled] if not.
func Upgrade(ctx context.Context, cluster *rest.Config, c Config) (Release, error) {
	return ensure(ctx, cluster, c, false)
}

func ensure(ctx context.Context, cluster *rest.Config, c Config, mayInstall bool) (Release, error) {
	values, err := Values(c)
	if err != nil {
		return Release{}, err
	}
	ch, err := load(ctx, c)
	if err != nil {
		return Release{}, err
	}
	r, err := newReleaser(cluster, c)
	if err != nil {
		return Release{}, err
	}
	return r.ensure(ctx, ch, values, mayInstall)
}

// Uninstall removes the release and waits until its objects are gone; it is fine
// if there is none. Cilium's CRDs, its objects of those kinds and what its agents
// wrote on the nodes stay: a node without Cilium has no working pod network until
// another CNI comes.
func Uninstall(ctx context.Context, cluster *rest.Config, c Config) error {
	r, err := newReleaser(cluster, c)
	if err != nil {
		return err
	}
	return r.remove(ctx)
}

// Render is the manifest that Install would apply, rendered without a cluster.
// Certificates that the chart generates differ each time.
func Render(ctx context.Context, c Config) ([]byte, error) {
	values, err := Values(c)
	if err != nil {
		return nil, err
	}
	ch, err := load(ctx, c)
	if err != nil {
		return nil, err
	}
	in := action.NewInstall(&action.Configuration{Log: func(string, ...any) {}})
	in.ClientOnly, in.DryRun = true, true
	in.ReleaseName, in.Namespace = releaseName, Namespace
	in.PostRenderer = relayStartup{}
	in.KubeVersion = &chartutil.KubeVersion{Version: "v1.31.0", Major: "1", Minor: "31"}
	rel, err := in.RunWithContext(ctx, ch, values)
	if err != nil {
		return nil, fmt.Errorf("cilium: render chart %s: %w", ch.Metadata.Version, err)
	}
	return []byte(rel.Manifest), nil
}

// releaser carries a release from whatever state it is in to the wanted one.
type releaser struct {
	// open connects Helm to the cluster for as long as ctx lives.
	open func(ctx context.Context) (*action.Configuration, error)
	// ready returns when the workloads of the deployed release are rolled out.
	ready   func(ctx context.Context, manifest string) error
	emit    func(source, format string, args ...any)
	timeout time.Duration
}

// cleanupTime bounds what is still done about a release after its context's
// deadline has passed.
const cleanupTime = 3 * time.Minute

func (r *releaser) ensure(ctx context.Context, ch *chart.Chart, values map[string]any, mayInstall bool) (Release, error) {
	want, err := fingerprint(ch, values)
	if err != nil {
		return Release{}, err
	}
	hc, err := r.open(ctx)
	if err != nil {
		return Release{}, err
	}
	if err := hc.KubeClient.IsReachable(); err != nil {
		return Release{}, fmt.Errorf("cilium: ask the API server whether it is there (check the kubeconfig, and that the cluster runs): %w", err)
	}
	recovered, err := r.recover(hc)
	if err != nil {
		return Release{}, err
	}
	last, base, err := history(hc)
	if err != nil {
		return Release{}, err
	}
	done := func(rel *helmrelease.Release, unchanged bool) Release {
		return Release{Version: ch.Metadata.Version, Revision: rel.Version, Unchanged: unchanged, Recovered: recovered, Fingerprint: want}
	}

	if last == nil {
		if !mayInstall {
			return Release{}, ErrNotInstalled
		}
		rel, err := r.install(ctx, hc, ch, values)
		if err != nil {
			return Release{}, err
		}
		return done(rel, false), nil
	}
	if last.Info.Status == helmrelease.StatusDeployed {
		if have, err := fingerprint(last.Chart, last.Config); err == nil && have == want {
			r.emit("release", "revision %d is deployed with this very chart and these values", last.Version)
			wctx, cancel := context.WithTimeout(ctx, r.timeout)
			defer cancel()
			if err := r.ready(wctx, last.Manifest); err != nil {
				return Release{}, fmt.Errorf("cilium: revision %d is deployed and unchanged but not rolled out: %w", last.Version, err)
			}
			return done(last, true), nil
		}
	}
	rel, err := r.upgrade(ctx, hc, ch, values, base)
	if err != nil {
		return Release{}, err
	}
	return done(rel, false), nil
}

// history is the last revision and the one to build on: the deployed one, else the
// newest that was superseded (a run killed between those two writes leaves that).
// Each is nil if there is none.
func history(hc *action.Configuration) (last, base *helmrelease.Release, err error) {
	all, err := hc.Releases.History(releaseName)
	if errors.Is(err, driver.ErrReleaseNotFound) || err == nil && len(all) == 0 {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("cilium: read the history of release %s/%s: %w", Namespace, releaseName, err)
	}
	releaseutil.SortByRevision(all)
	var superseded *helmrelease.Release
	for _, rel := range all {
		switch rel.Info.Status {
		case helmrelease.StatusDeployed:
			base = rel
		case helmrelease.StatusSuperseded:
			superseded = rel
		}
	}
	if base == nil {
		base = superseded
	}
	return all[len(all)-1], base, nil
}

// recover brings a release that is no state to build on to one that is, and says
// what it did.
func (r *releaser) recover(hc *action.Configuration) (string, error) {
	last, base, err := history(hc)
	if err != nil || last == nil {
		return "", err
	}
	status := last.Info.Status
	var did string
	switch {
	case base == nil || status == helmrelease.StatusUninstalling || status == helmrelease.StatusUninstalled:
		if err := r.uninstall(hc); err != nil {
			return "", fmt.Errorf("cilium: remove revision %d that an earlier run left %s: %w", last.Version, status, err)
		}
		did = fmt.Sprintf("removed revision %d that an earlier run left %s", last.Version, status)
	case status.IsPending():
		// Its outcome is judged by what comes next, so there is no wait here.
		if err := r.rollback(hc, base.Version, false); err != nil {
			return "", fmt.Errorf("cilium: roll back to revision %d from revision %d that an earlier run left %s: %w", base.Version, last.Version, status, err)
		}
		did = fmt.Sprintf("rolled back to revision %d from revision %d that an earlier run left %s", base.Version, last.Version, status)
	default:
		return "", nil
	}
	r.emit("release", "%s", did)
	return did, nil
}

func (r *releaser) install(ctx context.Context, hc *action.Configuration, ch *chart.Chart, values map[string]any) (*helmrelease.Release, error) {
	r.emit("release", "installing chart %s", ch.Metadata.Version)
	in := action.NewInstall(hc)
	in.ReleaseName, in.Namespace = releaseName, Namespace
	in.Wait, in.Timeout = true, r.timeout
	in.PostRenderer = relayStartup{}
	in.DisableOpenAPIValidation = true // the chart has its own schema; the server checks the rest
	rel, err := in.Run(ch, values)
	if err == nil {
		return rel, nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, &InterruptedError{Doing: "install", Err: errors.Join(ctx.Err(), err)}
	}
	after, cancel, openErr := r.reopen(ctx)
	defer cancel()
	if openErr != nil {
		return nil, errors.Join(fmt.Errorf("cilium: install failed: %w", err), openErr)
	}
	if last, _, hErr := history(after); hErr == nil && last == nil {
		return nil, fmt.Errorf("cilium: install of chart %s failed before anything was created: %w", ch.Metadata.Version, err)
	}
	r.emit("release", "install failed, removing it")
	if rmErr := r.uninstall(after); rmErr != nil {
		return nil, errors.Join(fmt.Errorf("cilium: install failed: %w", err),
			fmt.Errorf("cilium: and removing it failed too, the next Install tries again: %w", rmErr))
	}
	return nil, &RemovedError{Err: err}
}

func (r *releaser) upgrade(ctx context.Context, hc *action.Configuration, ch *chart.Chart, values map[string]any, from *helmrelease.Release) (*helmrelease.Release, error) {
	r.emit("release", "upgrading revision %d to chart %s", from.Version, ch.Metadata.Version)
	up := action.NewUpgrade(hc)
	up.Namespace = Namespace
	up.Wait, up.Timeout = true, r.timeout
	up.PostRenderer = relayStartup{}
	up.ResetValues = true
	up.MaxHistory = 5
	up.DisableOpenAPIValidation = true
	rel, err := up.Run(releaseName, ch, values)
	if err == nil {
		return rel, nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, &InterruptedError{Doing: "upgrade", Err: errors.Join(ctx.Err(), err)}
	}
	after, cancel, openErr := r.reopen(ctx)
	defer cancel()
	if openErr != nil {
		return nil, errors.Join(fmt.Errorf("cilium: upgrade failed: %w", err), openErr)
	}
	last, _, hErr := history(after)
	if hErr == nil && last.Version == from.Version {
		return nil, fmt.Errorf("cilium: upgrade to chart %s failed before anything was changed, revision %d is in force: %w", ch.Metadata.Version, from.Version, err)
	}
	r.emit("release", "upgrade failed, rolling back to revision %d", from.Version)
	if rbErr := r.rollback(after, from.Version, true); rbErr != nil {
		return nil, errors.Join(fmt.Errorf("cilium: upgrade failed: %w", err),
			fmt.Errorf("cilium: and rolling back to revision %d failed too, the next Install tries again: %w", from.Version, rbErr))
	}
	return nil, &RolledBackError{Revision: from.Version, Err: err}
}

// reopen connects anew where ctx is over, so that what failed can still be undone.
func (r *releaser) reopen(ctx context.Context) (*action.Configuration, context.CancelFunc, error) {
	cancel := context.CancelFunc(func() {})
	if ctx.Err() != nil {
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	}
	hc, err := r.open(ctx)
	return hc, cancel, err
}

func (r *releaser) rollback(hc *action.Configuration, revision int, wait bool) error {
	rb := action.NewRollback(hc)
	rb.Version = revision
	rb.Wait, rb.Timeout = wait, r.timeout
	rb.CleanupOnFail = true
	return rb.Run(releaseName)
}

func (r *releaser) uninstall(hc *action.Configuration) error {
	un := action.NewUninstall(hc)
	un.Wait, un.Timeout = true, r.timeout
	un.DeletionPropagation = "foreground"
	_, err := un.Run(releaseName)
	return err
}

func (r *releaser) remove(ctx context.Context) error {
	hc, err := r.open(ctx)
	if err != nil {
		return err
	}
	last, _, err := history(hc)
	if err != nil || last == nil {
		return err
	}
	r.emit("release", "removing revision %d (%s)", last.Version, last.Info.Status)
	if err := r.uninstall(hc); err != nil {
		return fmt.Errorf("cilium: uninstall revision %d: %w", last.Version, err)
	}
	return nil
}

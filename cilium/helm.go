package cilium

import (
	"context"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"helm.sh/helm/v3/pkg/action"
	helmkube "helm.sh/helm/v3/pkg/kube"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// newReleaser connects a releaser to a real cluster.
func newReleaser(cluster *rest.Config, c Config) (*releaser, error) {
	client, err := kube.New(cluster)
	if err != nil {
		return nil, fmt.Errorf("cilium: client for %s: %w", cluster.Host, err)
	}
	r := &releaser{emit: c.emit, timeout: c.timeout()}
	rollout := func(ctx context.Context, w workload) error {
		begin := time.Now()
		r.emit("rollout", "waiting for %s %s", w.kind, w.name)
		if err := client.WaitRollout(ctx, w.kind, w.namespace, w.name); err != nil {
			return err
		}
		r.emit("rollout", "%s %s is ready after %s", w.kind, w.name, time.Since(begin).Round(100*time.Millisecond))
		return nil
	}
	r.open = func(ctx context.Context) (*action.Configuration, error) {
		g, err := newGetter(ctx, cluster, func(message string) { c.emit("helm", "the API server warns: %s", message) })
		if err != nil {
			return nil, fmt.Errorf("cilium: connect Helm to %s: %w", cluster.Host, err)
		}
		hc := new(action.Configuration)
		// Secrets, because values may hold what a ConfigMap should not.
		if err := hc.Init(g, Namespace, "secret", func(format string, args ...any) {
			if !strings.HasPrefix(format, "Looks like there are no changes") { // one for each object
				c.emit("helm", format, args...)
			}
		}); err != nil {
			return nil, fmt.Errorf("cilium: connect Helm to %s: %w", cluster.Host, err)
		}
		hc.KubeClient = &waiter{Client: hc.KubeClient.(*helmkube.Client), ctx: ctx, rollout: rollout}
		return hc, nil
	}
	r.ready = func(ctx context.Context, manifest string) error {
		hc, err := r.open(ctx)
		if err != nil {
			return err
		}
		objects, err := hc.KubeClient.Build(strings.NewReader(manifest), false)
		if err != nil {
			return err
		}
		return rolledOut(ctx, workloads(objects), rollout)
	}
	return r, nil
}

// waiter is Helm's client with waits of our own: they end with the context, say
// what they wait for, and report why a pod does not come up. Being inside Helm's
// own sequence they decide the release's recorded status.
type waiter struct {
	*helmkube.Client
	ctx     context.Context
	rollout func(ctx context.Context, w workload) error
}

func (w *waiter) Wait(objects helmkube.ResourceList, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(w.ctx, timeout)
	defer cancel()
	return rolledOut(ctx, workloads(objects), w.rollout)
}

func (w *waiter) WaitWithJobs(objects helmkube.ResourceList, timeout time.Duration) error {
	return w.Wait(objects, timeout)
}

func (w *waiter) WaitForDelete(objects helmkube.ResourceList, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(w.ctx, timeout)
	defer cancel()
	for _, o := range objects {
		what := fmt.Sprintf("%s %s/%s to be gone", o.Mapping.GroupVersionKind.Kind, o.Namespace, o.Name)
		err := kube.Wait(ctx, what, 250*time.Millisecond, func(context.Context) (bool, string, error) {
			err := o.Get()
			if apierrors.IsNotFound(err) {
				return true, "gone", nil
			}
			return false, "still there", err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// workload is something that has pods and is rolled out.
type workload struct{ kind, namespace, name string }

func workloads(objects helmkube.ResourceList) []workload {
	var out []workload
	_ = objects.Visit(func(o *resource.Info, err error) error {
		switch kind := o.Mapping.GroupVersionKind.Kind; kind {
		case "DaemonSet", "Deployment", "StatefulSet":
			out = append(out, workload{kind, o.Namespace, o.Name})
		}
		return err
	})
	return out
}

// rolledOut waits for all of them at once and stops at the first that fails.
func rolledOut(ctx context.Context, all []workload, rollout func(context.Context, workload) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, w := range all {
		g.Go(func() error { return rollout(ctx, w) })
	}
	return g.Wait()
}

package cilium

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// pods is what this package needs of a cluster to ask Cilium's agents.
type pods interface {
	ReadyPods(ctx context.Context, namespace, labelSelector string) ([]corev1.Pod, error)
	Exec(ctx context.Context, e kube.Exec) error
}

func connect(cluster *rest.Config) (*kube.Client, error) {
	client, err := kube.New(cluster)
	if err != nil {
		return nil, fmt.Errorf("cilium: client for %s: %w", cluster.Host, err)
	}
	return client, nil
}

// AgentPod is the name of the ready cilium-agent pod on a node. It is in
// [Namespace], its container is "cilium-agent".
func AgentPod(ctx context.Context, cluster *rest.Config, node string) (string, error) {
	client, err := connect(cluster)
	if err != nil {
		return "", err
	}
	agents, err := agentPods(ctx, client, node)
	if err != nil {
		return "", err
	}
	return agents[0].Name, nil
}

// agentPods are the ready agents by node name: all of them, or that of one node.
// None is an error.
func agentPods(ctx context.Context, p pods, node string) ([]corev1.Pod, error) {
	agents, err := p.ReadyPods(ctx, Namespace, agentSelector)
	if err != nil {
		return nil, fmt.Errorf("cilium: list the ready agents: %w", err)
	}
	slices.SortFunc(agents, func(a, b corev1.Pod) int { return cmp.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	if node != "" {
		var seen []string
		for _, a := range agents {
			seen = append(seen, a.Spec.NodeName)
		}
		agents = slices.DeleteFunc(agents, func(a corev1.Pod) bool { return a.Spec.NodeName != node })
		if len(agents) == 0 {
			return nil, fmt.Errorf("cilium: no ready agent on node %q (nodes with one: %q): check the node's name and the DaemonSet %s/cilium", node, seen, Namespace)
		}
	}
	if len(agents) == 0 {
		return nil, fmt.Errorf("cilium: no ready agent in the cluster: install Cilium, or see why the pods of DaemonSet %s/cilium are not ready", Namespace)
	}
	return agents, nil
}

// anywhere are the ready pods with that label in [Namespace] or, where it has none, in any
// other one that may be looked into: somebody else's Cilium may lie elsewhere.
func anywhere(ctx context.Context, p pods, selector string) ([]corev1.Pod, error) {
	found, err := p.ReadyPods(ctx, Namespace, selector)
	if len(found) > 0 || err != nil && !apierrors.IsForbidden(err) {
		return found, err
	}
	all, allErr := p.ReadyPods(ctx, "", selector)
	if apierrors.IsForbidden(allErr) {
		return nil, err // what Namespace says is all that can be known
	}
	return all, allErr
}

// onAgents asks every given agent at once and returns the answers in their order.
func onAgents[T any](ctx context.Context, agents []corev1.Pod, ask func(ctx context.Context, pod corev1.Pod) (T, error)) ([]T, error) {
	out := make([]T, len(agents))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, pod := range agents {
		g.Go(func() (err error) {
			out[i], err = ask(ctx, pod)
			return err
		})
	}
	return out, g.Wait()
}

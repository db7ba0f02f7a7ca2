package zerotrust

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// VerifyPhases prove the intent's edges on a cluster that somebody else built
// (Config.Cluster). They change nothing, but for the ephemeral containers that probe from
// inside the pods. Cilium and SPIRE are looked at where they are, as far as the API server
// shows them; what cannot be seen for lack of a right says so and stops nothing else. Edges from
// outside are tried from this process, in a phase of their own, and count only by Hubble's
// account. Without Hubble what gets through though it must not is seen, and nothing proven.
func (s *Stack) VerifyPhases() []*phase.Phase {
	permissions := &phase.Phase{Name: "permissions", Doc: "Whoever asks may do what the proof needs, and the cluster answers.", Checks: []phase.Check{{
		Name: "rights", Doc: "Pods can be found, a prober added to them and run there, and Hubble Relay reached.",
		Hint: "go run ./examples/derive -intent FILE verifier | kubectl apply -f -; then be in the group " + VerifierGroup + ". A Role needs its namespace to be there.",
		Run:  s.checkPermissions,
	}}}
	mesh := &phase.Phase{
		Name: "mesh", Needs: []*phase.Phase{permissions},
		Doc:    "Cilium and SPIRE are there, ready, and set up as the intent needs them.",
		Checks: s.meshChecks(),
	}
	workloads := &phase.Phase{Name: "workloads", Needs: []*phase.Phase{permissions}, Doc: "Each workload of the intent has ready pods, by its service account."}
	probers := &phase.Phase{Name: "probers", Needs: []*phase.Phase{workloads}, Doc: "The cluster lets a prober be put into a pod of each workload, and it runs there."}
	for _, w := range s.cfg.Intent.Workloads {
		workloads.Checks = append(workloads.Checks, phase.Check{
			Name: "pods of " + w.Name, Doc: "There is a ready pod that has the workload's identity.",
			Hint: fmt.Sprintf("kubectl -n %s get deployments,statefulsets,daemonsets; kubectl -n %[1]s get pods -o custom-columns=NAME:.metadata.name,ACCOUNT:.spec.serviceAccountName,PHASE:.status.phase", w.Namespace),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkPods(ctx, w) },
		})
		probers.Checks = append(probers.Checks, phase.Check{
			Name: "prober of " + w.Name, Doc: "An ephemeral container with the prober's image starts in a pod of it.",
			Hint: fmt.Sprintf("kubectl -n %s get events; kubectl get validatingadmissionpolicies,validatingwebhookconfigurations", w.Namespace),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkProber(ctx, w) },
		})
	}
	log := s.flows()
	cells := slices.DeleteFunc(Matrix(s.cfg.Intent), func(c Cell) bool { return c.From == Outside })
	return []*phase.Phase{permissions, mesh, workloads, probers, {
		Name: "4D-network-policies", Doc: "Every allowed edge connects; every other one is dropped, for the right reason.",
		Needs: []*phase.Phase{probers}, Checks: s.matrixChecks(log, cells),
	}, {
		Name: "4D-from-outside", Doc: "The same from outside the cluster, as far as this machine is there and has a way to the pods.",
		Needs: []*phase.Phase{workloads}, Checks: s.outsideChecks(log),
	}}
}

// checkPods wants a ready pod of the workload, in a namespace that stays.
func (s *Stack) checkPods(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{
		Want:   fmt.Sprintf("a ready pod in namespace %s that runs as service account %s", w.Namespace, w.Account()),
		Source: "API server",
	}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	core := client.Clientset().CoreV1()
	namespace, err := core.Namespaces().Get(ctx, w.Namespace, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return ev, phase.Want(ev.Want, "there is no namespace "+w.Namespace)
	case apierrors.IsForbidden(err):
		namespace = nil // its pods may still be seen
	case err != nil:
		return ev, fmt.Errorf("looking at namespace %s: %w", w.Namespace, err)
	}
	pods, err := core.Pods(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return ev, fmt.Errorf("listing the pods of namespace %s: %w", w.Namespace, err)
	}
	ready, not := readiness(w, namespace, pods.Items)
	if not != "" {
		return ev, phase.Want(ev.Want, not)
	}
	ev.Got = strings.Join(ready, ", ")
	return ev, nil
}

// readiness is the workload's ready pods or, where it has none to try from, why. The
// namespace is nil if it could not be looked at.
func readiness(w Workload, namespace *corev1.Namespace, all []corev1.Pod) (ready []string, not string) {
	if namespace != nil && namespace.DeletionTimestamp != nil {
		not = fmt.Sprintf("namespace %s is being deleted, since %s", w.Namespace, namespace.DeletionTimestamp.UTC().Format(time.RFC3339))
		for _, c := range namespace.Status.Conditions {
			if c.Status == corev1.ConditionTrue {
				not += "; " + c.Message
			}
		}
		return nil, not
	}
	var troubled []string
	others := map[string]int{}
	for _, p := range all {
		trouble := kube.Trouble(p)
		switch {
		case p.Spec.ServiceAccountName != w.Account():
			others[p.Spec.ServiceAccountName]++
		case trouble != "":
			troubled = append(troubled, "pod "+p.Name+": "+trouble)
		default:
			ready = append(ready, p.Name)
		}
	}
	slices.Sort(ready)
	slices.Sort(troubled)
	switch {
	case len(ready) > 0:
		return ready, ""
	case len(troubled) > 0:
		return nil, "none is ready: " + strings.Join(troubled, "; ")
	}
	var seen []string
	for _, account := range slices.Sorted(maps.Keys(others)) {
		seen = append(seen, fmt.Sprintf("%s (%d)", account, others[account]))
	}
	if len(seen) == 0 {
		return nil, "the namespace has no pods at all: is it scaled to zero, or elsewhere?"
	}
	return nil, "no pod runs as that: is it scaled to zero, elsewhere, or is its service account another one? Those there run as " + strings.Join(seen, ", ")
}

// checkProber has the prober try a port of the pod itself: whatever comes of it, it runs.
func (s *Stack) checkProber(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "the prober's container runs in a pod", Source: "ephemeral container in the pod"}
	pods, err := s.readyPods(ctx, w)
	if err != nil {
		return ev, err
	}
	prober, err := s.probes(ctx)
	if err != nil {
		return ev, err
	}
	if _, err := prober.Try(ctx, pods[0], "127.0.0.1:1", time.Second); err != nil {
		return ev, err
	}
	ev.Got = "it runs in pod " + pods[0].Name
	return ev, nil
}

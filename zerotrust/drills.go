package zerotrust

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// Site is an application as its users see it, from outside.
type Site interface {
	// Round uses all of it once: every workload that it needs has its part. Nil is a
	// round that went well.
	Round(ctx context.Context) error
	// Load sends requests at a steady rate until stop is called, which says how many
	// there were, how many failed, and how the first of those did.
	Load(ctx context.Context) (stop func() (requests, failed int, first error))
}

// Drills are checks that break things on purpose and want the site to get over it:
// each pod is killed once, the Service of a workload is moved from NodePort to ClusterIP
// under load, and Cilium's mutual authentication is taken back and brought again under load. Unlike other checks they change the cluster; all of it is as
// before when they end. They belong into a phase with Serial and a long Timeout.
func (s *Stack) Drills(site Site) []phase.Check {
	var all []phase.Check
	add := func(name, namespace, labels string) {
		all = append(all, phase.Check{
			Name: "kill " + name, Doc: "Its pod is killed; another one takes its place, and the site works again by itself.",
			Hint: fmt.Sprintf("kubectl -n %s describe pod -l %s", namespace, labels),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.drillKill(ctx, site, namespace, labels) },
		})
	}
	for _, w := range s.cfg.Intent.Workloads {
		add(w.Name, w.Namespace, "app="+w.Name)
	}
	add("the SPIRE server", "spire-system", "app.kubernetes.io/name=spire-server")
	add("a SPIRE agent", "spire-system", "app.kubernetes.io/name=spire-agent")
	log := &flowLog{stack: s}
	s.atClose(log.close)
	if slices.ContainsFunc(s.cfg.Intent.Edges, func(e Edge) bool { return e.Authenticated }) {
		all = append(all, phase.Check{
			Name: "to mutual authentication and back", Doc: "While users are at work, Cilium's mutual authentication is rolled back and the cluster upgraded to it again: no request fails.",
			Hint: "kubectl -n kube-system get pods; kubectl get cnp -A; run again without --drills: the phases bring everything back.",
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.drillUpgrade(ctx, log, site) },
		})
	}
	for _, e := range s.cfg.Intent.Edges {
		from, _ := s.cfg.Intent.Workload(e.From)
		to, known := s.cfg.Intent.Workload(e.To)
		if known && from.Publish != nil && to.Publish == nil && to.Runs == "" {
			all = append(all, phase.Check{
				Name: "move " + to.Name + " from NodePort to ClusterIP",
				Doc:  "Its Service is opened on every node and closed again while users are at work: no request fails, and the port is shut at the end.",
				Hint: fmt.Sprintf("kubectl -n %s get service %s -o yaml", to.Namespace, to.Name),
				Run:  func(ctx context.Context) (phase.Evidence, error) { return s.drillMove(ctx, site, to) },
			})
		}
	}
	return all
}

const (
	recoveryLimit = 3 * time.Minute
	// inARow is how many rounds must go well, one after another, to call it recovered.
	inARow = 3
)

func (s *Stack) drillKill(ctx context.Context, site Site, namespace, labels string) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "the site works again by itself", Source: "rounds of the site from this machine; API server"}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	if err := site.Round(ctx); err != nil {
		return ev, fmt.Errorf("the site does not work even before: %w", err)
	}
	pods, err := client.ReadyPods(ctx, namespace, labels)
	if err != nil {
		return ev, err
	}
	if len(pods) == 0 {
		return ev, fmt.Errorf("there is no ready pod with label %s in namespace %s to kill", labels, namespace)
	}
	victim := pods[0]
	now := int64(0)
	began := time.Now()
	if err := client.Clientset().CoreV1().Pods(namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		return ev, fmt.Errorf("killing pod %s/%s: %w", namespace, victim.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, recoveryLimit)
	defer cancel()
	var failed, well int
	var lastFailure, replaced time.Duration
	err = kube.Wait(ctx, "the site to recover", 100*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		if err := site.Round(ctx); err != nil {
			failed, well, lastFailure = failed+1, 0, time.Since(began)
			return false, "", err
		}
		well++
		there, err := client.ReadyPods(ctx, namespace, labels)
		if err != nil {
			return false, "", err
		}
		if replaced == 0 && len(there) >= len(pods) && !slices.ContainsFunc(there, func(p corev1.Pod) bool { return p.UID == victim.UID }) {
			replaced, well = time.Since(began), 1
		}
		return replaced > 0 && well >= inARow, fmt.Sprintf("%d rounds well, replaced: %t", well, replaced > 0), nil
	})
	ev.Details = append(ev.Details, fmt.Sprintf("killed %s on %s; %d rounds failed meanwhile", victim.Name, victim.Spec.NodeName, failed))
	if err != nil {
		return ev, phase.Failf("%w", err)
	}
	ev.Got = fmt.Sprintf("recovered after %.1f s (last failure after %.1f s, new pod ready after %.1f s)",
		max(lastFailure, replaced).Seconds(), lastFailure.Seconds(), replaced.Seconds())
	return ev, nil
}

// drillPort is the node port that a Service is opened on.
const drillPort = 30001

func (s *Stack) drillMove(ctx context.Context, site Site, w Workload) (ev phase.Evidence, err error) {
	ev = phase.Evidence{Want: "no failed request; the port refused on every node, before and after", Source: "steady load from this machine; API server; TCP to every node"}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	nodes, err := s.nodeAddresses(ctx)
	if err != nil {
		return ev, err
	}
	if err := s.waitPort(ctx, nodes, false); err != nil {
		return ev, err
	}
	stop := site.Load(ctx)
	defer func() {
		requests, failed, first := stop()
		ev.Details = append(ev.Details, fmt.Sprintf("%d requests, %d failed", requests, failed))
		if err == nil && (failed > 0 || requests == 0) {
			err = phase.Want(ev.Want, fmt.Sprintf("%d of %d requests failed, the first: %v", failed, requests, first))
		}
		if err == nil {
			ev.Got = fmt.Sprintf("%d requests, none failed", requests)
		}
	}()
	// Whatever happens, the port does not stay open.
	defer func() {
		if err != nil {
			clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
			defer cancel()
			_ = becomeClusterIP(clean, client, w)
		}
	}()
	open := fmt.Appendf(nil, `{"spec":{"type":"NodePort","ports":[{"port":%d,"nodePort":%d}]}}`, w.Ports[0].Number, drillPort)
	if _, err := client.Clientset().CoreV1().Services(w.Namespace).Patch(ctx, w.Name, types.StrategicMergePatchType, open, metav1.PatchOptions{FieldManager: Owner}); err != nil {
		return ev, err
	}
	if err := s.waitPort(ctx, nodes, true); err != nil {
		return ev, err
	}
	if err := becomeClusterIP(ctx, client, w); err != nil {
		return ev, err
	}
	return ev, s.waitPort(ctx, nodes, false)
}

func becomeClusterIP(ctx context.Context, client *kube.Client, w Workload) error {
	services := client.Clientset().CoreV1().Services(w.Namespace)
	svc, err := services.Get(ctx, w.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	svc.Spec.Type = corev1.ServiceTypeClusterIP
	for i := range svc.Spec.Ports {
		svc.Spec.Ports[i].NodePort = 0
	}
	_, err = services.Update(ctx, svc, metav1.UpdateOptions{FieldManager: Owner})
	return err
}

// waitPort waits until every node has the drill's port open, or refuses it. Open it is
// where it is not refused: policy may still drop what comes in by it.
func (s *Stack) waitPort(ctx context.Context, nodes map[string]string, open bool) error {
	ctx, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	what := map[bool]string{true: "open", false: "refused"}[open]
	return kube.Wait(ctx, fmt.Sprintf("node port %d to be %s on every node", drillPort, what), 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		for _, name := range slices.Sorted(maps.Keys(nodes)) {
			if refused(ctx, net.JoinHostPort(nodes[name], fmt.Sprint(drillPort))) == open {
				return false, "not yet on " + name, nil
			}
		}
		return true, "", nil
	})
}

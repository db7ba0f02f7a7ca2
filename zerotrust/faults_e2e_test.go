//go:build e2e

package zerotrust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// TestFaults breaks the running demo in one way after the other, as users do, and wants the
// checks that must see it to be red, and no other. `make faults` runs it; it takes a quarter
// of an hour.
func TestFaults(t *testing.T) {
	l := &lab{T: t, cfg: labConfig(t), shots: t.TempDir()}
	l.cfg.Intent.Name = "precinct-99-faults"
	t.Cleanup(l.takeDown)
	l.green(phase.Options{})
	f := l.breaking()
	for _, fault := range f.faults() {
		t.Run(fault.name, func(t *testing.T) {
			inner := *l
			inner.T = t
			inner.wantRed(fault)
		})
	}
	l.green(phase.Options{VerifyOnly: true})
}

// fault is something that users get wrong.
type fault struct {
	name        string
	spoil, mend func(context.Context) error
	// red are the checks that do not pass then, with a star at the end for any; cause, if
	// set, is what their evidence names.
	red   []string
	cause string
}

// wantRed spoils, looks until what is to be red is, or time is up, and mends.
func (l *lab) wantRed(f fault) {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.Context()), 3*time.Minute)
		defer cancel()
		if err := f.mend(ctx); err != nil {
			l.Errorf("mending: %v", err)
		}
	}()
	spoiling, cancel := context.WithTimeout(l.Context(), 3*time.Minute)
	defer cancel()
	if err := f.spoil(spoiling); err != nil {
		l.Fatal(err)
	}
	var wrong []string
	var r phase.Report
	for deadline := time.Now().Add(90 * time.Second); ; {
		r = l.verdicts()
		if wrong = differs(r, f); len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, line := range wrong {
		l.Error(line)
	}
	for _, c := range notPassed(r) {
		l.Logf("%s: %s: %v", c.Name, c.Status, c.Err)
	}
}

// verdicts runs every check, whatever became of the phases before.
func (l *lab) verdicts() phase.Report {
	l.Helper()
	s, err := New(l.Context(), l.cfg)
	if err != nil {
		l.Fatal(err)
	}
	defer s.Close()
	all, err := l.phases(s)
	if err != nil {
		l.Fatal(err)
	}
	for _, p := range all {
		p.Needs = nil
	}
	r, _ := phase.RunWith(l.Context(), all, phase.Options{VerifyOnly: true}, nil)
	return r
}

func notPassed(r phase.Report) []phase.CheckResult {
	var all []phase.CheckResult
	for _, p := range r.Phases {
		for _, c := range p.Checks {
			if c.Status != phase.Passed {
				all = append(all, c)
			}
		}
	}
	return all
}

// differs says what is red and should not be, or the other way round.
func differs(r phase.Report, f fault) []string {
	var wrong []string
	seen, named := map[string]bool{}, map[string]bool{}
	for _, c := range notPassed(r) {
		i := slices.IndexFunc(f.red, func(want string) bool {
			prefix, any := strings.CutSuffix(want, "*")
			return want == c.Name || any && strings.HasPrefix(c.Name, prefix)
		})
		if i < 0 {
			wrong = append(wrong, fmt.Sprintf("%s is red: %v", c.Name, c.Err))
		} else {
			seen[f.red[i]] = true
		}
		for _, line := range append(slices.Clone(c.Evidence.Details), strings.Split(fmt.Sprint(c.Err), "; ")...) {
			if i := strings.Index(line, "cause "); i >= 0 {
				name, _, _ := strings.Cut(line[i+len("cause "):], ":")
				named[name] = true
			}
		}
	}
	for _, want := range f.red {
		if !seen[want] {
			wrong = append(wrong, want+" is not red")
		}
	}
	want := map[string]bool{}
	if f.cause != "" {
		want[f.cause] = true
	}
	if !maps.Equal(named, want) {
		wrong = append(wrong, fmt.Sprintf("causes named: %v, want %v", slices.Sorted(maps.Keys(named)), f.cause))
	}
	return wrong
}

// breaker is what faults are made with.
type breaker struct {
	l       *lab
	s       *Stack
	cluster *rest.Config
	kube    *kube.Client
}

func (l *lab) breaking() breaker {
	l.Helper()
	s := l.stack()
	cluster, err := s.rest(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return breaker{l: l, s: s, cluster: cluster, kube: l.kubeClient(s)}
}

func (b breaker) faults() []fault {
	in := b.l.cfg.Intent
	cells := func(all []Cell) []string {
		var names []string
		for _, c := range all {
			names = append(names, "edge "+c.String())
		}
		return names
	}
	return []fault{
		{
			name: "a policy deleted", red: slices.Concat([]string{"policies as derived", "fresh handshake", "edge frontend → backend:8000"}, cells(without(in, "backend"))),
			spoil: func(ctx context.Context) error {
				return cilium.DeletePolicies(ctx, b.cluster, []byte(policyRef("backend")))
			},
			mend: b.policies,
		},
		{
			// Each caller that the policy now lets in is still held by its own.
			name: "a policy too wide", red: []string{"policies as derived"},
			spoil: func(ctx context.Context) error {
				return b.patchPolicy(ctx, "99-apps", "backend", `[{"op":"add","path":"/spec/ingress/-","value":{"fromEndpoints":[{"matchLabels":{"k8s:io.kubernetes.pod.namespace":"99-apps"}}]}}]`)
			},
			mend: b.policies,
		},
		{
			// Vault can make no new user then, which the site's own page shows.
			name: "an egress forgotten", red: []string{"policies as derived", "edge vault → postgres:5433", "security page", "console clean"},
			spoil: func(ctx context.Context) error { return b.forgetEgress(ctx, "vault", "postgres") },
			mend:  b.policies,
		},
		{
			name: "a workload's entry with the wrong selector", red: []string{"entries registered", "SVID of githubstub"},
			spoil: func(ctx context.Context) error {
				return b.entries(ctx, func(e *spire.Entry) {
					if strings.HasSuffix(e.SPIFFEID.Path(), "/sa/githubstub") {
						e.Selectors = []spire.Selector{{Type: "k8s", Value: "ns:99-apps"}, {Type: "k8s", Value: "sa:elsewhere"}}
					}
				})
			},
			mend: b.s.register,
		},
		{
			name: "Cilium's entry with the wrong selector", red: []string{"entries registered", "no known cause of trouble"}, cause: "entry-with-the-wrong-selector",
			spoil: func(ctx context.Context) error {
				return b.entries(ctx, func(e *spire.Entry) {
					if e.SPIFFEID == spire.CiliumAgentID(b.s.td) {
						e.Selectors = []spire.Selector{{Type: "k8s", Value: "ns:kube-system"}, {Type: "k8s", Value: "sa:cilium-agent"}}
					}
				})
			},
			mend: b.s.register,
		},
		{
			name: "an entry parented to one agent", red: []string{"entries registered", "no known cause of trouble"}, cause: "entry-parented-to-one-agent",
			spoil: func(ctx context.Context) error {
				conn, err := b.s.spire(ctx)
				if err != nil {
					return err
				}
				agents, err := spire.Agents(ctx, conn)
				if err != nil {
					return err
				}
				return b.entries(ctx, func(e *spire.Entry) {
					if e.SPIFFEID == spire.CiliumAgentID(b.s.td) {
						e.ParentID = agents[0].ID
					}
				})
			},
			mend: b.s.register,
		},
		{
			// The same socket by another name: whoever mounts the directory has Cilium's rights.
			name: "the admin socket in the workload directory", red: []string{"admin socket apart"},
			spoil: func(ctx context.Context) error {
				return b.onWorker(ctx, "ln", "/run/spire/admin-sockets/admin.sock", "/run/spire/sockets/admin.sock")
			},
			mend: func(ctx context.Context) error { return b.onWorker(ctx, "rm", "/run/spire/sockets/admin.sock") },
		},
		{
			// SPIRE's agents would not start with that, but nobody has restarted them yet.
			name: "the admin socket configured there", red: []string{"no known cause of trouble"}, cause: "admin-socket-in-workload-directory",
			spoil: func(ctx context.Context) error {
				return b.adminSocket(ctx, "/run/spire/admin-sockets/admin.sock", "/run/spire/sockets/admin/admin.sock")
			},
			mend: func(ctx context.Context) error {
				return b.adminSocket(ctx, "/run/spire/sockets/admin/admin.sock", "/run/spire/admin-sockets/admin.sock")
			},
		},
		{
			name: "Cilium looks for the admin socket elsewhere", red: []string{"no known cause of trouble"}, cause: "admin-socket-differs",
			spoil: func(ctx context.Context) error {
				return b.editConfigMap(ctx, "kube-system", "cilium-config", "mesh-auth-spire-admin-socket", "/admin.sock", "/other.sock")
			},
			mend: func(ctx context.Context) error {
				return b.editConfigMap(ctx, "kube-system", "cilium-config", "mesh-auth-spire-admin-socket", "/other.sock", "/admin.sock")
			},
		},
		{
			name: "Cilium has another trust domain", red: []string{"no known cause of trouble"}, cause: "trust-domain-differs",
			spoil: func(ctx context.Context) error {
				return b.editConfigMap(ctx, "kube-system", "cilium-config", "mesh-auth-spiffe-trust-domain", in.TrustDomain, "other.example")
			},
			mend: func(ctx context.Context) error {
				return b.editConfigMap(ctx, "kube-system", "cilium-config", "mesh-auth-spiffe-trust-domain", "other.example", in.TrustDomain)
			},
		},
		{
			name: "an entry of Cilium's missing", red: []string{"entries registered", "no known cause of trouble"}, cause: "entry-missing",
			spoil: func(ctx context.Context) error {
				// The agents go on with what they have. Without the operator's entry all that
				// hang below it would go, too: the authenticated edges.
				return b.entries(ctx, func(e *spire.Entry) {
					if e.SPIFFEID == spire.CiliumAgentID(b.s.td) {
						e.SPIFFEID = spiffeid.RequireFromPath(b.s.td, "/agent")
					}
				})
			},
			mend: b.s.register,
		},
		{
			name: "an identity that is not registered", red: []string{"identities registered", "no known cause of trouble"}, cause: "identities-not-registered",
			spoil: func(ctx context.Context) error {
				endpoint, err := b.s.identityOf(ctx, b.cluster, "intruder")
				if err != nil {
					return err
				}
				conn, err := b.s.spire(ctx)
				if err != nil {
					return err
				}
				return b.s.withdraw(ctx, b.kube, conn, fmt.Sprintf("/identity/%d", endpoint.Identity))
			},
			mend: b.s.register,
		},
		{
			name: "a controller manager of somebody else's", red: []string{"no known cause of trouble"}, cause: "foreign-controller-manager",
			spoil: func(ctx context.Context) error { return b.kube.Apply(ctx, "faults", []byte(foreignManager)) },
			mend:  func(ctx context.Context) error { return b.kube.Delete(ctx, []byte(foreignManager)) },
		},
		{
			name: "a delegate that is not authorised", red: []string{"no known cause of trouble"}, cause: "delegate-not-authorised",
			spoil: func(ctx context.Context) error {
				cfg := b.s.spireConfig()
				cfg.AuthorizedDelegates = []spiffeid.ID{spiffeid.RequireFromPath(b.s.td, "/ns/kube-system/sa/cilium")}
				_, err := deploy.Install(ctx, b.cluster, cfg)
				return err
			},
			mend: b.spire,
		},
		{
			name: "an operator that is not admin", red: []string{"no known cause of trouble"}, cause: "operator-not-admin",
			spoil: func(ctx context.Context) error {
				return b.editConfigMap(ctx, "spire-system", "spire-server", "server.conf", "/cilium-operator", "/operator")
			},
			mend: b.spire,
		},
		{
			name: "a headless SPIRE Service", red: []string{"no known cause of trouble"}, cause: "headless-spire-service",
			spoil: func(ctx context.Context) error {
				services := b.kube.Clientset().CoreV1().Services("spire-system")
				now, err := services.Get(ctx, "spire-server", metav1.GetOptions{})
				if err != nil {
					return err
				}
				if err := services.Delete(ctx, now.Name, metav1.DeleteOptions{}); err != nil {
					return err
				}
				headless := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: now.Name, Namespace: now.Namespace, Labels: now.Labels}, Spec: corev1.ServiceSpec{
					ClusterIP: corev1.ClusterIPNone, Selector: now.Spec.Selector, Ports: now.Spec.Ports,
				}}
				_, err = services.Create(ctx, headless, metav1.CreateOptions{})
				return err
			},
			mend: func(ctx context.Context) error {
				if err := b.kube.Clientset().CoreV1().Services("spire-system").Delete(ctx, "spire-server", metav1.DeleteOptions{}); err != nil {
					return err
				}
				return b.spire(ctx)
			},
		},
		{
			name: "the backend as NodePort", red: []string{"services inside", "refused from outside"},
			spoil: func(ctx context.Context) error {
				_, err := b.kube.Clientset().CoreV1().Services("99-apps").Patch(ctx, "backend", types.StrategicMergePatchType,
					[]byte(`{"spec":{"type":"NodePort"}}`), metav1.PatchOptions{})
				return err
			},
			mend: func(ctx context.Context) error {
				w, _ := in.Workload("backend")
				return becomeClusterIP(ctx, b.kube, w)
			},
		},
		{
			name: "an image of another commit in one pod", red: []string{"workload githubstub", "image of githubstub"},
			spoil: func(ctx context.Context) error { return b.otherImage(ctx, "githubstub") },
			mend: func(ctx context.Context) error {
				if err := b.kube.Clientset().CoreV1().Pods("99-apps").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "app=githubstub"}); err != nil {
					return err
				}
				return b.s.applyApps(ctx)
			},
		},
		{
			// Sessions go on, but nobody gets a new one, so that the site's page cannot rotate.
			name: "an expired SVID", red: []string{
				"entries registered", "SVID of postgres", "postgres postgres", "administration of postgres", "edge vault → postgres:5433", "security page", "console clean",
			},
			spoil: func(ctx context.Context) error { return b.expire(ctx, "postgres") },
			mend:  b.s.register,
		},
		{
			// Without an account of the network's own no edge can be told.
			name: "Hubble Relay down", red: []string{"rolled out", "cilium healthy", "no known cause of trouble", "edge *"}, cause: "relay-down",
			spoil: func(ctx context.Context) error { return b.relay(ctx, 0) },
			mend:  func(ctx context.Context) error { return b.relay(ctx, 1) },
		},
		{
			name: "DNS blocked", red: []string{"policies as derived", "names inside", "edge intruder → *"},
			spoil: func(ctx context.Context) error {
				return b.kube.Apply(ctx, "faults", []byte(dnsBlocked))
			},
			mend: func(ctx context.Context) error { return cilium.DeletePolicies(ctx, b.cluster, []byte(dnsBlocked)) },
		},
	}
}

func policyRef(workload string) string {
	return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: zerotrust-" + workload + "\n  namespace: 99-apps\n"
}

const dnsBlocked = `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: no-dns
  namespace: 99-apps
spec:
  endpointSelector:
    matchLabels:
      io.cilium.k8s.policy.serviceaccount: intruder
  egressDeny:
    - toEndpoints:
        - matchLabels:
            k8s:io.kubernetes.pod.namespace: kube-system
            k8s:k8s-app: kube-dns
`

// foreignManager is never scheduled: that it is to run is enough.
const foreignManager = `apiVersion: v1
kind: Pod
metadata:
  name: spire-controller-manager
  namespace: default
spec:
  nodeSelector: {nowhere: "true"}
  containers:
    - name: spire-controller-manager
      image: ghcr.io/spiffe/spire-controller-manager:0.6.3
`

// policies are as derived again.
func (b breaker) policies(ctx context.Context) error { return b.s.applyGuards(ctx) }

// spire is as it is installed again, and its agents run.
func (b breaker) spire(ctx context.Context) error {
	if _, err := deploy.Install(ctx, b.cluster, b.s.spireConfig()); err != nil {
		return err
	}
	return b.s.register(ctx)
}

func (b breaker) relay(ctx context.Context, replicas int) error {
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	if _, err := b.kube.Clientset().AppsV1().Deployments("kube-system").Patch(ctx, "hubble-relay", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	return b.kube.WaitRollout(ctx, "Deployment", "kube-system", "hubble-relay")
}

func (b breaker) patchPolicy(ctx context.Context, namespace, workload, patch string) error {
	_, err := b.kube.Dynamic().Resource(policyKinds[0]).Namespace(namespace).Patch(ctx, "zerotrust-"+workload, types.JSONPatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// forgetEgress takes from a workload's policy what leads to another.
func (b breaker) forgetEgress(ctx context.Context, from, to string) error {
	w, _ := b.l.cfg.Intent.Workload(from)
	policies := b.kube.Dynamic().Resource(policyKinds[0]).Namespace(w.Namespace)
	now, err := policies.Get(ctx, PolicyName(w), metav1.GetOptions{})
	if err != nil {
		return err
	}
	spec := now.Object["spec"].(map[string]any)
	rules := spec["egress"].([]any)
	kept := slices.DeleteFunc(slices.Clone(rules), func(rule any) bool {
		text, _ := json.Marshal(rule)
		return strings.Contains(string(text), `serviceaccount":"`+to+`"`)
	})
	if len(kept) != len(rules)-1 {
		return fmt.Errorf("%d of %d egress rules of %s lead to %s", len(rules)-len(kept), len(rules), from, to)
	}
	spec["egress"] = kept
	_, err = policies.Update(ctx, now, metav1.UpdateOptions{})
	return err
}

// entries has SPIRE hold the derived entries, but for an edit.
func (b breaker) entries(ctx context.Context, edit func(*spire.Entry)) error {
	conn, err := b.s.spire(ctx)
	if err != nil {
		return err
	}
	want, err := Entries(b.l.cfg.Intent)
	if err != nil {
		return err
	}
	for i := range want {
		edit(&want[i])
	}
	_, err = spire.Sync(ctx, conn, want, b.s.syncConfig())
	return err
}

// adminSocket moves the admin socket in the configurations of SPIRE and of Cilium.
func (b breaker) adminSocket(ctx context.Context, from, to string) error {
	if err := b.editConfigMap(ctx, "spire-system", "spire-agent", "agent.conf", from, to); err != nil {
		return err
	}
	return b.editConfigMap(ctx, "kube-system", "cilium-config", "mesh-auth-spire-admin-socket", from, to)
}

// onWorker runs a command on a worker node.
func (b breaker) onWorker(ctx context.Context, argv ...string) error {
	nodes, err := kindx.Nodes(ctx, b.l.cfg.Intent.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(nodes, func(n *kindx.Node) bool { return strings.HasSuffix(n.Name(), "-worker") })
	if i < 0 {
		return errors.New("there is no worker")
	}
	return nodes[i].Exec(ctx, nil, nil, argv...)
}

// editConfigMap changes a text of one, and restarts nothing.
func (b breaker) editConfigMap(ctx context.Context, namespace, name, key, from, to string) error {
	maps := b.kube.Clientset().CoreV1().ConfigMaps(namespace)
	now, err := maps.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if !strings.Contains(now.Data[key], from) {
		return fmt.Errorf("ConfigMap %s: %s does not say %q", name, key, from)
	}
	now.Data[key] = strings.ReplaceAll(now.Data[key], from, to)
	_, err = maps.Update(ctx, now, metav1.UpdateOptions{})
	return err
}

// otherImage has the pod of a workload run what is the same program by another name.
func (b breaker) otherImage(ctx context.Context, workload string) error {
	w, _ := b.l.cfg.Intent.Workload(workload)
	built, err := b.s.program(ctx, w.Package)
	if err != nil {
		return err
	}
	img, _ := b.s.resolved(built.ref)
	other, _, _ := strings.Cut(built.ref, ":")
	other += ":another-commit"
	nodes, err := b.s.nodes(ctx)
	if err != nil {
		return err
	}
	if _, err := images.Load(ctx, nodes, []images.NamedImage{{Ref: other, Image: img}}, images.LoadConfig{}); err != nil {
		return err
	}
	pods, err := b.s.readyPods(ctx, w)
	if err != nil {
		return err
	}
	patch := fmt.Appendf(nil, `{"spec":{"containers":[{"name":%q,"image":%q}]}}`, pods[0].Spec.Containers[0].Name, other)
	if _, err := b.kube.Clientset().CoreV1().Pods(w.Namespace).Patch(ctx, pods[0].Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	return kube.Wait(ctx, "the pod to run "+other, time.Second, func(ctx context.Context) (bool, string, error) {
		p, err := b.kube.Clientset().CoreV1().Pods(w.Namespace).Get(ctx, pods[0].Name, metav1.GetOptions{})
		if err != nil {
			return false, "", err
		}
		c := p.Status.ContainerStatuses[0]
		// By which of its names the runtime tells an image is left to it.
		return c.Ready && c.RestartCount > pods[0].Status.ContainerStatuses[0].RestartCount, fmt.Sprintf("%s, ready: %t, %d restarts", c.Image, c.Ready, c.RestartCount), nil
	})
}

// expire gives a server an SVID that lives for half a minute, and then no other.
func (b breaker) expire(ctx context.Context, workload string) error {
	const life = 30 * time.Second
	w, _ := b.l.cfg.Intent.Workload(workload)
	of := func(e *spire.Entry) bool { return e.SPIFFEID == b.l.cfg.Intent.ID(w) }
	if err := b.entries(ctx, func(e *spire.Entry) {
		if of(e) {
			e.X509TTL = life
		}
	}); err != nil {
		return err
	}
	var ends time.Time
	err := kube.Wait(ctx, "the short SVID", time.Second, func(ctx context.Context) (bool, string, error) {
		shown, err := b.s.presented(ctx, w)
		if err != nil {
			return false, "", err
		}
		ends = shown.NotAfter
		return time.Until(ends) <= life, fmt.Sprint(ends), nil
	})
	if err != nil {
		return err
	}
	if err := b.entries(ctx, func(e *spire.Entry) {
		if of(e) {
			e.Selectors = []spire.Selector{{Type: "k8s", Value: "ns:" + w.Namespace}, {Type: "k8s", Value: "sa:elsewhere"}}
		}
	}); err != nil {
		return err
	}
	return kube.Wait(ctx, "the SVID to expire", time.Second, func(ctx context.Context) (bool, string, error) {
		_, err := b.s.presented(ctx, w)
		return err != nil && strings.Contains(err.Error(), "expired"), fmt.Sprint(err), nil
	})
}

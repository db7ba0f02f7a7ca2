//go:build e2e

package zerotrust

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// TestE2EOrders brings another intent up than the demo's: the one of examples/orders, with
// edges over UDP, from a namespace, from outside, and to a host, which is this machine. Then
// it proves it again as somebody would who did not build the cluster, and with no policy left.
func TestE2EOrders(t *testing.T) {
	l := &lab{T: t, cfg: labConfig(t), shots: t.TempDir()}
	const file = "../examples/orders/zerotrust.yaml"
	var err error
	if l.cfg.Intent, err = ReadIntent(file); err != nil {
		t.Fatal(err)
	}
	l.cfg.Intent.Name, l.cfg.Workers = "orders-e2e", 1
	l.cfg.Intent.Workloads[0].Publish.HostPort = sitePort
	t.Cleanup(l.takeDown)
	s := l.stack()
	began := time.Now()
	l.ordersGreen(s, phase.Options{Only: []string{"cluster"}})
	l.payments(s)
	r := l.ordersGreen(s, phase.Options{})
	t.Logf("proven after %s", time.Since(began).Round(100*time.Millisecond))
	for _, edge := range []string{
		"outside → gateway:8080", "outside → queue:5672", "console → queue:15672", "gateway → metrics:8125/UDP", "console → metrics:8125/UDP",
		"billing → dns:payments.example.com:443", "shipping → dns:payments.example.com:443",
	} {
		if c := checkOf(r, "4D-network-policies", "edge "+edge); c.Status != phase.Passed || c.Edge == nil {
			t.Errorf("%s: %+v", edge, c)
		}
	}

	cluster, err := s.rest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prober, err := s.program(t.Context(), proberPackage)
	if err != nil {
		t.Fatal(err)
	}
	// As somebody who has the rights that are derived, and no other.
	verifier := rest.CopyConfig(cluster)
	verifier.Impersonate = rest.ImpersonationConfig{UserName: "somebody", Groups: []string{VerifierGroup, "system:authenticated"}}
	foreign, err := New(t.Context(), Config{Intent: l.cfg.Intent, Cluster: verifier, ProberImage: prober.ref})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	r = l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true})
	if c := checkOf(r, "permissions", "rights"); c.Status != phase.Failed || !strings.Contains(c.Err.Error(), "patch pods/ephemeralcontainers in namespace shop") {
		t.Errorf("without any rights: %s, %v", c.Status, c.Err)
	}
	roles, err := VerifierRoles(l.cfg.Intent)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.kubeClient(s).Apply(t.Context(), Owner, roles); err != nil {
		t.Fatal(err)
	}
	l.verified(s, foreign)
	l.refusedByAdmission(verifier)
	l.withoutTheMesh(s, foreign)
	l.mutated(s)
	l.fromNoSPIFFE(s)

	// A cluster that enforces nothing must fail, in each cell that is to be denied.
	policies, err := Policies(l.cfg.Intent)
	if err != nil {
		t.Fatal(err)
	}
	if err := cilium.DeletePolicies(t.Context(), cluster, policies); err != nil {
		t.Fatal(err)
	}
	var wrong []string
	for deadline := time.Now().Add(time.Minute); ; {
		wrong = nil
		for _, c := range edgeChecks(l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true, Only: []string{"4D-network-policies", "4D-from-outside"}})) {
			// Nobody authenticates either, so the edges that ask for it cannot be as wanted.
			if want := c.Edge.Allowed && !c.Edge.Authenticated; (c.Status == phase.Passed) != want {
				wrong = append(wrong, fmt.Sprintf("%s: %s", c.Name, c.Status))
			}
		}
		if len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(wrong) > 0 {
		t.Errorf("with no policy left: %s", strings.Join(wrong, "; "))
	}
	for _, c := range edgeChecks(l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true, Only: []string{"4D-from-outside"}})) {
		if !c.Edge.Allowed && !strings.HasSuffix(c.Edge.Port, "/UDP") && c.Status != phase.Failed {
			t.Errorf("with no policy left: %s: %s, %v", c.Name, c.Status, c.Err)
		}
	}
	l.badWorkloads(s, prober.ref)
	l.withoutHubble(s, foreign)
}

// edgeChecks are the checks of a report that are about an edge.
func edgeChecks(r phase.Report) []phase.CheckResult {
	var all []phase.CheckResult
	for _, p := range r.Phases {
		for _, c := range p.Checks {
			if c.Edge != nil {
				all = append(all, c)
			}
		}
	}
	return all
}

// verified proves it as somebody else's: from this machine, which has no way to the pods, and
// then as a machine would see it that has one.
func (l *lab) verified(s, foreign *Stack) {
	l.Helper()
	began := time.Now()
	r := l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true})
	for _, p := range r.Phases {
		if p.Name != "4D-from-outside" && p.Status != phase.Passed {
			l.Errorf("verified as somebody else's: %s: %v", p.Name, r.Err())
		}
		for _, c := range p.Checks {
			if p.Name == "4D-from-outside" {
				l.Logf("%s: %s: %s %v", c.Name, c.Status, c.Evidence.Got, c.Err)
			}
		}
	}
	// By the Service's node port, which this machine reaches.
	if c := checkOf(r, "4D-from-outside", "edge outside → gateway:8080"); c.Status != phase.Passed {
		l.Errorf("%s: %s, %v, %q", c.Name, c.Status, c.Err, c.Evidence.Details)
	}
	// Whatever answers here for the pods' addresses, it is not they.
	if c := checkOf(r, "4D-from-outside", "edge outside → queue:5672"); c.Status != phase.Unknown || !strings.Contains(c.Err.Error(), "not told from this machine") {
		l.Errorf("%s: %s, %v", c.Name, c.Status, c.Err)
	}
	outside, err := s.outside(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	foreign.here = func(ctx context.Context, target string, timeout time.Duration) (probe.Attempt, error) {
		var printed bytes.Buffer
		if err := outside.Exec(ctx, nil, &printed, probe.Argv(proberPath, target, timeout)...); err != nil {
			return probe.Attempt{}, err
		}
		return probe.Parse(printed.String(), target)
	}
	if r := l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true, Only: []string{"4D-from-outside"}}); !r.OK() {
		l.Errorf("from outside, as somebody else's: %v", r.Err())
	}
	l.Logf("verified as somebody else's in %s", time.Since(began).Round(100*time.Millisecond))
}

// refusedByAdmission has a policy of the cluster refuse the prober.
func (l *lab) refusedByAdmission(verifier *rest.Config) {
	l.Helper()
	began := time.Now()
	const image = "refused.example/prober:1"
	equal, name := admissionv1.Equivalent, "no-strangers"
	client, err := kubernetes.NewForConfig(l.own(verifier))
	if err != nil {
		l.Fatal(err)
	}
	policies, bindings := client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{MatchPolicy: &equal, ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Update},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/ephemeralcontainers"}},
		}}}},
		Validations: []admissionv1.Validation{{
			Expression: `!has(object.spec.ephemeralContainers) || object.spec.ephemeralContainers.all(c, !c.image.startsWith("refused.example/"))`,
			Message:    "no images of strangers: ask the platform team",
		}},
	}}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}}
	if _, err := policies.Create(l.Context(), policy, metav1.CreateOptions{}); err != nil {
		l.Fatal(err)
	}
	if _, err := bindings.Create(l.Context(), binding, metav1.CreateOptions{}); err != nil {
		l.Fatal(err)
	}
	defer func() {
		if err := errors.Join(bindings.Delete(l.Context(), name, metav1.DeleteOptions{}), policies.Delete(l.Context(), name, metav1.DeleteOptions{})); err != nil {
			l.Error(err)
		}
	}()
	foreign, err := New(l.Context(), Config{Intent: l.cfg.Intent, Cluster: verifier, ProberImage: image})
	if err != nil {
		l.Fatal(err)
	}
	defer foreign.Close()
	queue, _ := l.cfg.Intent.Workload("queue")
	pods, err := foreign.readyPods(l.Context(), queue)
	if err != nil {
		l.Fatal(err)
	}
	// It takes a moment until the API server heeds it, and no container must be added before.
	// What guards the namespace already has nothing against this one.
	patch := []byte(`{"spec":{"ephemeralContainers":[{"name":"x","image":"` + image + `","securityContext":{
		"allowPrivilegeEscalation":false,"runAsNonRoot":true,"runAsUser":65532,"readOnlyRootFilesystem":true,"capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"RuntimeDefault"}}}]}}`)
	for deadline := time.Now().Add(30 * time.Second); err == nil || !strings.Contains(err.Error(), name); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.Fatalf("the policy is not heeded: %v", err)
		}
		_, err = client.CoreV1().Pods("shop").Patch(l.Context(), pods[0].Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, "ephemeralcontainers")
	}
	r := l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true, Only: []string{"4D-network-policies"}})
	c := checkOf(r, "probers", "prober of queue")
	if c.Status != phase.Unknown || !errors.Is(c.Err, probe.ErrAdmission) || !strings.Contains(c.Err.Error(), "'no-strangers'") || !strings.Contains(c.Err.Error(), "ask the platform team") {
		l.Errorf("refused by admission: %s, %v", c.Status, c.Err)
	}
	l.Logf("refused by admission, in %s: %v", time.Since(began).Round(100*time.Millisecond), c.Err)
}

// own is the connection that does not pretend to be somebody else.
func (l *lab) own(verifier *rest.Config) *rest.Config {
	cfg := rest.CopyConfig(verifier)
	cfg.Impersonate = rest.ImpersonationConfig{}
	return cfg
}

// withoutTheMesh takes the rights to look at the mesh away, and gives them back.
func (l *lab) withoutTheMesh(s, foreign *Stack) {
	l.Helper()
	client := l.kubeClient(s)
	if err := client.Clientset().RbacV1().ClusterRoleBindings().Delete(l.Context(), verifierRole, metav1.DeleteOptions{}); err != nil {
		l.Fatal(err)
	}
	var r phase.Report
	for deadline := time.Now().Add(10 * time.Second); ; {
		r = l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true, Only: []string{"mesh"}})
		if checkOf(r, "mesh", "cilium agents").Status != phase.Passed || time.Now().After(deadline) {
			break
		}
	}
	if c := checkOf(r, "permissions", "rights"); c.Status != phase.Passed {
		l.Errorf("without the mesh: %s: %v", c.Name, c.Err)
	}
	for _, name := range []string{"cilium agents", "policy enforcement", "spire"} {
		if c := checkOf(r, "mesh", name); c.Status != phase.Unknown || !strings.Contains(c.Err.Error(), "ClusterRole zerotrust-verifier") {
			l.Errorf("without the mesh: %s: %s, %v", name, c.Status, c.Err)
		}
	}
	roles, err := VerifierRoles(l.cfg.Intent)
	if err != nil {
		l.Fatal(err)
	}
	if err := client.Apply(l.Context(), Owner, roles); err != nil {
		l.Fatal(err)
	}
}

// badWorkloads asks for workloads that are not there, or not ready.
func (l *lab) badWorkloads(s *Stack, image string) {
	l.Helper()
	began := time.Now()
	client := l.kubeClient(s)
	core := client.Clientset().CoreV1()
	if err := client.Apply(l.Context(), Owner, []byte(`
apiVersion: v1
kind: Namespace
metadata: {name: leaving}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: held, namespace: leaving, finalizers: [zerotrust.test/hold]}
---
apiVersion: v1
kind: Namespace
metadata: {name: waiting}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: late, namespace: waiting}
---
apiVersion: v1
kind: Pod
metadata: {name: late, namespace: waiting}
spec:
  serviceAccountName: late
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers: [{name: late, image: "nowhere.example/late:1", imagePullPolicy: Never}]
`)); err != nil {
		l.Fatal(err)
	}
	defer func() {
		if _, err := core.ConfigMaps("leaving").Patch(l.Context(), "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			l.Error(err)
		}
	}()
	if err := core.Namespaces().Delete(l.Context(), "leaving", metav1.DeleteOptions{}); err != nil {
		l.Fatal(err)
	}
	if _, err := client.Clientset().AppsV1().Deployments("shop").Patch(l.Context(), "shipping", types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{}); err != nil {
		l.Fatal(err)
	}
	in := l.cfg.Intent
	in.Workloads = append(slices.Clone(in.Workloads),
		Workload{Name: "absent", Namespace: "shop"}, Workload{Name: "astray", Namespace: "no-such-place"},
		Workload{Name: "parting", Namespace: "leaving"}, Workload{Name: "late", Namespace: "waiting"})
	cluster, err := s.rest(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	foreign, err := New(l.Context(), Config{Intent: in, Cluster: cluster, ProberImage: image})
	if err != nil {
		l.Fatal(err)
	}
	defer foreign.Close()
	want := map[string][]string{
		"absent":   {"namespace shop", "service account absent", "no pod runs as that", "queue (1)"},
		"astray":   {"there is no namespace no-such-place"},
		"parting":  {"namespace leaving is being deleted", "zerotrust.test/hold"},
		"late":     {"none is ready: pod late", "ErrImageNeverPull"},
		"shipping": {"service account shipping", "no pod runs as that", "scaled to zero"},
	}
	var wrong []string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Second) {
		r := l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true, Only: []string{"workloads"}})
		wrong = nil
		for name, words := range want {
			c := checkOf(r, "workloads", "pods of "+name)
			for _, word := range words {
				if c.Status != phase.Failed || !strings.Contains(c.Err.Error(), word) {
					wrong = append(wrong, fmt.Sprintf("%s: %s, %v: it does not say %q", c.Name, c.Status, c.Err, word))
				}
			}
		}
		if len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(wrong) > 0 {
		l.Errorf("%s", strings.Join(wrong, "\n"))
	}
	l.Logf("bad workloads told in %s", time.Since(began).Round(100*time.Millisecond))
}

// withoutHubble takes Hubble Relay away, when no policy is left: what gets through is seen, and
// nothing is proven.
func (l *lab) withoutHubble(s, foreign *Stack) {
	l.Helper()
	began := time.Now()
	client := l.kubeClient(s)
	if _, err := client.Clientset().AppsV1().Deployments("kube-system").Patch(l.Context(), "hubble-relay", types.MergePatchType, []byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{}); err != nil {
		l.Fatal(err)
	}
	now := int64(0)
	if err := client.Clientset().CoreV1().Pods("kube-system").DeleteCollection(l.Context(), metav1.DeleteOptions{GracePeriodSeconds: &now}, metav1.ListOptions{LabelSelector: "k8s-app=hubble-relay"}); err != nil {
		l.Fatal(err)
	}
	if err := client.WaitGone(l.Context(), "kube-system", "k8s-app=hubble-relay"); err != nil {
		l.Fatal(err)
	}
	in := l.cfg.Intent
	in.Workloads = slices.DeleteFunc(slices.Clone(in.Workloads), func(w Workload) bool { return w.Name == "shipping" }) // scaled to zero by now
	in.Edges = slices.DeleteFunc(slices.Clone(in.Edges), func(e Edge) bool { return e.From == "shipping" })
	deaf, err := New(l.Context(), Config{Intent: in, Cluster: foreign.cfg.Cluster, ProberImage: foreign.cfg.ProberImage})
	if err != nil {
		l.Fatal(err)
	}
	defer deaf.Close()
	deaf.here = foreign.here
	r := l.ordersRun(deaf.VerifyPhases(), phase.Options{VerifyOnly: true})
	if c := checkOf(r, "mesh", "hubble relay"); c.Status != phase.Unknown || !strings.Contains(c.Err.Error(), "no denial can be told from a time-out") {
		l.Errorf("without Hubble: %s: %s, %v", c.Name, c.Status, c.Err)
	}
	for _, c := range edgeChecks(r) {
		if c.Status == phase.Passed {
			l.Errorf("without Hubble, and proven: %s: %s", c.Name, c.Evidence.Got)
		}
	}
	for name, want := range map[string]phase.Status{"edge billing → gateway:8080": phase.Failed, "edge gateway → queue:5672": phase.Unknown} {
		if c := checkOf(r, "4D-network-policies", name); c.Status != want {
			l.Errorf("without Hubble: %s: %s, %v, want %s", name, c.Status, c.Err, want)
		}
	}
	l.Logf("without Hubble: %s", time.Since(began).Round(100*time.Millisecond))
}

// mutated takes one of each kind of thing away.
func (l *lab) mutated(s *Stack) {
	l.Helper()
	all := s.Mutations()
	for _, name := range []string{"without the policy of queue", "without the identity of billing"} {
		i := slices.IndexFunc(all, func(c phase.Check) bool { return c.Name == name })
		began := time.Now()
		ev, err := all[i].Run(l.Context())
		if err != nil {
			l.Errorf("%s: %v", name, err)
		}
		l.Logf("%s: %s, in %s\n%s", name, ev.Got, time.Since(began).Round(100*time.Millisecond), strings.Join(ev.Details, "\n"))
	}
}

// fromNoSPIFFE makes the cluster one that has Cilium and policies, but no SPIRE and no mutual
// authentication, and upgrades it while its applications are used.
func (l *lab) fromNoSPIFFE(s *Stack) {
	l.Helper()
	if err := s.Rollback(l.Context()); err != nil {
		l.Fatal(err)
	}
	cluster, err := s.rest(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	if err := deploy.Uninstall(l.Context(), cluster, s.spireConfig()); err != nil {
		l.Fatal(err)
	}
	s.dropSPIRE()
	if spaces, err := l.kubeClient(s).Clientset().CoreV1().Namespaces().List(l.Context(), metav1.ListOptions{FieldSelector: "metadata.name=spire-system"}); err != nil || len(spaces.Items) > 0 {
		l.Fatalf("SPIRE is still there: %v, %v", spaces, err)
	}
	began := time.Now()
	stop := l.ordersLoad(s)
	err = s.Upgrade(l.Context())
	requests, failed, first := stop()
	if err != nil {
		l.Fatal(err)
	}
	if failed > 0 || requests < 20 {
		l.Errorf("%d requests, %d failed, the first: %v", requests, failed, first)
	}
	l.Logf("from no SPIFFE to mutual authentication in %s: %d requests, %d failed", time.Since(began).Round(100*time.Millisecond), requests, failed)
	l.ordersGreen(s, phase.Options{VerifyOnly: true})
}

// ordersLoad uses the gateway from outside, and the queue from the gateway's own pod, until
// stop is called.
func (l *lab) ordersLoad(s *Stack) (stop func() (requests, failed int, first error)) {
	ctx, cancel := context.WithCancel(l.Context())
	var mu sync.Mutex
	var requests, failed int
	var first error
	var users sync.WaitGroup
	use := func(pause time.Duration, once func() error) {
		users.Go(func() {
			for ctx.Err() == nil {
				err := once()
				if ctx.Err() != nil {
					return // it was broken off
				}
				mu.Lock()
				requests++
				if err != nil {
					failed++
					first = cmp.Or(first, err)
				}
				mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	use(200*time.Millisecond, func() error {
		_, err := firstLine(ctx, net.JoinHostPort("127.0.0.1", fmt.Sprint(sitePort)))
		return err
	})
	use(500*time.Millisecond, func() error {
		_, r, err := s.probe(ctx, Cell{From: "gateway", To: "queue", Port: TCP(5672), Allowed: true}, allowedTimeout)
		if err == nil && !r.Connected {
			err = errors.New(r.String())
		}
		return err
	})
	return func() (int, int, error) {
		cancel()
		users.Wait()
		return requests, failed, first
	}
}

func (l *lab) ordersRun(phases []*phase.Phase, o phase.Options) phase.Report {
	l.Helper()
	r, _ := phase.RunWith(l.Context(), phases, o, nil)
	return r
}

func (l *lab) ordersGreen(s *Stack, o phase.Options) phase.Report {
	l.Helper()
	r := l.ordersRun(s.Phases(), o)
	if !r.OK() {
		var text bytes.Buffer
		_ = report.Summary(&text, r)
		l.Fatalf("%v\n%s", r.Err(), text.String())
	}
	return r
}

// payments has this machine be payments.example.com for the cluster, and answer there.
func (l *lab) payments(s *Stack) {
	l.Helper()
	gateway, err := run.Output(l.Context(), "docker", "network", "inspect", "kind", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}")
	if err != nil {
		l.Fatal(err)
	}
	ip := strings.Fields(gateway)[0]
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, "443"))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	client, err := s.kube(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	maps := client.Clientset().CoreV1().ConfigMaps("kube-system")
	dns, err := maps.Get(l.Context(), "coredns", metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	const after = "    ready\n"
	if !strings.Contains(dns.Data["Corefile"], after) {
		l.Fatalf("CoreDNS's configuration is another one:\n%s", dns.Data["Corefile"])
	}
	dns.Data["Corefile"] = strings.Replace(dns.Data["Corefile"], after, after+"    hosts {\n      "+ip+" payments.example.com\n      fallthrough\n    }\n", 1)
	if _, err := maps.Update(l.Context(), dns, metav1.UpdateOptions{}); err != nil {
		l.Fatal(err)
	}
	// It is not up yet: without a network its pods wait, and read this when they start.
}

// checkOf is a check of the report, the zero one if it is not there.
func checkOf(r phase.Report, phaseName, name string) phase.CheckResult {
	for _, p := range r.Phases {
		if i := slices.IndexFunc(p.Checks, func(c phase.CheckResult) bool { return c.Name == name }); p.Name == phaseName && i >= 0 {
			return p.Checks[i]
		}
	}
	return phase.CheckResult{}
}

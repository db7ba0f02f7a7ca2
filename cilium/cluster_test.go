package cilium

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// agents is a cluster with one agent pod on each of its nodes.
type agents struct {
	nodes []string
	exec  func(e kube.Exec) (stdout, stderr string, err error)
}

func (a agents) ReadyPods(_ context.Context, namespace, selector string) ([]corev1.Pod, error) {
	if namespace != Namespace || selector != agentSelector {
		return nil, fmt.Errorf("asked for %s in %s", selector, namespace)
	}
	var pods []corev1.Pod
	for _, n := range a.nodes {
		pods = append(pods, corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "cilium-" + n}, Spec: corev1.PodSpec{NodeName: n}})
	}
	return pods, nil
}

func (a agents) Exec(_ context.Context, e kube.Exec) error {
	if e.Namespace != Namespace || e.Container != "cilium-agent" {
		return fmt.Errorf("exec in %s/%s/%s", e.Namespace, e.Pod, e.Container)
	}
	stdout, stderr, err := a.exec(e)
	io.WriteString(e.Stdout, stdout)
	io.WriteString(e.Stderr, stderr)
	return err
}

func TestAgentPods(t *testing.T) {
	a := agents{nodes: []string{"b", "a"}}
	got, err := agentPods(t.Context(), a, "b")
	if err != nil || len(got) != 1 || got[0].Name != "cilium-b" {
		t.Errorf("on b: %v, %v", got, err)
	}
	if _, err := agentPods(t.Context(), a, "c"); err == nil || !strings.Contains(err.Error(), `["a" "b"]`) {
		t.Errorf("on c: got %v, want the nodes there are", err)
	}
	if _, err := agentPods(t.Context(), agents{}, ""); err == nil || !strings.Contains(err.Error(), "no ready agent") {
		t.Errorf("without agents: %v", err)
	}
}

// readable is a cluster of pods, by namespace; other namespaces must not be looked into.
type readable struct {
	pods
	in map[string][]corev1.Pod
}

func (r readable) ReadyPods(_ context.Context, namespace, _ string) ([]corev1.Pod, error) {
	found, may := r.in[namespace]
	if !may {
		return nil, fmt.Errorf("listing: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no such right")))
	}
	return found, nil
}

func TestAnywhere(t *testing.T) {
	one, other := []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "one"}}}, []corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "other"}}}
	for what, tt := range map[string]struct {
		in   map[string][]corev1.Pod
		want []corev1.Pod
		err  bool
	}{
		"where it usually is":            {map[string][]corev1.Pod{Namespace: one}, one, false},
		"there, and elsewhere":           {map[string][]corev1.Pod{Namespace: one, "": slices.Concat(one, other)}, one, false},
		"elsewhere":                      {map[string][]corev1.Pod{Namespace: nil, "": other}, other, false},
		"elsewhere, and all can be seen": {map[string][]corev1.Pod{"": other}, other, false},
		"nowhere that can be seen":       {map[string][]corev1.Pod{Namespace: nil}, nil, false},
		"nothing can be seen":            {nil, nil, true},
	} {
		got, err := anywhere(t.Context(), readable{in: tt.in}, relaySelector)
		if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.err {
			t.Errorf("%s: %v, -want +got\n%s", what, err, diff)
		}
	}
}

func TestAuthEntries(t *testing.T) {
	a := agents{nodes: []string{"w2", "w1"}, exec: func(e kube.Exec) (string, string, error) {
		if want := []string{"cilium-dbg", "bpf", "auth", "list", "-o", "json"}; !slices.Equal(e.Argv, want) {
			return "", "", fmt.Errorf("argv %q", e.Argv)
		}
		if e.Pod == "cilium-w2" {
			return "null\n", "", nil
		}
		return `[{"LocalIdentity":31085,"RemoteIdentity":8142,"RemoteNodeID":49821,"AuthType":1,"Expiration":"2026-01-02T03:04:05Z"},
		         {"LocalIdentity":1,"RemoteIdentity":2,"RemoteNodeID":0,"AuthType":9,"Expiration":"0001-01-01T00:00:00Z"}]`, "", nil
	}}
	got, err := authEntries(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	want := []AuthEntry{
		{"w1", 31085, 8142, 49821, "spire", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
		{"w1", 1, 2, 0, "unknown-9", time.Time{}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestFlushAuth(t *testing.T) {
	var mu sync.Mutex
	held := map[string]string{"cilium-w1": `[{"LocalIdentity":258,"RemoteIdentity":31085,"RemoteNodeID":49821,"AuthType":1},{"LocalIdentity":1,"RemoteIdentity":2,"AuthType":9}]`}
	batches := map[string][]string{}
	a := agents{nodes: []string{"w1", "w2"}, exec: func(e kube.Exec) (string, string, error) {
		mu.Lock()
		defer mu.Unlock()
		if e.Argv[0] == "cilium-dbg" {
			if held[e.Pod] == "" {
				return "null", "", nil
			}
			return held[e.Pod], "", nil
		}
		batch, err := io.ReadAll(e.Stdin)
		batches[e.Pod] = append(batches[e.Pod], string(batch))
		if len(batches[e.Pod]) == 1 { // one entry went meanwhile: the batch ends there
			held[e.Pod] = `[{"LocalIdentity":1,"RemoteIdentity":2,"AuthType":9}]`
			return "", "Error: delete failed: No such file or directory", errors.New("exit code 255")
		}
		delete(held, e.Pod)
		return "", "", err
	}}
	if err := flushAuth(t.Context(), a, "w2"); err != nil || len(batches) != 0 {
		t.Errorf("an empty map: %v, ran %v", err, batches)
	}
	if err := flushAuth(t.Context(), a, ""); err != nil {
		t.Fatal(err)
	}
	const second = "map delete pinned /sys/fs/bpf/tc/globals/cilium_auth_map key hex 01 00 00 00 02 00 00 00 00 00 09 00\n"
	want := map[string][]string{"cilium-w1": {
		"map delete pinned /sys/fs/bpf/tc/globals/cilium_auth_map key hex 02 01 00 00 6d 79 00 00 9d c2 01 00\n" + second, second,
	}}
	if diff := cmp.Diff(want, batches); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// TestAuthFailures are the ways in which `bpf auth list` fails, some with exit code 0.
func TestAuthFailures(t *testing.T) {
	for _, tt := range []struct {
		stdout, stderr string
		err            error
		say            string
	}{
		{"", "Cannot find auth bpf map\n", nil, "mutual authentication is off"},
		{"", "", errors.New("container not found"), "container not found"},
		{"not JSON", "", nil, "not the JSON expected"},
	} {
		a := agents{nodes: []string{"w1"}, exec: func(kube.Exec) (string, string, error) { return tt.stdout, tt.stderr, tt.err }}
		_, err := authEntries(t.Context(), a)
		if err == nil || !strings.Contains(err.Error(), tt.say) || !strings.Contains(err.Error(), "w1") {
			t.Errorf("got %v, want node w1 and %q", err, tt.say)
		}
	}
}

const okStatus = `{"cilium":{"state":"Ok","msg":"1.20.2 (v1.20.2-abc)"},"auth-certificate-provider":{"state":"Ok","msg":"0 identities"},"kubernetes":{"state":"Ok"}}`

func TestGetStatus(t *testing.T) {
	one := int32(1)
	cs := fake.NewClientset(
		&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "cilium"}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 2, NumberReady: 2}},
		&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "cilium-operator"}, Spec: appsv1.DeploymentSpec{Replicas: &one}, Status: appsv1.DeploymentStatus{ReadyReplicas: 1}},
	)
	a := agents{nodes: []string{"w2", "w1"}, exec: func(e kube.Exec) (string, string, error) {
		if e.Pod == "cilium-w2" { // a sick agent answers and then exits with 1
			return `{"cilium":{"state":"Failure","msg":"1.20.2 (v1.20.2-abc)    controllers failing"},"auth-certificate-provider":{"state":"Failure","msg":"no SPIRE"}}`, "", errors.New("exit code 1")
		}
		return okStatus, "", nil
	}}
	got, err := getStatus(t.Context(), cs, a)
	if err != nil {
		t.Fatal(err)
	}
	want := Status{
		Agents: Rollout{true, 2, 2}, Operator: Rollout{true, 1, 1},
		Nodes: []NodeStatus{
			{"w1", "cilium-w1", "1.20.2", "Ok", "1.20.2 (v1.20.2-abc)", "Ok", "0 identities"},
			{"w2", "cilium-w2", "1.20.2", "Failure", "1.20.2 (v1.20.2-abc)    controllers failing", "Failure", "no SPIRE"},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	problems := []string{
		"Hubble Relay: not installed",
		"node w2: agent is Failure: 1.20.2 (v1.20.2-abc)    controllers failing",
		"node w2: authentication provider is Failure: no SPIRE",
	}
	if diff := cmp.Diff(problems, got.Problems()); diff != "" {
		t.Errorf("problems: -want +got\n%s", diff)
	}
	got.Relay = Rollout{true, 1, 1}
	got.Nodes = got.Nodes[:1]
	got.Agents = Rollout{true, 1, 1}
	if p := got.Problems(); len(p) != 0 {
		t.Errorf("a healthy Cilium has problems %q", p)
	}
	if p := (Status{}).Problems(); len(p) != 3 {
		t.Errorf("nothing installed: problems %q", p)
	}
}

func TestStatusOfAnAgentThatDoesNotAnswer(t *testing.T) {
	a := agents{nodes: []string{"w1"}, exec: func(kube.Exec) (string, string, error) {
		return "", "Cannot get status: connection refused\n", errors.New("exit code 1")
	}}
	cs := fake.NewClientset(&appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: "cilium"}, Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 1, NumberReady: 1}})
	_, err := getStatus(t.Context(), cs, a)
	for _, say := range []string{"w1", "exit code 1", "connection refused"} {
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
}

func TestIdentitiesAndEndpoints(t *testing.T) {
	object := func(kind, namespace, name string, rest map[string]any) *unstructured.Unstructured {
		o := map[string]any{"apiVersion": "cilium.io/v2", "kind": kind, "metadata": map[string]any{"name": name}}
		for k, v := range rest {
			o[k] = v
		}
		u := &unstructured.Unstructured{Object: o}
		u.SetNamespace(namespace)
		return u
	}
	labels := map[string]any{"k8s:app": "backend", "k8s:io.kubernetes.pod.namespace": "99-apps", "k8s:io.cilium.k8s.policy.serviceaccount": "backend"}
	kinds := map[schema.GroupVersionResource]string{
		{Group: "cilium.io", Version: "v2", Resource: "ciliumidentities"}: "CiliumIdentityList",
		{Group: "cilium.io", Version: "v2", Resource: "ciliumendpoints"}:  "CiliumEndpointList",
	}
	d := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), kinds,
		object("CiliumIdentity", "", "31085", map[string]any{"security-labels": labels}),
		object("CiliumIdentity", "", "8142", map[string]any{"security-labels": map[string]any{}}),
		object("CiliumEndpoint", "99-apps", "backend-1", map[string]any{"status": map[string]any{
			"state": "ready", "identity": map[string]any{"id": int64(31085)},
			"networking": map[string]any{"node": "172.18.0.2", "addressing": []any{map[string]any{"ipv4": "10.244.1.7", "ipv6": "fd00::7"}}},
		}}),
		object("CiliumEndpoint", "99-apps", "new", nil),
	)
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	if err := touchIdentities(t.Context(), d, now, []uint32{31085, 7}); err != nil {
		t.Errorf("touch one that is there and one that is not: %v", err)
	}
	touched, err := d.Resource(resourceOf("ciliumidentities")).Get(t.Context(), "31085", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := touched.GetAnnotations()["zerotrust/touched"]; got != "2026-01-02T03:04:05.000000006Z" {
		t.Errorf("touched at %q", got)
	}
	ids, err := identities(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	wantIDs := []Identity{
		{ID: 8142, Labels: map[string]string{}},
		{31085, map[string]string{"k8s:app": "backend", "k8s:io.kubernetes.pod.namespace": "99-apps", "k8s:io.cilium.k8s.policy.serviceaccount": "backend"}, "99-apps", "backend"},
	}
	if diff := cmp.Diff(wantIDs, ids); diff != "" {
		t.Errorf("identities: -want +got\n%s", diff)
	}
	eps, err := endpoints(t.Context(), d, "99-apps")
	if err != nil {
		t.Fatal(err)
	}
	wantEPs := []Endpoint{
		{"99-apps", "backend-1", 31085, "ready", []string{"10.244.1.7", "fd00::7"}, "172.18.0.2"},
		{Namespace: "99-apps", Pod: "new"},
	}
	if diff := cmp.Diff(wantEPs, eps); diff != "" {
		t.Errorf("endpoints: -want +got\n%s", diff)
	}
}

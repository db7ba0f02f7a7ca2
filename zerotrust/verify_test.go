package zerotrust

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func TestReadiness(t *testing.T) {
	queue := Workload{Name: "queue", Namespace: "shop"}
	pod := func(name, account string, ready bool) corev1.Pod {
		p := podOn("shop", name, "n1", "i", ready, nil)
		p.Spec.ServiceAccountName = account
		return p
	}
	gone := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	leaving := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop", DeletionTimestamp: &gone}, Status: corev1.NamespaceStatus{Conditions: []corev1.NamespaceCondition{
		{Type: corev1.NamespaceDeletionContentFailure, Status: corev1.ConditionFalse, Message: "nothing to say"},
		{Type: corev1.NamespaceFinalizersRemaining, Status: corev1.ConditionTrue, Message: "finalizers remaining: a/b in 1 resource instances"},
	}}}
	pending := pod("queue-c", "queue", false)
	pending.Status = corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/2 nodes are available"}}}
	for what, tt := range map[string]struct {
		namespace *corev1.Namespace
		pods      []corev1.Pod
		ready     []string
		says      []string
	}{
		"ready":             {nil, []corev1.Pod{pod("queue-b", "queue", true), pod("queue-a", "queue", true), pending, pod("x", "other", true)}, []string{"queue-a", "queue-b"}, nil},
		"not ready":         {&corev1.Namespace{}, []corev1.Pod{pod("queue-a", "queue", false), pending}, nil, []string{"none is ready", "pod queue-a: phase Running, not ready", "pod queue-c: Unschedulable: 0/2 nodes"}},
		"another account":   {nil, []corev1.Pod{pod("queue-a", "default", true), pod("queue-b", "default", true), pod("x", "other", true)}, nil, []string{"no pod runs as that", "default (2), other (1)"}},
		"nothing there":     {nil, nil, nil, []string{"no pods at all"}},
		"a namespace going": {leaving, []corev1.Pod{pod("queue-a", "queue", true)}, nil, []string{"namespace shop is being deleted, since 2026-01-02T03:04:05Z; finalizers remaining: a/b"}},
	} {
		ready, not := readiness(queue, tt.namespace, tt.pods)
		if !slices.Equal(ready, tt.ready) || (not == "") != (len(tt.says) == 0) || strings.Contains(not, "nothing to say") {
			t.Errorf("%s: %q, %q", what, ready, not)
		}
		for _, word := range tt.says {
			if !strings.Contains(not, word) {
				t.Errorf("%s: %q does not say %q", what, not, word)
			}
		}
	}
}

// reader is an API server at the wire that lets one read some things, and do nothing.
type reader struct {
	lists map[string]any // by path; others are not allowed
	may   func(authorizationv1.ResourceAttributes) bool
}

func (a reader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	answer := a.lists[r.URL.Path]
	if strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews") {
		var review authorizationv1.SelfSubjectAccessReview
		_ = json.NewDecoder(r.Body).Decode(&review)
		review.Status.Allowed = a.may(*review.Spec.ResourceAttributes)
		answer = review
	}
	if answer == nil {
		w.WriteHeader(http.StatusForbidden)
		answer = metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
			Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: `User "somebody" cannot ` + r.Method + " " + r.URL.Path}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// foreignStack looks at such an API server.
func foreignStack(t *testing.T, in Intent, a reader) *Stack {
	t.Helper()
	srv := httptest.NewServer(a)
	t.Cleanup(srv.Close)
	s, err := New(t.Context(), Config{Intent: in, Cluster: &rest.Config{Host: srv.URL, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}, ProberImage: "i"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Without the right to look at the mesh its checks say which one, by the rule that grants it,
// and what does not need it is done.
func TestVerifyWithoutTheMeshsRights(t *testing.T) {
	in := orders(true)
	pods := corev1.PodList{}
	for _, w := range in.Workloads {
		p := podOn("shop", w.Name+"-x", "n1", "i", true, nil)
		p.Spec.ServiceAccountName = w.Account()
		pods.Items = append(pods.Items, p)
	}
	s := foreignStack(t, in, reader{
		lists: map[string]any{"/api/v1/namespaces/shop/pods": pods},
		may: func(a authorizationv1.ResourceAttributes) bool {
			return a.Namespace != "" && (a.Resource == "pods" || a.Resource == "services")
		},
	})
	all := s.VerifyPhases()
	r, _ := phase.RunWith(t.Context(), all, phase.Options{VerifyOnly: true, Only: []string{"mesh", "workloads"}}, nil)
	if c := checkIn(r, "permissions", "rights"); c.Status != phase.Passed || c.Evidence.Got != "7 of 7, and 1 of 11 to look at Cilium, SPIRE, policies and Services" {
		t.Errorf("%+v", c)
	}
	for name, says := range map[string]string{
		"cilium agents":         "the right to list nodes in the whole cluster is missing (ClusterRole zerotrust-verifier",
		"policy enforcement":    "the right to get configmaps cilium-config in the whole cluster is missing",
		"mutual authentication": "the right to get configmaps cilium-config",
		"hubble relay":          "the right to list pods in the whole cluster is missing",
		"spire":                 "the right to list pods in the whole cluster is missing",
		"known causes":          "neither the configuration",
		"policies that select":  "the right to list ciliumnetworkpolicies.cilium.io in namespace shop is missing (Role shop/zerotrust-verifier",
	} {
		if c := checkIn(r, "mesh", name); c.Status != phase.Unknown || !strings.Contains(c.Err.Error(), says) {
			t.Errorf("%s: %s, %v: want %q", name, c.Status, c.Err, says)
		}
	}
	for _, w := range in.Workloads {
		if c := checkIn(r, "workloads", "pods of "+w.Name); c.Status != phase.Passed {
			t.Errorf("%s: %v", c.Name, c.Err)
		}
	}
	var needed func(p *phase.Phase) bool
	needed = func(p *phase.Phase) bool { return p.Name == "mesh" || slices.ContainsFunc(p.Needs, needed) }
	if matrix := all[slices.IndexFunc(all, func(p *phase.Phase) bool { return p.Name == "4D-network-policies" })]; slices.ContainsFunc(matrix.Needs, needed) {
		t.Error("the matrix does not run without the mesh")
	}
}

// What is missing of the rights that cannot be done without is named.
func TestVerifyWithoutRights(t *testing.T) {
	s := foreignStack(t, orders(false), reader{may: func(a authorizationv1.ResourceAttributes) bool { return a.Subresource != "exec" }})
	r, _ := phase.RunWith(t.Context(), s.VerifyPhases(), phase.Options{VerifyOnly: true}, nil)
	if c := checkIn(r, "permissions", "rights"); c.Status != phase.Failed || !strings.Contains(c.Err.Error(), "missing: create pods/exec in namespace shop") {
		t.Errorf("%s, %v", c.Status, c.Err)
	}
	for _, p := range r.Phases[1:] {
		if p.Status != phase.Skipped {
			t.Errorf("%s: %s", p.Name, p.Status)
		}
	}
}

// Each right that is asked for is granted, once, and none that changes more than is said.
func TestVerifierRoles(t *testing.T) {
	in := orders(true)
	text, err := VerifierRoles(in)
	if err != nil {
		t.Fatal(err)
	}
	all, err := objectsOf(text)
	if err != nil {
		t.Fatal(err)
	}
	granted := map[permission]int{}
	for _, o := range all {
		rules, _ := o.Object["rules"].([]any)
		for _, r := range rules {
			r := r.(map[string]any)
			first := func(key string) string {
				if values, _ := r[key].([]any); len(values) == 1 {
					return values[0].(string)
				}
				return ""
			}
			resource, sub, _ := strings.Cut(first("resources"), "/")
			p := permission{o.GetNamespace(), first("verbs"), first("apiGroups"), resource, sub, first("resourceNames")}
			granted[p]++
			if p.verb != "get" && p.verb != "list" && p.namespace == "" || p.resource == "secrets" || p.resource == "configmaps" && p.name == "" {
				t.Errorf("it grants %s", p)
			}
		}
	}
	wanted := append(verifierPermissions(in), meshPermissions(in)...)
	for _, p := range wanted {
		if granted[p] != 1 {
			t.Errorf("%s: granted %d times", p, granted[p])
		}
	}
	if len(granted) != len(wanted) {
		t.Errorf("%d rights granted, %d wanted", len(granted), len(wanted))
	}
}

func checkIn(r phase.Report, phaseName, name string) phase.CheckResult {
	for _, p := range r.Phases {
		for _, c := range p.Checks {
			if p.Name == phaseName && c.Name == name {
				return c
			}
		}
	}
	return phase.CheckResult{}
}

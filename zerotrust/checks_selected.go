package zerotrust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// checkSelected tells which policies select each workload. Those of somebody else need not be
// the derived ones, so only a workload that none selects is told of, as one that cannot be told.
func (s *Stack) checkSelected(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "a policy for each workload, both ways", Source: "API server"}
	live, err := s.readablePolicies(ctx)
	if err != nil {
		return ev, err
	}
	var open []string
	for _, w := range s.cfg.Intent.Workloads {
		pods, err := s.readyPods(ctx, w)
		if errors.Is(err, errNoPod) {
			ev.Details = append(ev.Details, w.Name+": has no ready pod")
			continue
		}
		if err != nil {
			return ev, err
		}
		ingress, egress := false, false
		var by []string
		for _, o := range live {
			in, out := guards(o, pods[0])
			if in || out {
				by = append(by, policyKey(o))
			}
			ingress, egress = ingress || in, egress || out
		}
		ev.Details = append(ev.Details, fmt.Sprintf("%s is selected by %s", w.Name, orNone(by)))
		if !ingress {
			open = append(open, w.Name+" (incoming)")
		}
		if !egress {
			open = append(open, w.Name+" (outgoing)")
		}
	}
	derived, err := derivedPolicies(s.cfg.Intent)
	if err != nil {
		return ev, err
	}
	drift := policyDrift(derived, live, s.cfg.Intent.Namespaces())
	for _, line := range drift {
		ev.Details = append(ev.Details, "beside what is derived: "+line)
	}
	ev.Got = fmt.Sprintf("%d policies, %d differences from the derived ones", len(live), len(drift))
	if len(open) > 0 {
		ev.Got += "; none selects " + strings.Join(open, ", ")
		return ev, fmt.Errorf("no policy of a kind known here selects %s: unless Cilium enforces always, all that others let through gets there", strings.Join(open, ", "))
	}
	return ev, nil
}

func orNone(all []string) string {
	if len(all) == 0 {
		return "no policy"
	}
	return strings.Join(all, ", ")
}

// readablePolicies are the policies of the intent's namespaces and of the whole cluster.
func (s *Stack) readablePolicies(ctx context.Context) ([]unstructured.Unstructured, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return nil, err
	}
	var live []unstructured.Unstructured
	for _, kind := range policyKinds {
		namespaces := s.cfg.Intent.Namespaces()
		if kind == clusterwidePolicies {
			namespaces = []string{""}
		}
		for _, ns := range namespaces {
			list, err := client.Dynamic().Resource(kind).Namespace(ns).List(ctx, metav1.ListOptions{})
			if apierrors.IsNotFound(err) {
				continue // the cluster has no such kind, so none of them
			}
			if err != nil {
				return nil, permission{namespace: ns, verb: "list", group: kind.Group, resource: kind.Resource}.named(fmt.Errorf("listing %s: %w", kind.Resource, err))
			}
			live = append(live, list.Items...)
		}
	}
	return live, nil
}

// policyRule is what decides which pods a policy is for, and which ways, of each of the kinds.
type policyRule struct {
	EndpointSelector, PodSelector *metav1.LabelSelector

	Ingress, IngressDeny, Egress, EgressDeny *json.RawMessage
	EnableDefaultDeny                        struct{ Ingress, Egress *bool }
	PolicyTypes                              []string
}

// guards says whether a policy denies the pod what it does not allow, each way. What has a
// selector for nodes selects no pod.
func guards(o unstructured.Unstructured, pod corev1.Pod) (ingress, egress bool) {
	if o.GetNamespace() != "" && o.GetNamespace() != pod.Namespace {
		return false, false
	}
	var policy struct {
		Spec  *policyRule
		Specs []policyRule
	}
	text, err := json.Marshal(o.Object)
	if err != nil || json.Unmarshal(text, &policy) != nil {
		return false, false
	}
	rules := policy.Specs
	if policy.Spec != nil {
		rules = append(rules, *policy.Spec)
	}
	for _, r := range rules {
		selector := r.EndpointSelector
		if selector == nil {
			selector = r.PodSelector
		}
		if selector == nil || !selectsPod(*selector, pod) {
			continue
		}
		in, out := r.ways()
		ingress, egress = ingress || in, egress || out
	}
	return ingress, egress
}

func (r policyRule) ways() (ingress, egress bool) {
	if r.PodSelector != nil {
		return len(r.PolicyTypes) == 0 || slices.Contains(r.PolicyTypes, "Ingress"),
			slices.Contains(r.PolicyTypes, "Egress") || len(r.PolicyTypes) == 0 && r.Egress != nil
	}
	ingress, egress = r.Ingress != nil || r.IngressDeny != nil, r.Egress != nil || r.EgressDeny != nil
	// https://docs.cilium.io/en/stable/security/policy/intro/#policy-mode-configuration
	if d := r.EnableDefaultDeny.Ingress; d != nil {
		ingress = *d
	}
	if d := r.EnableDefaultDeny.Egress; d != nil {
		egress = *d
	}
	return ingress, egress
}

// selectsPod says whether a selector is for the pod. Cilium's have a source before their keys,
// and labels that a pod does not bear itself; those of namespaces are not known here.
func selectsPod(selector metav1.LabelSelector, pod corev1.Pod) bool {
	plain := metav1.LabelSelector{MatchLabels: map[string]string{}}
	key := func(k string) string { return strings.TrimPrefix(strings.TrimPrefix(k, "k8s:"), "any:") }
	for k, v := range selector.MatchLabels {
		plain.MatchLabels[key(k)] = v
	}
	for _, e := range selector.MatchExpressions {
		e.Key = key(e.Key)
		plain.MatchExpressions = append(plain.MatchExpressions, e)
	}
	by, err := metav1.LabelSelectorAsSelector(&plain)
	has := labels.Set{accountLabel: pod.Spec.ServiceAccountName, key(namespaceLabel): pod.Namespace}
	for k, v := range pod.Labels {
		has[k] = v
	}
	return err == nil && by.Matches(has)
}

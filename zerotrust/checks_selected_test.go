package zerotrust

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Who is selected, and which ways, by policies that somebody else wrote.
func TestGuards(t *testing.T) {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{"app": "queue"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "queue"},
	}
	for what, tt := range map[string]struct {
		policy     string
		in, egress bool
	}{
		"by account, both ways": {"kind: CiliumNetworkPolicy\nmetadata: {namespace: shop}\nspec: {endpointSelector: {matchLabels: {io.cilium.k8s.policy.serviceaccount: queue}}, ingress: [{}], egress: []}", true, true},
		"with sources":          {"kind: CiliumNetworkPolicy\nmetadata: {namespace: shop}\nspec: {endpointSelector: {matchLabels: {\"k8s:app\": queue, \"any:app\": queue}}, ingressDeny: [{}]}", true, false},
		"another's account":     {"kind: CiliumNetworkPolicy\nmetadata: {namespace: shop}\nspec: {endpointSelector: {matchLabels: {io.cilium.k8s.policy.serviceaccount: other}}, ingress: [{}]}", false, false},
		"another namespace's":   {"kind: CiliumNetworkPolicy\nmetadata: {namespace: ops}\nspec: {endpointSelector: {}, ingress: [{}]}", false, false},
		"the whole cluster's":   {"kind: CiliumClusterwideNetworkPolicy\nmetadata: {name: x}\nspec: {endpointSelector: {matchExpressions: [{key: \"k8s:io.kubernetes.pod.namespace\", operator: In, values: [shop]}]}, egress: [{}]}", false, true},
		"one for nodes":         {"kind: CiliumClusterwideNetworkPolicy\nmetadata: {name: x}\nspec: {nodeSelector: {}, ingress: [{}]}", false, false},
		"several in one":        {"kind: CiliumNetworkPolicy\nmetadata: {namespace: shop}\nspecs: [{endpointSelector: {}, ingress: [{}]}, {endpointSelector: {}, egress: [{}]}]", true, true},
		"without default deny":  {"kind: CiliumNetworkPolicy\nmetadata: {namespace: shop}\nspec: {endpointSelector: {}, ingress: [{}], egress: [{}], enableDefaultDeny: {ingress: false}}", false, true},
		"plain":                 {"kind: NetworkPolicy\nmetadata: {namespace: shop}\nspec: {podSelector: {}}", true, false},
		"plain, both ways":      {"kind: NetworkPolicy\nmetadata: {namespace: shop}\nspec: {podSelector: {matchLabels: {app: queue}}, policyTypes: [Ingress, Egress]}", true, true},
		"plain, for others":     {"kind: NetworkPolicy\nmetadata: {namespace: shop}\nspec: {podSelector: {matchLabels: {app: x}}}", false, false},
	} {
		all, err := objectsOf([]byte("apiVersion: v1\n" + tt.policy))
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %v", what, err)
		}
		if in, egress := guards(all[0], pod); in != tt.in || egress != tt.egress {
			t.Errorf("%s: ingress %t, egress %t", what, in, egress)
		}
	}
}

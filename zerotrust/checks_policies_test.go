package zerotrust

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestPolicyDrift(t *testing.T) {
	read := func() []unstructured.Unstructured {
		text, err := Policies(Precinct99())
		if err != nil {
			t.Fatal(err)
		}
		all, err := objectsOf(text)
		if err != nil || len(all) != 6 {
			t.Fatalf("%d policies, %v", len(all), err)
		}
		return all
	}
	policy := func(kind, namespace, name string) unstructured.Unstructured {
		return unstructured.Unstructured{Object: object{"kind": kind, "metadata": object{"namespace": namespace, "name": name}}}
	}
	for name, tc := range map[string]struct {
		change func([]unstructured.Unstructured) []unstructured.Unstructured
		want   string
	}{
		"as derived": {func(p []unstructured.Unstructured) []unstructured.Unstructured { return p }, "[]"},
		"one deleted": {func(p []unstructured.Unstructured) []unstructured.Unstructured { return p[1:] },
			"[CiliumNetworkPolicy 99-apps/zerotrust-frontend is missing]"},
		"one too wide": {func(p []unstructured.Unstructured) []unstructured.Unstructured {
			spec := p[1].Object["spec"].(object)
			spec["ingress"].([]any)[0].(object)["fromEndpoints"] = []any{object{"matchLabels": object{namespaceLabel: "99-apps"}}}
			return p
		}, "[CiliumNetworkPolicy 99-apps/zerotrust-backend is another than the derived one]"},
		"more of them": {func(p []unstructured.Unstructured) []unstructured.Unstructured {
			return append(p, policy("NetworkPolicy", "99-data", "open"), policy("CiliumClusterwideNetworkPolicy", "", "all"), policy("CiliumNetworkPolicy", "elsewhere", "x"))
		}, "[CiliumClusterwideNetworkPolicy /all is not derived NetworkPolicy 99-data/open is not derived]"},
	} {
		if got := fmt.Sprint(policyDrift(read(), tc.change(read()), Precinct99().Namespaces())); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

package zerotrust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

var clusterwidePolicies = schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: "ciliumclusterwidenetworkpolicies"}

// The kinds of policies that can open or shut an edge.
var policyKinds = []schema.GroupVersionResource{
	{Group: "cilium.io", Version: "v2", Resource: "ciliumnetworkpolicies"},
	clusterwidePolicies,
	{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
}

// checkPolicies compares the policies of the intent's namespaces, and those of the whole
// cluster, with the derived ones. The matrix alone would not see one that is too wide while
// the other end of each edge still denies it.
func (s *Stack) checkPolicies(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "the derived policies, and no other", Source: "API server"}
	derived, err := derivedPolicies(s.cfg.Intent)
	if err != nil {
		return ev, err
	}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	var live []unstructured.Unstructured
	for _, kind := range policyKinds {
		list, err := client.Dynamic().Resource(kind).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue // the cluster has no such kind, so none of them
		}
		if err != nil {
			return ev, fmt.Errorf("listing %s: %w", kind.Resource, err)
		}
		live = append(live, list.Items...)
	}
	for _, o := range live {
		ev.Details = append(ev.Details, policyKey(o))
	}
	ev.Got = fmt.Sprintf("%d policies, as derived", len(derived))
	if wrong := policyDrift(derived, live, s.cfg.Intent.Namespaces()); len(wrong) > 0 {
		return ev, phase.Want(ev.Want, fmt.Sprint(wrong))
	}
	return ev, nil
}

// derivedPolicies are what Policies derives, read.
func derivedPolicies(in Intent) ([]unstructured.Unstructured, error) {
	text, err := Policies(in)
	if err != nil {
		return nil, err
	}
	return objectsOf(text)
}

func policyKey(o unstructured.Unstructured) string {
	return fmt.Sprintf("%s %s/%s", o.GetKind(), o.GetNamespace(), o.GetName())
}

// policyDrift tells what separates the live policies of the namespaces, and of the whole
// cluster, from the derived ones.
func policyDrift(derived, live []unstructured.Unstructured, namespaces []string) []string {
	spec := func(o unstructured.Unstructured) string {
		text, _ := json.Marshal(o.Object["spec"]) // what came as JSON goes as JSON
		return string(text)
	}
	have := map[string]string{}
	var wrong []string
	for _, o := range live {
		if o.GetNamespace() == "" || slices.Contains(namespaces, o.GetNamespace()) {
			have[policyKey(o)] = spec(o)
		}
	}
	for _, o := range derived {
		switch got, there := have[policyKey(o)]; {
		case !there:
			wrong = append(wrong, policyKey(o)+" is missing")
		case got != spec(o):
			wrong = append(wrong, policyKey(o)+" is another than the derived one")
		}
		delete(have, policyKey(o))
	}
	for key := range have {
		wrong = append(wrong, key+" is not derived")
	}
	slices.Sort(wrong)
	return wrong
}

// objectsOf reads a YAML stream.
func objectsOf(text []byte) ([]unstructured.Unstructured, error) {
	var all []unstructured.Unstructured
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var o unstructured.Unstructured
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, o)
	}
}

package cilium

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	namespaceLabel      = "k8s:io.kubernetes.pod.namespace"
	serviceAccountLabel = "k8s:io.cilium.k8s.policy.serviceaccount"
)

// Identity is one CiliumIdentity: the number that stands for a set of labels. Its
// mutual authentication entry in SPIRE is "/identity/<ID>".
type Identity struct {
	ID uint32
	// Labels are the security labels with their source prefix, "k8s:app".
	Labels map[string]string
	// Namespace and ServiceAccount are those of the pods, out of Labels.
	Namespace, ServiceAccount string
}

// Identities are all CiliumIdentity objects, by number. Reserved identities have no
// object and are not among them.
func Identities(ctx context.Context, cluster *rest.Config) ([]Identity, error) {
	client, err := connect(cluster)
	if err != nil {
		return nil, err
	}
	return identities(ctx, client.Dynamic())
}

func identities(ctx context.Context, d dynamic.Interface) ([]Identity, error) {
	var out []Identity
	err := list(ctx, d, "ciliumidentities", "", func(o unstructured.Unstructured) error {
		id, err := strconv.ParseUint(o.GetName(), 10, 32)
		if err != nil {
			return fmt.Errorf("CiliumIdentity %q has no number for a name", o.GetName())
		}
		labels, _, err := unstructured.NestedStringMap(o.Object, "security-labels")
		if err != nil {
			return fmt.Errorf("CiliumIdentity %s: %w", o.GetName(), err)
		}
		out = append(out, Identity{ID: uint32(id), Labels: labels, Namespace: labels[namespaceLabel], ServiceAccount: labels[serviceAccountLabel]})
		return nil
	})
	slices.SortFunc(out, func(a, b Identity) int { return cmp.Compare(a.ID, b.ID) })
	return out, err
}

// TouchIdentities has Cilium's operator look at the identities again now. An entry in
// SPIRE that it could not make, because SPIRE was not there yet, it otherwise tries
// again after twice as long each time. An identity that is gone is fine.
func TouchIdentities(ctx context.Context, cluster *rest.Config, ids ...uint32) error {
	client, err := connect(cluster)
	if err != nil {
		return err
	}
	return touchIdentities(ctx, client.Dynamic(), time.Now(), ids)
}

func touchIdentities(ctx context.Context, d dynamic.Interface, now time.Time, ids []uint32) error {
	// Any change is an event to the operator. Its own garbage collector writes such
	// annotations too.
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{"zerotrust/touched":%q}}}`, now.UTC().Format(time.RFC3339Nano))
	for _, id := range ids {
		_, err := d.Resource(resourceOf("ciliumidentities")).Patch(ctx, fmt.Sprint(id), types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("cilium: touch CiliumIdentity %d: %w", id, err)
		}
	}
	return nil
}

// Endpoint is one pod as Cilium sees it.
type Endpoint struct {
	Namespace, Pod string
	// Identity is the number of its Identity; 0 while it has none.
	Identity uint32
	// State is "ready" once policy is enforced for it.
	State string
	// IPs are its addresses, IPv4 first; Node is its node's address.
	IPs  []string
	Node string
}

// Endpoints are the CiliumEndpoints of a namespace, of all namespaces if it is "",
// by namespace and pod.
func Endpoints(ctx context.Context, cluster *rest.Config, namespace string) ([]Endpoint, error) {
	client, err := connect(cluster)
	if err != nil {
		return nil, err
	}
	return endpoints(ctx, client.Dynamic(), namespace)
}

func endpoints(ctx context.Context, d dynamic.Interface, namespace string) ([]Endpoint, error) {
	var out []Endpoint
	err := list(ctx, d, "ciliumendpoints", namespace, func(o unstructured.Unstructured) error {
		e := Endpoint{Namespace: o.GetNamespace(), Pod: o.GetName()}
		id, _, err := unstructured.NestedInt64(o.Object, "status", "identity", "id")
		if err != nil {
			return fmt.Errorf("CiliumEndpoint %s/%s: %w", e.Namespace, e.Pod, err)
		}
		e.Identity = uint32(id)
		e.State, _, _ = unstructured.NestedString(o.Object, "status", "state")
		e.Node, _, _ = unstructured.NestedString(o.Object, "status", "networking", "node")
		addresses, _, _ := unstructured.NestedSlice(o.Object, "status", "networking", "addressing")
		for _, family := range []string{"ipv4", "ipv6"} {
			for _, a := range addresses {
				if m, ok := a.(map[string]any); ok {
					if ip, ok := m[family].(string); ok && ip != "" {
						e.IPs = append(e.IPs, ip)
					}
				}
			}
		}
		out = append(out, e)
		return nil
	})
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod))
	})
	return out, err
}

// list goes through all objects of one of Cilium's kinds, a page at a time.
func list(ctx context.Context, d dynamic.Interface, resource, namespace string, each func(unstructured.Unstructured) error) error {
	opts := metav1.ListOptions{Limit: 500}
	for {
		page, err := d.Resource(resourceOf(resource)).Namespace(namespace).List(ctx, opts)
		if err != nil {
			return fmt.Errorf("cilium: list %s (is Cilium installed and its operator running?): %w", resource, err)
		}
		for _, o := range page.Items {
			if err := each(o); err != nil {
				return fmt.Errorf("cilium: list %s: %w", resource, err)
			}
		}
		if opts.Continue = page.GetContinue(); opts.Continue == "" {
			return nil
		}
	}
}

func resourceOf(plural string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Group: "cilium.io", Version: "v2", Resource: plural}
}

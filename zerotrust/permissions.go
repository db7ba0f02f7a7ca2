package zerotrust

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// VerifierGroup is who VerifierRoles gives the rights to.
const VerifierGroup = "zerotrust:verifiers"

// permission is one right in one namespace.
type permission struct{ namespace, verb, resource, subresource string }

func (p permission) String() string {
	return fmt.Sprintf("%s %s in namespace %s", p.verb, strings.TrimSuffix(p.resource+"/"+p.subresource, "/"), p.namespace)
}

// verifierPermissions are what VerifyPhases need: to find pods, to add a prober to them and
// run it there, and to reach Hubble Relay.
func verifierPermissions(in Intent) []permission {
	var all []permission
	for _, ns := range in.Namespaces() {
		all = append(all,
			permission{ns, "get", "pods", ""}, permission{ns, "list", "pods", ""},
			permission{ns, "patch", "pods", "ephemeralcontainers"}, permission{ns, "create", "pods", "exec"},
		)
	}
	return append(all,
		permission{relayNamespace, "list", "pods", ""}, permission{relayNamespace, "get", "pods", ""},
		permission{relayNamespace, "create", "pods", "portforward"},
	)
}

// relayNamespace is where Hubble Relay is looked for.
const relayNamespace = "kube-system"

// VerifierRoles derives the rights that VerifyPhases need and nothing more, as a YAML
// stream: a Role for each namespace, bound to VerifierGroup.
func VerifierRoles(in Intent) ([]byte, error) {
	rules := map[string][]any{}
	var order []string
	for _, p := range verifierPermissions(in) {
		if rules[p.namespace] == nil {
			order = append(order, p.namespace)
		}
		rules[p.namespace] = append(rules[p.namespace], object{
			"apiGroups": []any{""}, "resources": []any{strings.TrimSuffix(p.resource+"/"+p.subresource, "/")}, "verbs": []any{p.verb},
		})
	}
	var all []object
	for _, ns := range order {
		meta := func() object { return object{"name": "zerotrust-verifier", "namespace": ns, "labels": managed()} }
		all = append(all,
			object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta(), "rules": rules[ns]},
			object{
				"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta(),
				"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "zerotrust-verifier"},
				"subjects": []any{object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": VerifierGroup}},
			})
	}
	return stream(all)
}

// checkPermissions asks the API server for each right.
func (s *Stack) checkPermissions(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "every right that is needed", Source: "API server: SelfSubjectAccessReview"}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	var missing []string
	all := verifierPermissions(s.cfg.Intent)
	for _, p := range all {
		review, err := client.Clientset().AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: p.namespace, Verb: p.verb, Resource: p.resource, Subresource: p.subresource,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			return ev, fmt.Errorf("asking whether one may %s: %w", p, err)
		}
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %t", p, review.Status.Allowed))
		if !review.Status.Allowed {
			missing = append(missing, p.String())
		}
	}
	ev.Got = fmt.Sprintf("%d of %d", len(all)-len(missing), len(all))
	if len(missing) > 0 {
		slices.Sort(missing)
		return ev, phase.Want(ev.Want, "missing: "+strings.Join(missing, "; "))
	}
	return ev, nil
}

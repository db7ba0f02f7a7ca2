package zerotrust

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// VerifierGroup is who VerifierRoles gives the rights to.
const VerifierGroup = "zerotrust:verifiers"

// verifierRole is the name of each Role, and of the ClusterRole, that VerifierRoles derives.
const verifierRole = "zerotrust-verifier"

// permission is one right, in one namespace or, if that is "", in the whole cluster.
type permission struct {
	namespace, verb       string
	group                 string // API group
	resource, subresource string
	name                  string // of the only object, "" for all
}

func (p permission) String() string {
	what := p.resources()
	if p.group != "" {
		what += "." + p.group
	}
	if p.name != "" {
		what += " " + p.name
	}
	if p.namespace == "" {
		return fmt.Sprintf("%s %s in the whole cluster", p.verb, what)
	}
	return fmt.Sprintf("%s %s in namespace %s", p.verb, what, p.namespace)
}

func (p permission) resources() string {
	return strings.TrimSuffix(p.resource+"/"+p.subresource, "/")
}

// rule is where VerifierRoles grants it.
func (p permission) rule() string {
	if p.namespace == "" {
		return "ClusterRole " + verifierRole
	}
	return fmt.Sprintf("Role %s/%s", p.namespace, verifierRole)
}

// verifierPermissions are what VerifyPhases cannot do without: to find pods, to add a prober
// to them and run it there, and to reach Hubble Relay.
func verifierPermissions(in Intent) []permission {
	var all []permission
	for _, ns := range in.Namespaces() {
		all = append(all,
			permission{namespace: ns, verb: "get", resource: "pods"}, permission{namespace: ns, verb: "list", resource: "pods"},
			permission{namespace: ns, verb: "patch", resource: "pods", subresource: "ephemeralcontainers"},
			permission{namespace: ns, verb: "create", resource: "pods", subresource: "exec"},
		)
	}
	return append(all,
		permission{namespace: relayNamespace, verb: "list", resource: "pods"}, permission{namespace: relayNamespace, verb: "get", resource: "pods"},
		permission{namespace: relayNamespace, verb: "create", resource: "pods", subresource: "portforward"},
	)
}

// Rights of meshPermissions that checks speak of when they miss them.
var (
	listNodes       = permission{verb: "list", resource: "nodes"}
	listAllPods     = permission{verb: "list", resource: "pods"}
	listClusterwide = permission{verb: "list", group: "cilium.io", resource: "ciliumclusterwidenetworkpolicies"}
)

func getConfig(name string) permission {
	return permission{verb: "get", resource: "configmaps", name: name}
}

// meshPermissions are what VerifyPhases need to look at Cilium and SPIRE, wherever they are,
// at namespaces and Services. Without them less is told, and the edges are proven all the same.
func meshPermissions(in Intent) []permission {
	var all []permission
	for _, ns := range in.Namespaces() {
		all = append(all,
			permission{namespace: ns, verb: "get", resource: "namespaces", name: ns},
			permission{namespace: ns, verb: "list", resource: "services"},
			permission{namespace: ns, verb: "list", group: "cilium.io", resource: "ciliumnetworkpolicies"},
			permission{namespace: ns, verb: "list", group: "networking.k8s.io", resource: "networkpolicies"},
		)
	}
	return append(all,
		listNodes, listAllPods, listClusterwide,
		getConfig(ciliumConfigMap), getConfig(spireAgentConfigMap), getConfig(spireServerConfigMap),
		permission{verb: "get", resource: "services", name: spireService},
	)
}

// relayNamespace is where Hubble Relay is looked for first.
const relayNamespace = "kube-system"

// VerifierRoles derives the rights that VerifyPhases need and nothing more, as a YAML
// stream: a Role for each namespace and a ClusterRole for what is looked for in all of them,
// bound to VerifierGroup. Nothing in the ClusterRole changes anything, nor shows a Secret.
func VerifierRoles(in Intent) ([]byte, error) {
	rules := map[string][]any{}
	var order []string
	for _, p := range append(verifierPermissions(in), meshPermissions(in)...) {
		if rules[p.namespace] == nil {
			order = append(order, p.namespace)
		}
		rule := object{"apiGroups": []any{p.group}, "resources": []any{p.resources()}, "verbs": []any{p.verb}}
		if p.name != "" {
			rule["resourceNames"] = []any{p.name}
		}
		rules[p.namespace] = append(rules[p.namespace], rule)
	}
	var all []object
	for _, ns := range order {
		scope := ""
		if ns == "" {
			scope = "Cluster"
		}
		meta := func() object {
			m := object{"name": verifierRole, "labels": managed()}
			if ns != "" {
				m["namespace"] = ns
			}
			return m
		}
		all = append(all,
			object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": scope + "Role", "metadata": meta(), "rules": rules[ns]},
			object{
				"apiVersion": "rbac.authorization.k8s.io/v1", "kind": scope + "RoleBinding", "metadata": meta(),
				"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": scope + "Role", "name": verifierRole},
				"subjects": []any{object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": VerifierGroup}},
			})
	}
	return stream(all)
}

// checkPermissions asks the API server for each right. Those to look at the mesh are told of
// alone: what needs them says so itself.
func (s *Stack) checkPermissions(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "every right that is needed", Source: "API server: SelfSubjectAccessReview"}
	needed, useful := verifierPermissions(s.cfg.Intent), meshPermissions(s.cfg.Intent)
	var missing []string
	less := 0
	for i, p := range slices.Concat(needed, useful) {
		may, err := s.may(ctx, p)
		if err != nil {
			return ev, err
		}
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %t", p, may))
		switch {
		case may:
		case i < len(needed):
			missing = append(missing, p.String())
		default:
			less++
		}
	}
	ev.Got = fmt.Sprintf("%d of %d, and %d of %d to look at Cilium, SPIRE, policies and Services",
		len(needed)-len(missing), len(needed), len(useful)-less, len(useful))
	if len(missing) > 0 {
		slices.Sort(missing)
		return ev, phase.Want(ev.Want, "missing: "+strings.Join(missing, "; "))
	}
	return ev, nil
}

func (s *Stack) may(ctx context.Context, p permission) (bool, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return false, err
	}
	review, err := client.Clientset().AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: p.namespace, Verb: p.verb, Group: p.group, Resource: p.resource, Subresource: p.subresource, Name: p.name,
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("asking whether one may %s: %w", p, err)
	}
	return review.Status.Allowed, nil
}

// named is an error of the API server, with the right that it misses where it is one of that.
func (p permission) named(err error) error {
	if err == nil || !apierrors.IsForbidden(err) {
		return err
	}
	return fmt.Errorf("the right to %s is missing (%s; go run ./examples/derive -intent FILE verifier): %w", p, p.rule(), err)
}

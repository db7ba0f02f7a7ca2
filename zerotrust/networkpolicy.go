package zerotrust

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/org/spire-vault-99-action/spire/deploy"
)

// NetworkPolicies derives one plain Kubernetes NetworkPolicy for each workload, as a YAML
// stream, for clusters without Cilium. They say less than Policies do: they select pods by
// their labels, which whoever may change pods can put on any; they authenticate nobody, so
// an edge that asks for it is in the annotation zerotrust/not-enforced of the policy where it
// arrives; and they know no DNS names, so an edge to a host is an error.
//
// podNetworks are the cluster's, such as 10.244.0.0/16: what is outside is whatever is not
// in them, nodes included. They are needed if an edge is from Outside.
func NetworkPolicies(in Intent, podNetworks ...string) ([]byte, error) {
	var faults []error
	for _, n := range podNetworks {
		if _, err := netip.ParsePrefix(n); err != nil {
			faults = append(faults, fmt.Errorf("pod network %q: %w", n, err))
		}
	}
	for _, e := range in.Edges {
		if e.host() != "" {
			faults = append(faults, fmt.Errorf("edge %s: a NetworkPolicy knows no DNS names", e))
		}
		if e.From == Outside && len(podNetworks) == 0 {
			faults = append(faults, fmt.Errorf("edge %s: the pods' networks are needed to tell what is outside", e))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("intent %s as NetworkPolicies: %w", in.Name, err)
	}
	var all []object
	for _, w := range in.Workloads {
		all = append(all, in.networkPolicy(w, podNetworks))
	}
	return stream(all)
}

func (in Intent) networkPolicy(w Workload, podNetworks []string) object {
	ingress, egress := []any{}, []any{object{
		"to":    []any{podsOf("kube-system", map[string]string{"k8s-app": "kube-dns"})},
		"ports": []any{object{"port": 53, "protocol": "UDP"}, object{"port": 53, "protocol": "TCP"}},
	}}
	var notEnforced []string
	for _, e := range in.Edges {
		ports := []any{object{"port": e.Port.Number, "protocol": e.Port.Protocol()}}
		if e.To == w.Name {
			var from object
			switch source, _ := in.Workload(e.From); {
			case e.From == Outside:
				from = object{"ipBlock": object{"cidr": "0.0.0.0/0", "except": podNetworks}}
			case e.namespace() != "":
				from = podsOf(e.namespace(), nil)
			default:
				from = podsOf(source.Namespace, source.labels())
			}
			ingress = append(ingress, object{"from": []any{from}, "ports": ports})
			if e.Authenticated {
				notEnforced = append(notEnforced, "authentication of "+e.String())
			}
		} else if to, known := in.Workload(e.To); known && e.starts(w) {
			egress = append(egress, object{"to": []any{podsOf(to.Namespace, to.labels())}, "ports": ports})
		}
	}
	if w.Runs == Vault {
		egress = append(egress, object{
			"to":    []any{podsOf("spire-system", map[string]string{"app.kubernetes.io/name": "spire-oidc"})},
			"ports": []any{object{"port": deploy.KeysPort, "protocol": "TCP"}},
		})
	}
	meta := object{"name": PolicyName(w), "namespace": w.Namespace, "labels": managed()}
	if len(notEnforced) > 0 {
		meta["annotations"] = object{"zerotrust/not-enforced": strings.Join(notEnforced, ", ")}
	}
	return object{
		"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta,
		"spec": object{
			"podSelector": object{"matchLabels": w.labels()},
			"policyTypes": []any{"Ingress", "Egress"}, "ingress": ingress, "egress": egress,
		},
	}
}

// podsOf selects pods of a namespace, all of them if there are no labels.
func podsOf(namespace string, labels map[string]string) object {
	peer := object{"namespaceSelector": object{"matchLabels": object{"kubernetes.io/metadata.name": namespace}}}
	if len(labels) > 0 {
		peer["podSelector"] = object{"matchLabels": labels}
	}
	return peer
}

// labels are those of the workload's pods.
func (w Workload) labels() map[string]string {
	if len(w.Labels) > 0 {
		return w.Labels
	}
	return map[string]string{"app": w.Name}
}

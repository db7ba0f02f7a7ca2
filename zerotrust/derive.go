package zerotrust

import (
	"bytes"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"sigs.k8s.io/yaml"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/deploy"
)

// Entries derives the SPIRE entries: the node alias, those of SPIRE's own OIDC
// provider and of Cilium, and one for each workload.
func Entries(in Intent) ([]spire.Entry, error) {
	td, err := spiffeid.TrustDomainFromString(in.TrustDomain)
	if err != nil {
		return nil, fmt.Errorf("intent: trust domain: %w", err)
	}
	all := deploy.Entries(deploy.Config{TrustDomain: td, ClusterName: in.Name})
	all = append(all, spire.CiliumEntries(td, in.Name)...)
	for _, w := range in.Workloads {
		all = append(all, spire.WorkloadEntry(td, in.Name, w.Namespace, w.Account()))
	}
	return all, nil
}

// object is a Kubernetes object on its way to YAML.
type object = map[string]any

// PolicyName is the name of the policy that guards the workload.
func PolicyName(w Workload) string { return "zerotrust-" + w.Name }

// accountLabel is the label that Cilium derives from a pod's service account.
// Nobody can put it on a pod by hand, as one can with a plain label.
const (
	accountLabel   = "io.cilium.k8s.policy.serviceaccount"
	namespaceLabel = "k8s:io.kubernetes.pod.namespace"
)

// Policies derives one CiliumNetworkPolicy for each workload, as a YAML stream.
// Each denies all traffic both ways but for DNS and the workload's edges: an
// edge is opened on both its sides and authenticated where it arrives. (The
// kubelet's health checks come from the node itself, which Cilium lets through.)
func Policies(in Intent) ([]byte, error) {
	var all []object
	for _, w := range in.Workloads {
		ingress, egress := []any{}, []any{dnsRule()}
		for _, e := range in.Edges {
			if e.To == w.Name {
				from, _ := in.Workload(e.From)
				rule := object{"fromEndpoints": []any{selector(from)}, "toPorts": tcp(e.Port)}
				if e.Authenticated {
					rule["authentication"] = object{"mode": "required"}
				}
				ingress = append(ingress, rule)
			}
			if e.From == w.Name {
				to, _ := in.Workload(e.To)
				egress = append(egress, object{"toEndpoints": []any{selector(to)}, "toPorts": tcp(e.Port)})
			}
		}
		if len(ingress) == 0 {
			ingress = append(ingress, object{}) // selects nobody: deny all
		}
		all = append(all, object{
			"apiVersion": "cilium.io/v2",
			"kind":       "CiliumNetworkPolicy",
			"metadata":   object{"name": PolicyName(w), "namespace": w.Namespace, "labels": managed()},
			"spec": object{
				"description":      "derived from the intent " + in.Name,
				"endpointSelector": object{"matchLabels": object{accountLabel: w.Account()}},
				"ingress":          ingress,
				"egress":           egress,
			},
		})
	}
	return stream(all)
}

func selector(w Workload) object {
	return object{"matchLabels": object{namespaceLabel: w.Namespace, accountLabel: w.Account()}}
}

func tcp(port int) []any {
	return []any{object{"ports": []any{object{"port": fmt.Sprint(port), "protocol": "TCP"}}}}
}

func dnsRule() object {
	return object{
		"toEndpoints": []any{object{"matchLabels": object{namespaceLabel: "kube-system", "k8s-app": "kube-dns"}}},
		"toPorts": []any{object{"ports": []any{
			object{"port": "53", "protocol": "UDP"}, object{"port": "53", "protocol": "TCP"},
		}}},
	}
}

func managed() object { return object{"app.kubernetes.io/managed-by": Owner} }

// Manifests derives the workloads' namespaces, service accounts, Deployments and
// Services as a YAML stream. image names the image of each workload.
func Manifests(in Intent, image map[string]string) ([]byte, error) {
	var all []object
	for _, ns := range in.Namespaces() {
		all = append(all, object{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": object{"name": ns, "labels": object{
				"app.kubernetes.io/managed-by":       Owner,
				"pod-security.kubernetes.io/enforce": "restricted",
			}},
		})
	}
	for _, w := range in.Workloads {
		if image[w.Name] == "" {
			return nil, fmt.Errorf("intent: workload %s: no image given", w.Name)
		}
		all = append(all, w.objects(image[w.Name])...)
	}
	return stream(all)
}

func (w Workload) objects(image string) []object {
	meta := func() object { return object{"name": w.Name, "namespace": w.Namespace, "labels": managed()} }
	match := object{"app": w.Name}
	var containerPorts, servicePorts []any
	for _, p := range w.Ports {
		containerPorts = append(containerPorts, object{"containerPort": p, "protocol": "TCP"})
		servicePorts = append(servicePorts, object{"name": fmt.Sprintf("tcp-%d", p), "port": p, "protocol": "TCP"})
	}
	container := object{
		"name": w.Name, "image": image, "imagePullPolicy": "IfNotPresent", "args": w.Args,
		"securityContext": object{
			"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": object{"drop": []any{"ALL"}},
		},
		"resources": object{"requests": object{"cpu": "10m", "memory": "16Mi"}, "limits": object{"memory": "64Mi"}},
	}
	if len(containerPorts) > 0 {
		container["ports"] = containerPorts
		container["readinessProbe"] = object{"tcpSocket": object{"port": w.Ports[0]}, "periodSeconds": 2}
	}
	account := meta()
	account["name"] = w.Account()
	all := []object{
		{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account, "automountServiceAccountToken": false},
		{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta(),
			"spec": object{
				"replicas": max(1, w.Replicas),
				"selector": object{"matchLabels": match},
				"template": object{
					"metadata": object{"labels": match},
					"spec": object{
						"serviceAccountName": w.Account(), "automountServiceAccountToken": false,
						"terminationGracePeriodSeconds": 5,
						"securityContext": object{
							"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
							"seccompProfile": object{"type": "RuntimeDefault"},
						},
						"containers": []any{container},
					},
				},
			},
		},
	}
	if len(servicePorts) > 0 {
		all = append(all, object{
			"apiVersion": "v1", "kind": "Service", "metadata": meta(),
			"spec": object{"type": "ClusterIP", "selector": match, "ports": servicePorts},
		})
	}
	return all
}

// stream joins objects to a YAML stream.
func stream(objects []object) ([]byte, error) {
	var out bytes.Buffer
	for _, o := range objects {
		data, err := yaml.Marshal(o)
		if err != nil {
			return nil, err
		}
		out.WriteString("---\n")
		out.Write(data)
	}
	return out.Bytes(), nil
}

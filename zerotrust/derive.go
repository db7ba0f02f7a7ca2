package zerotrust

import (
	"bytes"
	"cmp"
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

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
		ingress, egress := []any{}, []any{}
		var hosts []string
		for _, e := range in.Edges {
			if e.To == w.Name {
				rule := object{"toPorts": toPort(e.Port)}
				switch from, _ := in.Workload(e.From); {
				case e.From == Outside:
					// By way of any node, which may be another one than the pod's.
					rule["fromEntities"] = []any{"world", "host", "remote-node"}
				case e.namespace() != "":
					rule["fromEndpoints"] = []any{object{"matchLabels": object{namespaceLabel: e.namespace()}}}
				default:
					rule["fromEndpoints"] = []any{selector(from)}
				}
				if e.Authenticated {
					rule["authentication"] = object{"mode": "required"}
				}
				ingress = append(ingress, rule)
			}
			if !e.starts(w) || e.To == w.Name {
				continue
			}
			rule := object{"toPorts": toPort(e.Port)}
			if host := e.host(); host != "" {
				rule["toFQDNs"], hosts = []any{object{"matchName": host}}, append(hosts, host)
			} else {
				to, _ := in.Workload(e.To)
				rule["toEndpoints"] = []any{selector(to)}
			}
			egress = append(egress, rule)
		}
		egress = append([]any{dnsRule(hosts)}, egress...)
		if w.Runs == Vault {
			egress = append(egress, oidcRule())
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

func toPort(p Port) []any {
	return []any{object{"ports": []any{object{"port": fmt.Sprint(p.Number), "protocol": p.Protocol()}}}}
}

// dnsRule lets a workload look names up. One that may connect to hosts outside the cluster
// has its lookups go through Cilium's own proxy, which learns the hosts' addresses from
// the answers, and lets no other names out.
func dnsRule(hosts []string) object {
	rule := object{"ports": []any{
		object{"port": "53", "protocol": "UDP"}, object{"port": "53", "protocol": "TCP"},
	}}
	if len(hosts) > 0 {
		names := []any{object{"matchPattern": "**.cluster.local"}}
		for _, host := range hosts {
			names = append(names, object{"matchName": host})
		}
		rule["rules"] = object{"dns": names}
	}
	return object{
		"toEndpoints": []any{object{"matchLabels": object{namespaceLabel: "kube-system", "k8s-app": "kube-dns"}}},
		"toPorts":     []any{rule},
	}
}

// oidcRule lets Vault fetch the keys that JWT-SVIDs are verified with.
func oidcRule() object {
	return object{
		"toEndpoints": []any{object{"matchLabels": object{namespaceLabel: "spire-system", accountLabel: "spire-oidc"}}},
		"toPorts":     toPort(TCP(deploy.KeysPort)),
	}
}

func managed() object { return object{"app.kubernetes.io/managed-by": Owner} }

// Namespaces derives the workloads' namespaces as a YAML stream, and the admission
// policy that guards them. Pod Security's own levels forbid each hostPath or allow all,
// so the policy holds pods to what "restricted" asks, with the Workload API's socket as
// the one exception.
func Namespaces(in Intent) ([]byte, error) {
	var all []object
	for _, ns := range in.Namespaces() {
		all = append(all, object{
			"apiVersion": "v1", "kind": "Namespace",
			"metadata": object{"name": ns, "labels": object{
				"app.kubernetes.io/managed-by":       Owner,
				guardedLabel:                         "true",
				"pod-security.kubernetes.io/enforce": "privileged",
			}},
		})
	}
	docs, err := stream(all)
	return append(docs, admission...), err
}

const guardedLabel = "zerotrust.guarded"

//go:embed manifests/admission.yaml
var admission []byte

// Manifests derives the applications' service accounts, Deployments and Services as a
// YAML stream. image names the image of each that is built from a package; what runs a server, or is
// there already, is left out.
func Manifests(in Intent, image map[string]string) ([]byte, error) {
	var all []object
	for _, w := range in.applications() {
		ref := cmp.Or(w.Image, image[w.Name])
		if ref == "" {
			return nil, fmt.Errorf("intent: workload %s: no image given", w.Name)
		}
		env, err := Environment(in, w)
		if err != nil {
			return nil, err
		}
		all = append(all, w.objects(ref, env)...)
	}
	return stream(all)
}

func (w Workload) objects(image string, env map[string]string) []object {
	meta := func() object { return object{"name": w.Name, "namespace": w.Namespace, "labels": managed()} }
	match := object{"app": w.Name}
	var containerPorts, servicePorts, variables []any
	for _, p := range w.listens() {
		containerPorts = append(containerPorts, object{"containerPort": p.Number, "protocol": p.Protocol()})
		servicePorts = append(servicePorts, object{
			"name": strings.ToLower(fmt.Sprintf("%s-%d", p.Protocol(), p.Number)), "port": p.Number, "protocol": p.Protocol(),
		})
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		variables = append(variables, object{"name": name, "value": env[name]})
	}
	container := object{
		"name": w.Name, "image": image, "imagePullPolicy": "IfNotPresent", "env": variables,
		// So that a container's status says why it ended.
		"terminationMessagePolicy": "FallbackToLogsOnError",
		"securityContext": object{
			"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
			"capabilities": object{"drop": []any{"ALL"}},
		},
		"resources":    object{"requests": object{"cpu": "10m", "memory": "24Mi"}, "limits": object{"memory": "128Mi"}},
		"volumeMounts": []any{object{"name": "spire-socket", "mountPath": socketDir, "readOnly": true}},
	}
	if len(w.Args) > 0 {
		container["args"] = w.Args
	}
	if len(containerPorts) > 0 {
		container["ports"] = containerPorts
	}
	switch {
	case w.HealthPort != 0:
		probe := func(path string, period int) object {
			return object{"httpGet": object{"path": path, "port": w.HealthPort}, "periodSeconds": period, "timeoutSeconds": 3}
		}
		container["startupProbe"] = object{"httpGet": object{"path": "/health/live", "port": w.HealthPort}, "periodSeconds": 1, "failureThreshold": 60}
		container["readinessProbe"], container["livenessProbe"] = probe("/health/ready", 2), probe("/health/live", 10)
	case len(w.Ports) > 0 && !w.Ports[0].UDP:
		container["readinessProbe"] = object{"tcpSocket": object{"port": w.Ports[0].Number}, "periodSeconds": 2}
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
				// The old pod goes when the new one is ready.
				"strategy": object{"rollingUpdate": object{"maxUnavailable": 0, "maxSurge": 1}},
				"template": object{
					"metadata": object{"labels": match},
					"spec": object{
						"serviceAccountName": w.Account(), "automountServiceAccountToken": false,
						"enableServiceLinks":            false,
						"terminationGracePeriodSeconds": 10,
						"securityContext": object{
							"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
							"seccompProfile": object{"type": "RuntimeDefault"},
						},
						"containers": []any{container},
						"volumes": []any{object{
							"name": "spire-socket", "hostPath": object{"path": socketDir, "type": "Directory"},
						}},
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
	if p := w.Publish; p != nil {
		public := meta()
		public["name"] = w.Name + "-public"
		all = append(all, object{
			"apiVersion": "v1", "kind": "Service", "metadata": public,
			"spec": object{"type": "NodePort", "selector": match, "ports": []any{
				object{"name": "public", "port": w.Ports[0].Number, "protocol": "TCP", "nodePort": p.NodePort},
			}},
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

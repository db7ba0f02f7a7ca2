package zerotrust

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// podOn is a pod of an image on a node.
func podOn(namespace, name, node, image string, ready bool, labels map[string]string) corev1.Pod {
	p := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Image: image}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	return p
}

// theirs is a mesh that somebody else set up: Cilium in a namespace of its own, SPIRE as
// spiffe/helm-charts-hardened has it, configured in JSON.
func theirs() mesh {
	m := mesh{
		nodes: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, {ObjectMeta: metav1.ObjectMeta{Name: "n2"}}},
		cfg: map[string]string{
			"enable-policy": "default", "enable-hubble": "true", "mesh-auth-enabled": "true", "mesh-auth-mutual-enabled": "true",
			"mesh-auth-spiffe-trust-domain": "orders.example", "mesh-auth-spire-admin-socket": "/tmp/spire-agent/private/admin.sock",
		},
		agentConf:  `{"agent": {"trust_domain": "orders.example", "socket_path": "/tmp/spire-agent/public/api.sock", "admin_socket_path": "/tmp/spire-agent/private/admin.sock"}}`,
		serverConf: `{"server": {"trust_domain": "orders.example"}}`,
		service:    corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "spire-server", Name: "spire-server"}, Spec: corev1.ServiceSpec{ClusterIP: "10.96.0.9"}},
	}
	for _, n := range []string{"n1", "n2"} {
		m.pods = append(m.pods,
			podOn("cilium", "cilium-"+n, n, "quay.io/cilium/cilium:v1.18.1@sha256:00", true, map[string]string{"k8s-app": "cilium"}),
			podOn("spire-system", "agent-"+n, n, "mirror.example:5000/x/spire-agent:1.12.4", true, map[string]string{"app.kubernetes.io/name": "agent"}),
		)
	}
	asks := podOn("spire-system", "canary-n1", "n1", "mirror.example:5000/x/spire-agent:1.12.4", false, nil)
	asks.Spec.Containers[0].Command = []string{"/opt/spire/bin/spire-agent", "api", "watch"}
	m.pods = append(m.pods, asks,
		podOn("spire-server", "spire-server-0", "n1", "mirror.example:5000/x/spire-server:1.12.4", true, map[string]string{"app.kubernetes.io/name": "server"}),
		podOn("cilium", "hubble-relay-x", "n2", "quay.io/cilium/hubble-relay:v1.18.1", true, map[string]string{"k8s-app": "hubble-relay"}),
	)
	return m
}

// orders is an intent that asks for authentication, or not.
func orders(authenticated bool) Intent {
	return Intent{
		Name: "orders", TrustDomain: "orders.example",
		Workloads: []Workload{{Name: "gateway", Namespace: "shop"}, {Name: "queue", Namespace: "shop", Ports: []Port{TCP(5672)}}},
		Edges:     []Edge{{From: "gateway", To: "queue", Port: TCP(5672), Authenticated: authenticated}},
	}
}

func TestMesh(t *testing.T) {
	forbidden := errors.New("the right is missing")
	drop := func(m *mesh, name string) {
		m.pods = slices.DeleteFunc(m.pods, func(p corev1.Pod) bool { return strings.HasPrefix(p.Name, name) })
	}
	sick := func(m *mesh, name string) {
		for i := range m.pods {
			if m.pods[i].Name == name {
				m.pods[i].Status.Conditions = nil
			}
		}
	}
	check := map[string]func(m mesh, in Intent) (phase.Evidence, error){
		"agents":         func(m mesh, _ Intent) (phase.Evidence, error) { return m.checkAgents() },
		"enforcement":    func(m mesh, _ Intent) (phase.Evidence, error) { return m.checkEnforcement() },
		"relay":          func(m mesh, _ Intent) (phase.Evidence, error) { return m.checkRelay() },
		"authentication": mesh.checkAuthentication,
		"spire":          mesh.checkSPIRE,
		"causes": func(m mesh, in Intent) (phase.Evidence, error) {
			return m.checkCauses(in, m.state(spiffeid.RequireTrustDomainFromString(in.TrustDomain)))
		},
	}
	for _, tt := range []struct {
		what  string
		spoil func(*mesh)
		check string
		want  phase.Status
		says  string
	}{
		{"no Cilium", func(m *mesh) { drop(m, "cilium-") }, "agents", phase.Failed, "label k8s-app=cilium"},
		{"a node without an agent", func(m *mesh) { drop(m, "cilium-n2") }, "agents", phase.Failed, "none on n2: no pod of it is there"},
		{"an agent that is not ready", func(m *mesh) { sick(m, "cilium-n1") }, "agents", phase.Failed, "none on n1: pod cilium/cilium-n1: phase Running, not ready"},
		{"nodes that cannot be listed", func(m *mesh) { m.nodesErr = forbidden }, "agents", phase.Unknown, "the right is missing"},
		{"enforcement off", func(m *mesh) { m.cfg["enable-policy"] = "never" }, "enforcement", phase.Failed, "enable-policy never"},
		{"enforcement always", func(m *mesh) { m.cfg["enable-policy"] = "always" }, "enforcement", phase.Passed, ""},
		{"audit mode", func(m *mesh) { m.cfg["policy-audit-mode"] = "true" }, "enforcement", phase.Failed, "let through and noted"},
		{"a configuration that cannot be read", func(m *mesh) { m.cfgErr = forbidden }, "enforcement", phase.Unknown, "the right is missing"},
		{"authentication off", func(m *mesh) { m.cfg["mesh-auth-enabled"] = "false" }, "authentication", phase.Failed, "got off"},
		{"no mutual authentication", func(m *mesh) { delete(m.cfg, "mesh-auth-mutual-enabled") }, "authentication", phase.Failed, "got off"},
		{"another trust domain", func(m *mesh) { m.cfg["mesh-auth-spiffe-trust-domain"] = "spiffe.cilium" }, "authentication", phase.Failed, "trust domain spiffe.cilium"},
		{"no Relay", func(m *mesh) { drop(m, "hubble-relay") }, "relay", phase.Unknown, "no denial can be told from a time-out"},
		{"a Relay that is not ready", func(m *mesh) { sick(m, "hubble-relay-x") }, "relay", phase.Unknown, "Relay is not ready (pod cilium/hubble-relay-x"},
		{"no SPIRE", func(m *mesh) { drop(m, "agent-"); drop(m, "spire-server") }, "spire", phase.Failed, "named spire-agent"},
		{"a node without SPIRE's agent", func(m *mesh) { drop(m, "agent-n1") }, "spire", phase.Failed, "no agent on n1"},
		{"a SPIRE server that is not ready", func(m *mesh) { sick(m, "spire-server-0") }, "spire", phase.Failed, "pod spire-server/spire-server-0: phase Running"},
		{"a SPIRE server elsewhere", func(m *mesh) { drop(m, "spire-server") }, "spire", phase.Unknown, "outside the cluster"},
		{"pods that cannot be listed", func(m *mesh) { m.podsErr = forbidden }, "spire", phase.Unknown, "the right is missing"},
		{"a headless Service", func(m *mesh) { m.service.Spec.ClusterIP = "None" }, "causes", phase.Failed, "headless-spire-service"},
		{"a Service that is not there", func(m *mesh) { m.serviceErr = errNotThere }, "causes", phase.Failed, "is not there"},
		{"a socket elsewhere", func(m *mesh) { m.cfg["mesh-auth-spire-admin-socket"] = "/run/x.sock" }, "causes", phase.Failed, "admin-socket-differs"},
		{"SPIRE of another trust domain than Cilium", func(m *mesh) { m.cfg["mesh-auth-spiffe-trust-domain"] = "x.example" }, "causes", phase.Failed, "trust-domain-differs"},
		{"no configuration of SPIRE's agent", func(m *mesh) { m.agentConf, m.agentConfErr = "", forbidden }, "causes", phase.Passed, ""},
		{"no configuration at all", func(m *mesh) {
			m.agentConf, m.agentConfErr, m.cfgErr, m.serviceErr = "", forbidden, forbidden, forbidden
		}, "causes", phase.Unknown, "neither"},
	} {
		for name, run := range check {
			if ev, err := run(theirs(), orders(true)); err != nil {
				t.Fatalf("well, and yet %s: %v, %+v", name, err, ev)
			}
		}
		m := theirs()
		tt.spoil(&m)
		ev, err := check[tt.check](m, orders(true))
		if got := statusOf(err); got != tt.want || tt.says != "" && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %s: %v, want %s that says %q; evidence %+v", tt.what, got, err, tt.want, tt.says, ev)
		}
		// Where no edge is authenticated, what has to do with SPIRE is no fault.
		if slices.Contains([]string{"authentication", "spire", "causes"}, tt.check) {
			if ev, err := check[tt.check](m, orders(false)); err != nil {
				t.Errorf("%s, without need: %v, %+v", tt.what, err, ev)
			}
		}
	}
}

func statusOf(err error) phase.Status {
	var mismatch *phase.Mismatch
	switch {
	case err == nil:
		return phase.Passed
	case errors.As(err, &mismatch):
		return phase.Failed
	}
	return phase.Unknown
}

func TestServiceName(t *testing.T) {
	for address, want := range map[string]string{
		"spire-server.spire.svc:8081": "spire-server spire true", "spire-server.spire.svc.cluster.local:8081": "spire-server spire true",
		"10.0.0.1:8081": "  false", "spire.example.org:443": "  false", "": "  false",
	} {
		name, namespace, ok := serviceName(address)
		if got := strings.Join([]string{name, namespace, map[bool]string{true: "true", false: "false"}[ok]}, " "); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

func TestImages(t *testing.T) {
	for ref, want := range map[string][2]string{
		"ghcr.io/spiffe/spire-agent:1.13.3":    {"spire-agent", "1.13.3"},
		"r:5000/spire-agent@sha256:00":         {"spire-agent", ""},
		"r:5000/a/spire-agent:1@sha256:00":     {"spire-agent", "1"},
		"cgr.dev/chainguard/spire-server:late": {"spire-server", "late"},
	} {
		if got := [2]string{imageName(ref), imageTag(ref)}; got != want {
			t.Errorf("%s: %q", ref, got)
		}
	}
}

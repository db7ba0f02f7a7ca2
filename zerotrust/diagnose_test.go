package zerotrust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/internal/golden"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/deploy"
)

// healthy is the state of a cluster as we bring it up.
func healthy(t *testing.T) state {
	t.Helper()
	in := Precinct99()
	td := spiffeid.RequireTrustDomainFromString(in.TrustDomain)
	manifests, err := deploy.Manifests(deploy.Config{TrustDomain: td, ClusterName: in.Name})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := Entries(in)
	if err != nil {
		t.Fatal(err)
	}
	entries = append(entries, spire.Entry{SPIFFEID: spiffeid.RequireFromPath(td, "/identity/4711"), ParentID: spire.CiliumOperatorID(td)})
	s := state{
		seen: ^sight(0), td: td, cluster: in.Name, entries: entries, relayReady: 1, relayWanted: 1,
		identities: []cilium.Identity{{ID: 4711, Namespace: "99-apps", ServiceAccount: "backend"}},
		agents:     []spire.Agent{{Selectors: []spire.Selector{{Type: "k8s_psat", Value: "agent_node_name:worker"}}}},
		ciliumConfig: map[string]string{
			"mesh-auth-spiffe-trust-domain": in.TrustDomain, "mesh-auth-spire-admin-socket": "/run/spire/admin-sockets/admin.sock",
		},
		pods: []corev1.Pod{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "spire-system", Name: "spire-agent-x", Labels: map[string]string{"app.kubernetes.io/name": "spire-agent"}},
			Spec:       corev1.PodSpec{NodeName: "worker", Containers: []corev1.Container{{Image: SPIREAgent}}},
		}},
	}
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		var m corev1.ConfigMap
		if err := dec.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if text := m.Data["agent.conf"]; text != "" {
			s.agentConf = text
		}
		if text := m.Data["server.conf"]; text != "" {
			s.serverConf = text
		}
	}
	return s
}

// Each cause is found where it is, and no other one with it.
func TestDiagnose(t *testing.T) {
	if found := diagnose(healthy(t)); len(found) > 0 {
		t.Fatalf("in a healthy cluster: %q", found)
	}
	replace := func(s *string, old, with string) {
		t.Helper()
		if !strings.Contains(*s, old) {
			t.Fatalf("there is no %q in\n%s", old, *s)
		}
		*s = strings.ReplaceAll(*s, old, with)
	}
	entry := func(s *state, id spiffeid.ID) *spire.Entry {
		for i := range s.entries {
			if s.entries[i].SPIFFEID == id {
				return &s.entries[i]
			}
		}
		t.Fatalf("no entry %s", id)
		return nil
	}
	spoil := map[string]func(*state){
		"trust-domain-differs":   func(s *state) { s.ciliumConfig["mesh-auth-spiffe-trust-domain"] = "spiffe.cilium" },
		"headless-spire-service": func(s *state) { s.spireService.Spec.ClusterIP = "None" },
		"admin-socket-in-workload-directory": func(s *state) {
			replace(&s.agentConf, "/run/spire/admin-sockets/admin.sock", "/run/spire/sockets/private/admin.sock")
			s.ciliumConfig["mesh-auth-spire-admin-socket"] = "/run/spire/sockets/private/admin.sock"
		},
		"admin-socket-differs": func(s *state) { s.ciliumConfig["mesh-auth-spire-admin-socket"] = "/run/spire/sockets/admin.sock" },
		"delegate-not-authorised": func(s *state) {
			replace(&s.agentConf, spire.CiliumAgentID(s.td).String(), "spiffe://demo.local/ns/kube-system/sa/cilium")
		},
		"operator-not-admin": func(s *state) { replace(&s.serverConf, spire.CiliumOperatorID(s.td).String(), "spiffe://demo.local/x") },
		"entry-missing":      func(s *state) { entry(s, spire.CiliumAgentID(s.td)).SPIFFEID = spiffeid.RequireFromPath(s.td, "/x") },
		"entry-parented-to-one-agent": func(s *state) {
			entry(s, spire.CiliumAgentID(s.td)).ParentID = spiffeid.RequireFromPath(s.td, "/spire/agent/k8s_psat/precinct-99/0f3c")
		},
		"entry-with-the-wrong-selector": func(s *state) {
			entry(s, spire.CiliumOperatorID(s.td)).Selectors = []spire.Selector{{Type: "k8s", Value: "ns:cilium"}}
		},
		"node-without-agent": func(s *state) { s.agents = nil },
		"foreign-controller-manager": func(s *state) {
			s.pods = append(s.pods, corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "ghcr.io/spiffe/spire-controller-manager:0.6.3"}}}})
		},
		"identities-not-registered": func(s *state) { s.entries = s.entries[:len(s.entries)-1] },
		"relay-down":                func(s *state) { s.relayReady = 0 },
	}
	for _, c := range Causes() {
		if spoil[c.Name] == nil {
			t.Errorf("cause %s is not tried", c.Name)
			continue
		}
		s := healthy(t)
		spoil[c.Name](&s)
		found := diagnose(s)
		blind := s
		blind.seen &^= c.needs
		if found := diagnose(blind); c.needs == 0 || len(found) > 0 {
			t.Errorf("%s: found without having been seen: %q", c.Name, found)
		}
		if len(found) != 1 || !strings.HasPrefix(found[0], "cause "+c.Name+": "+c.Why) || !strings.HasSuffix(found[0], c.Fix) {
			t.Errorf("%s: found %q", c.Name, found)
		}
	}
}

// docs/troubleshooting.md is written from the causes, so that the two cannot drift.
func TestTroubleshootingGuide(t *testing.T) {
	var out bytes.Buffer
	fmt.Fprint(&out, "# Troubleshooting Cilium with SPIRE\n\n",
		"When a check of the phases cilium, spire, identities or 4C does not pass (or, on somebody else's\n",
		"cluster, check \"known causes\" of phase mesh, as far as they can be seen there), its evidence names\n",
		"the causes below that are found in the cluster, each with the line that shows it. This page is written from the same list\n",
		"(`zerotrust/diagnose.go`; `go test ./zerotrust -update`).\n")
	for _, c := range Causes() {
		fmt.Fprintf(&out, "\n## %s\n\n**Seen:** %s\n\n**Because:** %s\n\n**Mend it:** %s\n", c.Name, c.Symptom, c.Why, c.Fix)
	}
	golden.Equal(t, "../docs/troubleshooting.md", out.Bytes())
}

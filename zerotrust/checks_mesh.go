package zerotrust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// meshChecks compare Cilium and SPIRE, found where they are, with what the intent needs.
func (s *Stack) meshChecks() []phase.Check {
	l := &looker{stack: s}
	judged := func(judge func(mesh) (phase.Evidence, error)) func(context.Context) (phase.Evidence, error) {
		return func(ctx context.Context) (phase.Evidence, error) {
			m, err := l.look(ctx)
			if err != nil {
				return phase.Evidence{}, err
			}
			ev, err := judge(m)
			ev.Source = "API server"
			return ev, err
		}
	}
	return []phase.Check{
		{
			Name: "cilium agents", Doc: "A ready agent of Cilium is on every node.",
			Hint: "kubectl get pods -A -o wide -l k8s-app=cilium",
			Run:  judged(mesh.checkAgents),
		},
		{
			Name: "policy enforcement", Doc: "Cilium enforces policies: its mode is not \"never\", and it does not merely audit them.",
			Hint: "kubectl -n kube-system get configmap cilium-config -o yaml: enable-policy, policy-audit-mode (policyEnforcementMode, policyAuditMode of its chart)",
			Run:  judged(mesh.checkEnforcement),
		},
		{
			Name: "mutual authentication", Doc: "It is on, and of the intent's trust domain, if an edge asks for it.",
			Hint: "authentication.enabled, authentication.mutual.spire.enabled and authentication.mutual.spire.trustDomain of Cilium's chart",
			Run:  judged(func(m mesh) (phase.Evidence, error) { return m.checkAuthentication(s.cfg.Intent) }),
		},
		{
			Name: "hubble relay", Doc: "Hubble Relay is ready: what the edges' checks are told by.",
			Hint: "hubble.enabled and hubble.relay.enabled of Cilium's chart; kubectl get pods -A -l k8s-app=hubble-relay",
			Run:  judged(mesh.checkRelay),
		},
		{
			Name: "spire", Doc: "A ready SPIRE server, and a ready agent on every node, if an edge is authenticated.",
			Hint: "kubectl get pods -A -o wide | grep spire",
			Run:  judged(func(m mesh) (phase.Evidence, error) { return m.checkSPIRE(s.cfg.Intent) }),
		},
		{
			Name: "known causes", Doc: "None of the known causes is there why Cilium and SPIRE would not work together, as far as they can be seen without access to SPIRE.",
			Hint: "docs/troubleshooting.md",
			Run:  judged(func(m mesh) (phase.Evidence, error) { return m.checkCauses(s.cfg.Intent, m.state(s.td)) }),
		},
		{
			Name: "policies that select", Doc: "Some policy selects each workload both ways. Which ones, and how they differ from the derived ones, is told; they may be written in another way and be as good.",
			Hint: "kubectl get cnp,ccnp,netpol -A; go run ./examples/derive -intent FILE policies",
			Run:  s.checkSelected,
		},
	}
}

func (m mesh) checkAgents() (phase.Evidence, error) {
	ev := phase.Evidence{Want: fmt.Sprintf("a ready agent on each of %d nodes", len(m.nodes))}
	if err := errors.Join(m.podsErr, m.nodesErr); err != nil {
		ev.Want = "a ready agent on each node"
		return ev, err
	}
	agents := m.cilium()
	if len(agents) == 0 {
		return ev, phase.Failf("no pod of any namespace has the label k8s-app=cilium: the cluster's network is not Cilium, or Cilium has other labels")
	}
	ev.Details = append(ev.Details, fmt.Sprintf("Cilium %s in namespace %s", cmp.Or(versions(agents, "cilium"), "of unknown version"), agents[0].Namespace))
	if missing := m.nodesWithout(agents); len(missing) > 0 {
		return ev, phase.Want(ev.Want, "none on "+strings.Join(missing, "; none on "))
	}
	ev.Got = ev.Want
	return ev, nil
}

func (m mesh) checkEnforcement() (phase.Evidence, error) {
	ev := phase.Evidence{Want: "enable-policy default or always, and no audit mode"}
	if m.cfgErr != nil {
		return ev, m.cfgErr
	}
	mode := cmp.Or(m.cfg["enable-policy"], "default")
	ev.Got = "enable-policy " + mode
	if m.cfg["policy-audit-mode"] == "true" {
		ev.Got += ", policy-audit-mode true: what a policy denies is let through and noted"
		return ev, phase.Want(ev.Want, ev.Got)
	}
	if mode != "default" && mode != "always" {
		return ev, phase.Want(ev.Want, ev.Got)
	}
	return ev, nil
}

// authenticates says whether any edge asks for authentication.
func (in Intent) authenticates() bool {
	return slices.ContainsFunc(in.Edges, func(e Edge) bool { return e.Authenticated })
}

func (m mesh) checkAuthentication(in Intent) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "on, with trust domain " + in.TrustDomain}
	if !in.authenticates() {
		ev.Want = "nothing: no edge asks for it"
	}
	if m.cfgErr != nil {
		return ev, m.cfgErr
	}
	for _, key := range []string{"mesh-auth-enabled", "mesh-auth-mutual-enabled", "mesh-auth-spiffe-trust-domain", "mesh-auth-spire-server-address", "mesh-auth-spire-admin-socket"} {
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %q", key, m.cfg[key]))
	}
	// The second has been there since 1.14, where the agents began to ask SPIRE:
	// https://github.com/cilium/cilium/blob/v1.20.2/install/kubernetes/cilium/templates/cilium-configmap.yaml
	ev.Got = "off"
	if m.cfg["mesh-auth-enabled"] == "true" && m.cfg["mesh-auth-mutual-enabled"] == "true" {
		ev.Got = "on, with trust domain " + m.cfg["mesh-auth-spiffe-trust-domain"]
	}
	if !in.authenticates() {
		return ev, nil // what others use it for is their affair
	}
	return ev, same(ev)
}

func (m mesh) checkRelay() (phase.Evidence, error) {
	ev := phase.Evidence{Want: "Hubble Relay ready"}
	if m.podsErr != nil {
		return ev, m.podsErr
	}
	if m.cfgErr == nil {
		ev.Details = append(ev.Details, fmt.Sprintf("enable-hubble: %q", m.cfg["enable-hubble"]))
	}
	const without = "without it no denial can be told from a time-out, and no forwarding proven; what connects though it must not is still seen"
	relays := m.relay()
	if len(relays) == 0 {
		ev.Got = "it is not there"
		return ev, fmt.Errorf("no pod of any namespace has the label k8s-app=hubble-relay: %s", without)
	}
	var not []string
	for _, p := range relays {
		trouble := kube.Trouble(p)
		if trouble == "" {
			ev.Got = fmt.Sprintf("pod %s/%s ready, %s", p.Namespace, p.Name, cmp.Or(versions(relays, "hubble-relay"), "of unknown version"))
			return ev, nil
		}
		not = append(not, fmt.Sprintf("pod %s/%s: %s", p.Namespace, p.Name, trouble))
	}
	ev.Got = "not ready"
	return ev, fmt.Errorf("Hubble Relay is not ready (%s): %s", strings.Join(not, "; "), without) //nolint:staticcheck // a name
}

func (m mesh) checkSPIRE(in Intent) (phase.Evidence, error) {
	ev := phase.Evidence{Want: fmt.Sprintf("a ready server, and a ready agent on each of %d nodes", len(m.nodes))}
	needed := in.authenticates()
	if !needed {
		ev.Want = "nothing: no edge is authenticated"
	}
	if err := errors.Join(m.podsErr, m.nodesErr); err != nil {
		if !needed {
			ev.Got = "not seen"
			return ev, nil
		}
		return ev, err
	}
	servers, agents := m.running("spire-server"), m.running("spire-agent")
	for what, pods := range map[string][]corev1.Pod{"server": servers, "agent": agents} {
		if len(pods) > 0 {
			ev.Details = append(ev.Details, fmt.Sprintf("SPIRE %s %s in namespace %s", what, cmp.Or(versions(pods, "spire-"+what), "of unknown version"), pods[0].Namespace))
		}
	}
	slices.Sort(ev.Details)
	var wrong []string
	if len(agents) == 0 {
		wrong = append(wrong, "no pod of any namespace runs an image named spire-agent, or has that for its name")
	} else if missing := m.nodesWithout(agents); len(missing) > 0 {
		wrong = append(wrong, "no agent on "+strings.Join(missing, "; no agent on "))
	}
	ready := slices.DeleteFunc(slices.Clone(servers), func(p corev1.Pod) bool { return kube.Trouble(p) != "" })
	if len(servers) > 0 && len(ready) == 0 {
		wrong = append(wrong, fmt.Sprintf("server not ready: pod %s/%s: %s", servers[0].Namespace, servers[0].Name, kube.Trouble(servers[0])))
	}
	switch {
	case !needed:
		ev.Got = strings.Join(append(wrong, fmt.Sprintf("%d agents, %d servers", len(agents), len(servers))), "; ")
		return ev, nil
	case len(wrong) > 0:
		return ev, phase.Want(ev.Want, strings.Join(wrong, "; "))
	case len(servers) == 0:
		ev.Got = "agents on every node, no server"
		return ev, errors.New("no pod of any namespace runs an image named spire-server: it may be outside the cluster, where it cannot be seen")
	}
	ev.Got = ev.Want
	return ev, nil
}

// checkCauses looks for the causes that can be seen, and says which cannot.
func (m mesh) checkCauses(in Intent, now state) (phase.Evidence, error) {
	var looked, unseen []string
	for _, c := range Causes() {
		switch {
		case c.needs&seesRelay != 0: // has a check of its own
		case now.visible(c):
			looked = append(looked, c.Name)
		default:
			unseen = append(unseen, c.Name)
		}
	}
	ev := phase.Evidence{Want: fmt.Sprintf("none of the %d that can be seen", len(looked))}
	if !in.authenticates() {
		ev.Want, ev.Got = "nothing: no edge is authenticated", "not looked for"
		return ev, nil
	}
	ev.Details = []string{"looked for: " + strings.Join(looked, ", "), "not to be seen from here: " + strings.Join(unseen, ", ")}
	for _, err := range []error{m.podsErr, m.cfgErr, m.agentConfErr, m.serverConfErr, m.serviceErr} {
		if err != nil {
			ev.Details = append(ev.Details, err.Error())
		}
	}
	for _, p := range m.pods {
		for _, c := range p.Spec.Containers {
			if strings.Contains(c.Image, "spire-controller-manager") {
				ev.Details = append(ev.Details, fmt.Sprintf("pod %s/%s runs %s: unless it has an entryIDPrefix it deletes Cilium's /identity entries", p.Namespace, p.Name, c.Image))
			}
		}
	}
	found := diagnose(now)
	if errors.Is(m.serviceErr, errNotThere) {
		found = append(found, m.serviceErr.Error())
	}
	switch {
	case len(found) > 0:
		return ev, phase.Want(ev.Want, strings.Join(found, "; "))
	case len(looked) == 0:
		return ev, errors.New("neither the configuration of Cilium nor that of SPIRE can be seen: see the evidence")
	}
	ev.Got = ev.Want
	return ev, nil
}

package zerotrust

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// Cause is a known reason why Cilium and SPIRE do not work together. When a check of the
// phases cilium, spire, identities or 4C does not pass, its evidence names the causes that are
// found in the cluster.
type Cause struct {
	Name    string // stable: "headless-spire-service"
	Symptom string // what one sees
	Why     string // what is behind it
	Fix     string // what to do

	// needs are the parts of the state that it is found in.
	needs sight
	// find returns the line that shows that this is it, "" if it is not.
	find func(state) string
}

// sight is a set of parts of a state.
type sight uint

const (
	seesTrustDomain sight = 1 << iota // SPIRE's own word for it
	seesAgentConf
	seesServerConf
	seesSPIREService
	seesEntries
	seesAgents
	seesIdentities
	seesCiliumConfig
	seesRelay
	seesPods
	// ours says that SPIRE was set up as this module does it. Others are free to have other
	// names, and more than one way.
	ours
)

// state is what the causes are found in.
type state struct {
	seen                    sight // a part that was not seen says nothing, and its causes are not looked for
	td                      spiffeid.TrustDomain
	cluster                 string
	agentConf, serverConf   string // SPIRE's configurations, HCL
	spireService            corev1.Service
	entries                 []spire.Entry
	agents                  []spire.Agent
	identities              []cilium.Identity
	ciliumConfig            map[string]string // ConfigMap cilium-config
	relayReady, relayWanted int32
	pods                    []corev1.Pod // of all namespaces
}

// Causes are the known ones, in the order in which they are looked for: what others follow
// from comes first.
func Causes() []Cause {
	return []Cause{
		{
			Name: "trust-domain-differs", Symptom: "No SVID of Cilium's is accepted; agents log that an ID is not a member of the trust domain.",
			Why:   "Cilium's authentication.mutual.spire.trustDomain is another one than SPIRE's.",
			Fix:   "Upgrade Cilium's release with SPIRE's trust domain, and let its pods restart.",
			needs: seesTrustDomain | seesCiliumConfig,
			find: func(s state) string {
				if got := s.ciliumConfig["mesh-auth-spiffe-trust-domain"]; got != s.td.Name() {
					return fmt.Sprintf("ConfigMap cilium-config: mesh-auth-spiffe-trust-domain is %q, SPIRE's is %q", got, s.td.Name())
				}
				return ""
			},
		},
		{
			Name: "headless-spire-service", Symptom: "Cilium's operator never reaches the SPIRE server, and there are no /identity entries.",
			Why:   "The operator reads the Service's cluster IP, and the Service has none.",
			Fix:   "Make the Service of the SPIRE server one of type ClusterIP (delete and apply it: the field cannot change), then restart cilium-operator.",
			needs: seesSPIREService,
			find: func(s state) string {
				if s.spireService.Spec.ClusterIP == corev1.ClusterIPNone {
					return fmt.Sprintf("Service %s/%s: clusterIP is None", s.spireService.Namespace, s.spireService.Name)
				}
				return ""
			},
		},
		{
			Name: "admin-socket-in-workload-directory", Symptom: "SPIRE's agents do not start, or every workload can reach the admin socket.",
			Why:   "The admin socket lies in the directory of the workload socket, or below it, which is mounted into workloads. SPIRE refuses that.",
			Fix:   "Give admin_socket_path a directory of its own, and Cilium the same path (adminSocketPath).",
			needs: seesAgentConf,
			find: func(s state) string {
				a := s.agent()
				if dir := path.Dir(a.SocketPath); a.AdminSocketPath != "" && strings.HasPrefix(a.AdminSocketPath, dir+"/") {
					return fmt.Sprintf("agent.conf: admin_socket_path %s is below %s", a.AdminSocketPath, dir)
				}
				return ""
			},
		},
		{
			Name: "admin-socket-differs", Symptom: "cilium-agent logs that it cannot connect to the SPIRE delegate API.",
			Why:   "Cilium looks for the admin socket elsewhere than SPIRE's agents have it.",
			Fix:   "Make Cilium's adminSocketPath the agents' admin_socket_path.",
			needs: seesAgentConf | seesCiliumConfig,
			find: func(s state) string {
				if cilium, agent := s.ciliumConfig["mesh-auth-spire-admin-socket"], s.agent().AdminSocketPath; cilium != agent {
					return fmt.Sprintf("cilium-config: mesh-auth-spire-admin-socket is %q, agent.conf: admin_socket_path is %q", cilium, agent)
				}
				return ""
			},
		},
		{
			Name: "delegate-not-authorised", Symptom: "cilium-agent logs PermissionDenied from the delegate API; every authenticated edge is dropped with AUTH_REQUIRED.",
			Why:   "The identity of cilium-agent is not among the agents' authorized_delegates.",
			Fix:   "Add it, and restart the SPIRE agents.",
			needs: ours | seesAgentConf,
			find: func(s state) string {
				id := spire.CiliumAgentID(s.td).String()
				if have := s.agent().AuthorizedDelegates; !slices.Contains(have, id) {
					return fmt.Sprintf("agent.conf: authorized_delegates is %q, without %s", have, id)
				}
				return ""
			},
		},
		{
			Name: "operator-not-admin", Symptom: "cilium-operator logs PermissionDenied at \"Upsert identity\"; there are no /identity entries.",
			Why:   "The identity of cilium-operator is neither among the server's admin_ids nor is its entry an admin's.",
			Fix:   "Add it to admin_ids and restart the server, or make its entry admin; then restart cilium-operator.",
			needs: ours | seesServerConf | seesEntries,
			find: func(s state) string {
				id := spire.CiliumOperatorID(s.td)
				byEntry := slices.ContainsFunc(s.entries, func(e spire.Entry) bool { return e.SPIFFEID == id && e.Admin })
				if have := s.server().AdminIDs; !byEntry && !slices.Contains(have, id.String()) {
					return fmt.Sprintf("server.conf: admin_ids is %q, without %s, and its entry is not admin", have, id)
				}
				return ""
			},
		},
		{
			Name: "entry-missing", Symptom: "cilium-agent or cilium-operator logs \"no identity issued\". Without the operator's, below which the /identity entries hang, every authenticated edge is dropped with AUTH_REQUIRED.",
			Why:   "SPIRE has no entry for it.",
			Fix:   "Run the identities phase (a run without --verify).",
			needs: ours | seesEntries,
			find: func(s state) string {
				for _, id := range []spiffeid.ID{spire.CiliumAgentID(s.td), spire.CiliumOperatorID(s.td)} {
					if len(s.entriesOf(id)) == 0 {
						return "SPIRE has no entry " + id.String()
					}
				}
				return ""
			},
		},
		{
			Name: "entry-parented-to-one-agent", Symptom: "Authentication works on one node alone, and on none once the cluster is made anew.",
			Why:   "An entry of Cilium's has a single agent's ID, which holds the node's UID, as its parent, where it needs the node alias.",
			Fix:   "Run the identities phase (a run without --verify): it parents the entries to the alias.",
			needs: ours | seesEntries,
			find: func(s state) string {
				for _, id := range []spiffeid.ID{spire.CiliumAgentID(s.td), spire.CiliumOperatorID(s.td)} {
					for _, e := range s.entriesOf(id) {
						if strings.HasPrefix(e.ParentID.Path(), "/spire/agent/") {
							return fmt.Sprintf("entry %s has the parent %s", e.SPIFFEID, e.ParentID)
						}
					}
				}
				return ""
			},
		},
		{
			Name: "entry-with-the-wrong-selector", Symptom: "cilium-agent or cilium-operator logs \"no identity issued\", though its entry is there.",
			Why:   "The entry selects other pods.",
			Fix:   "Run the identities phase (a run without --verify).",
			needs: ours | seesEntries,
			find: func(s state) string {
				for _, want := range spire.CiliumEntries(s.td, s.cluster) {
					have := s.entriesOf(want.SPIFFEID)
					if len(have) > 0 && !slices.ContainsFunc(have, func(e spire.Entry) bool { return sameSelectors(e, want) }) {
						return fmt.Sprintf("entry %s has the selectors %v, want %v", want.SPIFFEID, have[0].Selectors, want.Selectors)
					}
				}
				return ""
			},
		},
		{
			Name: "node-without-agent", Symptom: "Workloads of one node get no SVID.",
			Why:   "No SPIRE agent of that node has attested.",
			Fix:   "kubectl -n spire-system get pods -o wide; look at the log of the agent there.",
			needs: ours | seesAgents | seesPods,
			find: func(s state) string {
				attested := map[string]bool{}
				for _, a := range s.agents {
					attested[a.Selector("k8s_psat", "agent_node_name")] = true
				}
				for _, p := range s.pods {
					if p.Namespace == "spire-system" && p.Labels["app.kubernetes.io/name"] == "spire-agent" && p.Spec.NodeName != "" && !attested[p.Spec.NodeName] {
						return fmt.Sprintf("node %s: the agent %s has not attested", p.Spec.NodeName, p.Name)
					}
				}
				return ""
			},
		},
		{
			Name: "foreign-controller-manager", Symptom: "/identity entries vanish again and again.",
			Why:   "A spire-controller-manager deletes whatever it did not declare itself, unless it has an entryIDPrefix.",
			Fix:   "Set entryIDPrefix in its configuration, then restart cilium-operator.",
			needs: ours | seesPods,
			find: func(s state) string {
				for _, p := range s.pods {
					for _, c := range p.Spec.Containers {
						if strings.Contains(c.Image, "spire-controller-manager") {
							return fmt.Sprintf("pod %s/%s runs %s", p.Namespace, p.Name, c.Image)
						}
					}
				}
				return ""
			},
		},
		{
			Name: "identities-not-registered", Symptom: "Some authenticated edges are dropped with AUTH_REQUIRED, though the same edge works for other pods.",
			Why:   "Cilium's operator makes /identity entries when it first sees an identity, and not again: SPIRE lost them, or was not there then.",
			Fix:   "kubectl -n kube-system rollout restart deployment/cilium-operator",
			needs: seesEntries | seesIdentities,
			find: func(s state) string {
				for _, i := range s.identities {
					if len(s.entriesOf(spiffeid.RequireFromPath(s.td, fmt.Sprintf("/identity/%d", i.ID)))) == 0 {
						return fmt.Sprintf("identity %d (%s/%s) has no entry", i.ID, i.Namespace, i.ServiceAccount)
					}
				}
				return ""
			},
		},
		{
			Name: "relay-down", Symptom: "No edge can be told: Hubble does not answer.",
			Why:   "Hubble Relay has no ready pod.",
			Fix:   "kubectl -n kube-system describe deployment hubble-relay",
			needs: seesRelay,
			find: func(s state) string {
				if s.relayReady < s.relayWanted || s.relayWanted == 0 {
					return fmt.Sprintf("Deployment kube-system/hubble-relay: %d of %d ready", s.relayReady, s.relayWanted)
				}
				return ""
			},
		},
	}
}

// sameSelectors says whether two entries select the same pods.
func sameSelectors(a, b spire.Entry) bool {
	has := func(in, all []spire.Selector) bool {
		return !slices.ContainsFunc(all, func(s spire.Selector) bool { return !slices.Contains(in, s) })
	}
	return has(a.Selectors, b.Selectors) && has(b.Selectors, a.Selectors)
}

func (s state) entriesOf(id spiffeid.ID) []spire.Entry {
	return slices.DeleteFunc(slices.Clone(s.entries), func(e spire.Entry) bool { return e.SPIFFEID != id })
}

// What the causes read of SPIRE's configurations.
type (
	agentConf struct {
		TrustDomain         string   `hcl:"trust_domain"`
		SocketPath          string   `hcl:"socket_path"`
		AdminSocketPath     string   `hcl:"admin_socket_path"`
		AuthorizedDelegates []string `hcl:"authorized_delegates"`
	}
	serverConf struct {
		AdminIDs []string `hcl:"admin_ids"`
	}
)

func (s state) agent() agentConf {
	var c struct {
		Agent agentConf `hcl:"agent"`
	}
	_ = hcl.Decode(&c, s.agentConf) // what cannot be read is empty, which is a cause of its own
	return c.Agent
}

func (s state) server() serverConf {
	var c struct {
		Server serverConf `hcl:"server"`
	}
	_ = hcl.Decode(&c, s.serverConf)
	return c.Server
}

// visible says whether enough was seen to look for the cause.
func (s state) visible(c Cause) bool { return s.seen&c.needs == c.needs }

// diagnose is the causes that are found in a state, one line each, as far as it was seen.
func diagnose(s state) []string {
	var all []string
	for _, c := range Causes() {
		if !s.visible(c) {
			continue
		}
		if line := c.find(s); line != "" {
			all = append(all, fmt.Sprintf("cause %s: %s (%s) Fix: %s", c.Name, c.Why, line, c.Fix))
		}
	}
	return all
}

// diagnosed are the checks, whose evidence names the causes when they do not pass.
func (s *Stack) diagnosed(all []phase.Check) []phase.Check {
	for i := range all {
		all[i] = s.diagnosedOne(all[i])
	}
	return all
}

func (s *Stack) diagnosedOne(c phase.Check) phase.Check {
	run := c.Run
	c.Run = func(ctx context.Context) (phase.Evidence, error) {
		ev, err := run(ctx)
		if err == nil || ctx.Err() != nil {
			return ev, err
		}
		now, gathered := s.gather(ctx)
		if gathered != nil {
			ev.Details = append(ev.Details, fmt.Sprintf("looking for the cause: %v", gathered))
		}
		ev.Details = append(ev.Details, diagnose(now)...)
		return ev, err
	}
	return c
}

// checkCauses looks for the causes of what may still seem well.
func (s *Stack) checkCauses(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: fmt.Sprintf("none of %d known causes", len(Causes())), Source: "API server; SPIRE server"}
	// An identity that is new is registered a moment later.
	err := s.within(ctx, func() error {
		now, err := s.gather(ctx)
		if err != nil {
			return err
		}
		if found := diagnose(now); len(found) > 0 {
			return phase.Want(ev.Want, strings.Join(found, "; "))
		}
		return nil
	})
	if err == nil {
		ev.Got = ev.Want
	}
	return ev, err
}

// gather reads the state from the cluster. What cannot be had is left out, and told.
func (s *Stack) gather(ctx context.Context) (state, error) {
	now := state{td: s.td, cluster: s.cfg.Intent.Name, seen: ours | seesTrustDomain}
	client, err := s.kube(ctx)
	if err != nil {
		return now, err
	}
	cluster, err := s.rest(ctx)
	if err != nil {
		return now, err
	}
	core := client.Clientset().CoreV1()
	// What is not there was seen not to be there.
	saw := func(part sight, getErr error) {
		if getErr == nil || apierrors.IsNotFound(getErr) {
			now.seen |= part
		}
		if getErr != nil {
			err = getErr
		}
	}
	conf := func(namespace, name string, part sight) map[string]string {
		m, getErr := core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if saw(part, getErr); getErr != nil {
			return nil
		}
		return m.Data
	}
	now.agentConf = conf("spire-system", spireAgentConfigMap, seesAgentConf)["agent.conf"]
	now.serverConf = conf("spire-system", spireServerConfigMap, seesServerConf)["server.conf"]
	now.ciliumConfig = conf("kube-system", ciliumConfigMap, seesCiliumConfig)
	service, getErr := core.Services("spire-system").Get(ctx, spireService, metav1.GetOptions{})
	if saw(seesSPIREService, getErr); getErr == nil {
		now.spireService = *service
	}
	pods, getErr := core.Pods("").List(ctx, metav1.ListOptions{})
	if saw(seesPods, getErr); getErr == nil {
		now.pods = pods.Items
	}
	relay, getErr := client.Clientset().AppsV1().Deployments("kube-system").Get(ctx, "hubble-relay", metav1.GetOptions{})
	if saw(seesRelay, getErr); getErr == nil {
		now.relayReady, now.relayWanted = relay.Status.ReadyReplicas, *relay.Spec.Replicas
	}
	now.identities, getErr = cilium.Identities(ctx, cluster)
	saw(seesIdentities, getErr)
	conn, connErr := s.spire(ctx)
	if connErr != nil {
		return now, connErr
	}
	now.entries, getErr = spire.List(ctx, conn, spire.ListConfig{})
	saw(seesEntries, getErr)
	now.agents, getErr = spire.Agents(ctx, conn)
	saw(seesAgents, getErr)
	return now, err
}

package zerotrust

import (
	"context"
	"errors"
	"fmt"
	corev1 "k8s.io/api/core/v1"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// settle is how long a check waits for something that follows by itself, such
// as the operator writing an entry for an identity.
const settle = 30 * time.Second

// same is nil where what was seen is what was wanted.
func same(ev phase.Evidence) error {
	if ev.Got == ev.Want {
		return nil
	}
	return phase.Want(ev.Want, ev.Got)
}

func (s *Stack) preflightChecks() []phase.Check {
	return []phase.Check{{
		Name: "machine", Doc: "The engine answers, and memory, disk, inotify limits and ports suffice.",
		Hint: "Each failed line says what to do.",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			findings, err := kindx.Preflight(ctx, s.preflightConfig())
			ev := phase.Evidence{Want: "nothing that fails", Source: "kindx.Preflight"}
			var failed []string
			for _, f := range findings {
				ev.Details = append(ev.Details, f.String())
				if f.Status == kindx.Fail {
					failed = append(failed, f.String())
				}
			}
			if err != nil {
				return ev, err
			}
			ev.Got = fmt.Sprintf("%d findings, %d fail", len(findings), len(failed))
			if len(failed) > 0 {
				return ev, phase.Want(ev.Want, strings.Join(failed, "; "))
			}
			return ev, nil
		},
	}}
}

func (s *Stack) imagesChecks() []phase.Check {
	return []phase.Check{{
		Name: "resolved", Doc: "Each image is in the cache, whole.",
		Hint: "Run again without --verify: the images phase gets what is missing.",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			ev := phase.Evidence{Want: "a digest for each image", Source: "image cache"}
			var all []images.NamedImage
			if !s.installs() {
				node, err := s.nodeImage()
				if err != nil {
					return ev, phase.Want(ev.Want, err.Error())
				}
				all = append(all, node)
			}
			var missing []string
			for _, ref := range s.cfg.ThirdPartyImages() {
				img, err := s.cached(ref)
				if err != nil {
					return ev, err
				}
				if img == nil {
					missing = append(missing, ref)
					continue
				}
				all = append(all, images.NamedImage{Ref: ref, Image: img})
			}
			for _, n := range all {
				digest, err := n.Image.Digest()
				if err != nil {
					return ev, err
				}
				ev.Details = append(ev.Details, n.Ref+" "+digest.String())
				phase.Note(ctx, "image "+n.Ref, digest.String())
			}
			ev.Got = fmt.Sprintf("%d images, %d missing", len(all), len(missing))
			if len(missing) > 0 {
				return ev, phase.Want(ev.Want, "missing: "+strings.Join(missing, ", "))
			}
			return ev, nil
		},
	}}
}

func (s *Stack) clusterChecks() []phase.Check {
	return []phase.Check{
		{
			Name: "nodes", Doc: "The cluster has the nodes asked for, and its API server answers.",
			Hint: "kubectl get nodes -o wide; kubectl describe node NAME",
			Run: func(ctx context.Context) (phase.Evidence, error) {
				names, err := s.nodeNames(ctx)
				want := fmt.Sprintf("%d nodes", s.cfg.Workers+1)
				ev := phase.Evidence{Want: want, Got: fmt.Sprintf("%d nodes", len(names)), Details: names, Source: "API server"}
				if err != nil {
					return ev, err
				}
				return ev, same(ev)
			},
		},
		{
			Name: "Kubernetes version", Doc: "Each node's kubelet is of the version that the node image names.",
			Hint: "A cluster of another version is another one: take it down, or run with --recreate.",
			Run:  s.checkKubernetes,
		},
		{
			Name: "images on nodes", Doc: "Each node holds the very images that were resolved.",
			Hint: "Run again without --verify: the cluster phase loads what is missing.",
			Run:  s.checkLoaded,
		},
	}
}

// checkLoaded asks each node for the images and compares digests.
func (s *Stack) checkLoaded(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "each image with its digest on each node", Source: "containerd on each node"}
	nodes, err := s.nodes(ctx)
	if err != nil {
		return ev, err
	}
	var want []images.NamedImage
	for _, ref := range s.cfg.ThirdPartyImages() {
		img, err := s.cached(ref)
		if err != nil {
			return ev, err
		}
		if img == nil {
			return ev, fmt.Errorf("image %s is not in the cache, so its digest is not known", ref)
		}
		want = append(want, images.NamedImage{Ref: ref, Image: img})
	}
	missing, err := images.Missing(ctx, nodes, want, images.LoadConfig{})
	if err != nil {
		return ev, err
	}
	ev.Got = fmt.Sprintf("%d images on %d nodes, %d missing", len(want), len(nodes), len(missing))
	if len(missing) > 0 {
		return ev, phase.Want(ev.Want, fmt.Sprintf("missing: %v", missing))
	}
	return ev, nil
}

func (s *Stack) ciliumChecks() []phase.Check {
	return []phase.Check{{
		Name: "rolled out", Doc: "Agents on every node, the operator and Hubble Relay are ready.",
		Hint: "kubectl -n kube-system get pods; kubectl -n kube-system describe pod NAME",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			// Whether the agents reach SPIRE is for 4C: it may not be there yet.
			return s.ciliumState(ctx, func(n cilium.NodeStatus) bool { return n.State == "Ok" })
		},
	}}
}

// checkCilium wants every agent to be well and to reach SPIRE. Agents look for
// SPIRE from time to time, so they get a while to find it.
func (s *Stack) checkCilium(ctx context.Context) (phase.Evidence, error) {
	var ev phase.Evidence
	err := s.within(ctx, func() error {
		var err error
		ev, err = s.ciliumState(ctx, func(n cilium.NodeStatus) bool { return n.State == "Ok" && n.AuthProvider == "Ok" })
		return err
	})
	return ev, err
}

// ciliumState compares Cilium's rollouts and what each agent says of itself with
// what well says is well.
func (s *Stack) ciliumState(ctx context.Context, well func(cilium.NodeStatus) bool) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "API server; cilium-dbg status in each agent"}
	cluster, err := s.rest(ctx)
	if err != nil {
		return ev, err
	}
	names, err := s.nodeNames(ctx)
	if err != nil {
		return ev, err
	}
	status, err := cilium.GetStatus(ctx, cluster)
	if err != nil {
		return ev, err
	}
	ok, version := 0, s.cfg.ciliumVersion()
	for _, n := range status.Nodes {
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %s %s, authentication provider %s %s %s", n.Node, n.State, n.Version, n.AuthProvider, n.Message, n.AuthProviderMessage))
		if well(n) && n.Version == version {
			ok++
		}
	}
	ready := func(r cilium.Rollout) string { return fmt.Sprintf("%d of %d", r.Ready, r.Desired) }
	ev.Got = fmt.Sprintf("agents: %s ready, %d of %s and well; operator: %s ready; relay: %s ready", ready(status.Agents), ok, version, ready(status.Operator), ready(status.Relay))
	ev.Want = fmt.Sprintf("agents: %d of %[1]d ready, %[1]d of %[2]s and well; operator: 1 of 1 ready; relay: 1 of 1 ready", len(names), version)
	if ev.Got == ev.Want {
		phase.Note(ctx, "cilium", version)
	}
	return ev, same(ev)
}

// within repeats a check that failed until it does not, or settle has passed.
func (s *Stack) within(ctx context.Context, check func() error) error {
	deadline := time.Now().Add(settle)
	for {
		err := check()
		var mismatch *phase.Mismatch
		if !errors.As(err, &mismatch) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

func (s *Stack) spireChecks() []phase.Check {
	all := []phase.Check{{
		Name: "agents attested on every node", Doc: "Exactly one agent has attested on every node, the control plane too.",
		Hint: "kubectl -n spire-system logs ds/spire-agent; the server's k8s_psat attestor must allow spire-system:spire-agent.",
		Run:  s.checkAgents,
	}}
	if s.installs() {
		return all
	}
	return append(all, phase.Check{
		Name: "admin socket apart", Doc: "The admin socket lies in a directory of its own, which workloads do not mount.",
		Hint: "admin_socket_path of the agent must not lie below the directory of socket_path.",
		Run:  s.checkSockets,
	})
}

// checkAgents compares the server's attested agents with the cluster's nodes.
func (s *Stack) checkAgents(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "SPIRE server: ListAgents; API server: nodes"}
	names, err := s.nodeNames(ctx)
	if err != nil {
		return ev, err
	}
	ev.Want = "one agent on each of " + strings.Join(names, ", ")
	conn, err := s.spire(ctx)
	if err != nil {
		return ev, err
	}
	agents, err := spire.Agents(ctx, conn)
	if err != nil {
		return ev, err
	}
	live := map[string]int{}
	for _, a := range agents {
		node := a.Selector("k8s_psat", "agent_node_name")
		if a.Banned || a.ExpiresAt.Before(time.Now()) {
			ev.Details = append(ev.Details, fmt.Sprintf("not counted (banned or expired): %s on %s", a.ID, node))
			continue
		}
		live[node]++
		ev.Details = append(ev.Details, fmt.Sprintf("%s on %s until %s", a.ID, node, a.ExpiresAt.UTC().Format(time.RFC3339)))
	}
	var wrong []string
	for _, n := range names {
		if live[n] != 1 {
			wrong = append(wrong, fmt.Sprintf("%d on %s", live[n], n))
		}
		delete(live, n)
	}
	for _, n := range slices.Sorted(maps.Keys(live)) {
		wrong = append(wrong, fmt.Sprintf("%d on %q, which is no node", live[n], n))
	}
	if len(wrong) > 0 {
		ev.Got = strings.Join(wrong, "; ")
		return ev, phase.Want(ev.Want, ev.Got)
	}
	ev.Got = fmt.Sprintf("one on each of %d nodes", len(names))
	return ev, nil
}

// checkSockets looks at the sockets on each node.
func (s *Stack) checkSockets(ctx context.Context) (phase.Evidence, error) {
	const workload, admin = "/run/spire/sockets", "/run/spire/admin-sockets"
	ev := phase.Evidence{
		Want:   "agent.sock alone in " + workload + ", admin.sock in " + admin + ", on each node",
		Source: "ls on each node",
	}
	nodes, err := kindx.Nodes(ctx, s.cfg.Intent.Name)
	if err != nil {
		return ev, err
	}
	var wrong []string
	for _, n := range nodes {
		var out strings.Builder
		if err := n.Exec(ctx, nil, &out, "find", workload, admin, "-type", "s"); err != nil {
			return ev, err
		}
		found := strings.Fields(out.String())
		slices.Sort(found)
		ev.Details = append(ev.Details, n.Name()+": "+strings.Join(found, " "))
		if !slices.Equal(found, []string{admin + "/admin.sock", workload + "/agent.sock"}) {
			wrong = append(wrong, fmt.Sprintf("%s: %v", n.Name(), found))
		}
	}
	ev.Got = fmt.Sprintf("so on %d of %d nodes", len(nodes)-len(wrong), len(nodes))
	if len(wrong) > 0 || len(nodes) == 0 {
		return ev, phase.Want(ev.Want, ev.Got+": "+strings.Join(wrong, "; "))
	}
	return ev, nil
}

func (s *Stack) identitiesChecks() []phase.Check {
	return []phase.Check{{
		Name: "entries registered", Doc: "The server holds exactly the derived entries; a sync would change nothing.",
		Hint: "Run again without --verify: the identities phase puts it right.",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			ev := phase.Evidence{Want: "nothing to create, update or delete", Source: "SPIRE server: ListEntries"}
			want, err := Entries(s.cfg.Intent)
			if err != nil {
				return ev, err
			}
			conn, err := s.spire(ctx)
			if err != nil {
				return ev, err
			}
			cfg := s.syncConfig()
			cfg.DryRun = true
			result, err := spire.Sync(ctx, conn, want, cfg)
			if err != nil {
				return ev, err
			}
			for _, e := range want {
				ev.Details = append(ev.Details, e.String())
			}
			ev.Got = result.Plan.Summary()
			if !result.Plan.Empty() {
				return ev, phase.Want(ev.Want, result.Plan.String())
			}
			return ev, nil
		},
	}}
}

func (s *Stack) appsChecks() []phase.Check { return s.WorkloadChecks("workload ") }

// WorkloadChecks are those of phase apps, one for each application, for a phase of your
// own that is to rest on the very images of this source tree. Their names begin with prefix.
func (s *Stack) WorkloadChecks(prefix string) []phase.Check {
	var all []phase.Check
	for _, w := range s.cfg.Intent.applications() {
		all = append(all, phase.Check{
			Name: prefix + w.Name, Doc: "Its pods are ready, and run the very image that this source tree gives.",
			Hint: fmt.Sprintf("kubectl -n %s describe pod -l app=%s; after an edit, run again without --verify", w.Namespace, w.Name),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkWorkload(ctx, w) },
		})
	}
	return all
}

// checkImage compares the image of the pods with the intent's, by reference alone: it is
// for whoever made it to say what it is.
func (s *Stack) checkImage(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Want: fmt.Sprintf("%d ready pods of %s", max(1, w.Replicas), w.Image), Source: "API server"}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	pods, err := client.ReadyPods(ctx, w.Namespace, "app="+w.Name)
	if err != nil {
		return ev, err
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return p.Spec.Containers[0].Image != w.Image })
	ev.Got = fmt.Sprintf("%d ready pods of %s", len(pods), w.Image)
	return ev, same(ev)
}

// checkWorkload compares the pods' images with the one built, by reference and, on the
// node of each pod, by digest.
func (s *Stack) checkWorkload(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "go build; API server; containerd on the pods' nodes"}
	if w.Package == "" {
		return s.checkImage(ctx, w)
	}
	built, err := s.program(ctx, w.Package)
	if err != nil {
		return ev, err
	}
	ev.Want = fmt.Sprintf("%d ready pods of %s (%s)", max(1, w.Replicas), built.ref, built.digest)
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	if s.installs() {
		return s.checkPulled(ctx, client, w, built)
	}
	pods, err := client.ReadyPods(ctx, w.Namespace, "app="+w.Name)
	if err != nil {
		return ev, err
	}
	nodes, err := s.nodes(ctx)
	if err != nil {
		return ev, err
	}
	img, _ := s.resolved(built.ref)
	var wrong []string
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			ev.Details = append(ev.Details, fmt.Sprintf("%s on %s runs %s (%s)", p.Name, p.Spec.NodeName, c.Image, c.ImageID))
		}
		if image := p.Spec.Containers[0].Image; image != built.ref {
			wrong = append(wrong, fmt.Sprintf("%s runs %s", p.Name, image))
			continue
		}
		own := slices.DeleteFunc(slices.Clone(nodes), func(n images.Node) bool { return n.Name() != p.Spec.NodeName })
		missing, err := images.Missing(ctx, own, []images.NamedImage{{Ref: built.ref, Image: img}}, images.LoadConfig{})
		if err != nil {
			return ev, err
		}
		if len(missing) > 0 || len(own) == 0 {
			wrong = append(wrong, fmt.Sprintf("the image of %s on %s has another digest", p.Name, p.Spec.NodeName))
		}
	}
	phase.Note(ctx, "image "+w.Name, built.digest)
	ev.Got = fmt.Sprintf("%d ready pods of %s (%s)", len(pods)-len(wrong), built.ref, built.digest)
	if len(wrong) > 0 {
		ev.Got += "; " + strings.Join(wrong, "; ")
	}
	return ev, same(ev)
}

// checks4C look again at what the spire phase saw, now that everything runs on it.
func (s *Stack) checks4C() []phase.Check {
	all := append(s.spireChecks(), []phase.Check{
		{
			Name: "entries delivered", Doc: "A new entry reaches the agent of every node and its SVID is handed out there; so everything registered before it is there too.",
			Hint: "kubectl -n spire-system logs ds/spire-agent; is the node alias the parent of every entry?",
			Run:  s.checkDelivered,
		},
		{
			Name: "cilium healthy", Doc: "Agents, operator and Relay are ready; every agent reaches SPIRE.",
			Hint: "kubectl -n kube-system logs ds/cilium -c cilium-agent | grep -i spire",
			Run:  s.checkCilium,
		},
		{
			Name: "identities registered", Doc: "The /identity entries that Cilium's operator keeps are exactly the cluster's security identities.",
			Hint: "kubectl -n kube-system logs deploy/cilium-operator | grep -i 'Upsert identity'; after a loss of SPIRE's data, restart the operator.",
			Run:  s.checkIdentityEntries,
		},
		{
			Name: "fresh handshake", Doc: "With the auth maps flushed, an authenticated edge makes a new handshake, seen in the map of the enforcing node.",
			Hint: "kubectl -n kube-system logs ds/cilium -c cilium-agent | grep -i authenticat",
			Run:  s.checkHandshake,
		},
		{
			Name: "no known cause of trouble", Doc: "Nothing is found that is known to break Cilium's authentication, also where it does not yet: agents keep the SVIDs that they have until those expire.",
			Hint: "docs/troubleshooting.md",
			Run:  s.checkCauses,
		},
	}...)
	if !s.installs() {
		all = append(all, s.svidChecks()...)
	}
	for _, w := range s.cfg.Intent.Workloads {
		if w.MTLS {
			all = append(all, phase.Check{
				Name: "mTLS of " + w.Name, Doc: "It proves its SPIFFE ID and serves its callers; another identity, none at all, and plain text are refused.",
				Hint: fmt.Sprintf("kubectl -n %s logs deploy/%s", w.Namespace, w.Name),
				Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkMTLS(ctx, w) },
			})
		}
	}
	return s.diagnosed(all)
}

func (s *Stack) checkDelivered(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "an SVID of a new entry on each node", Source: "spire-agent api fetch in a pod of each node"}
	cluster, err := s.rest(ctx)
	if err != nil {
		return ev, err
	}
	delivered, err := deploy.WaitUsable(ctx, cluster, s.spireConfig())
	if err != nil {
		return ev, err
	}
	names, err := s.nodeNames(ctx)
	if err != nil {
		return ev, err
	}
	ev.Want = fmt.Sprintf("an SVID of a new entry on %d nodes", len(names))
	for _, n := range delivered.Nodes {
		ev.Details = append(ev.Details, fmt.Sprintf("%s after %s", n.Node, n.After.Round(time.Millisecond)))
	}
	ev.Got = fmt.Sprintf("an SVID of a new entry on %d nodes", len(delivered.Nodes))
	return ev, same(ev)
}

// checkIdentityEntries compares the entries below /identity/ with the
// CiliumIdentities, until they agree or settle has passed.
func (s *Stack) checkIdentityEntries(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "the same set", Source: "SPIRE server: ListEntries; API server: ciliumidentities"}
	cluster, err := s.rest(ctx)
	if err != nil {
		return ev, err
	}
	conn, err := s.spire(ctx)
	if err != nil {
		return ev, err
	}
	err = s.within(ctx, func() error {
		entries, err := spire.List(ctx, conn, spire.ListConfig{ParentID: spire.CiliumOperatorID(s.td)})
		if err != nil {
			return err
		}
		identities, err := cilium.Identities(ctx, cluster)
		if err != nil {
			return err
		}
		registered, known := map[string]bool{}, map[string]bool{}
		for _, e := range entries {
			registered[strings.TrimPrefix(e.SPIFFEID.Path(), "/identity/")] = true
		}
		ev.Details = nil
		for _, id := range identities {
			n := fmt.Sprint(id.ID)
			known[n] = true
			ev.Details = append(ev.Details, fmt.Sprintf("%s %s/%s registered: %t", n, id.Namespace, id.ServiceAccount, registered[n]))
		}
		ev.Got = fmt.Sprintf("%d entries, %d identities", len(registered), len(known))
		if !maps.Equal(registered, known) || len(known) == 0 {
			return phase.Want(ev.Want, fmt.Sprintf("entries %v, identities %v", slices.Sorted(maps.Keys(registered)), slices.Sorted(maps.Keys(known))))
		}
		return nil
	})
	return ev, err
}

// checkHandshake flushes every auth map, uses each authenticated edge once, and
// looks for the pair in the map of the node that enforces it.
func (s *Stack) checkHandshake(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "no entry after the flush, one by SPIRE after the first connection", Source: "cilium-dbg bpf auth list on each node"}
	cluster, err := s.rest(ctx)
	if err != nil {
		return ev, err
	}
	var edges int
	for _, cell := range Matrix(s.cfg.Intent) {
		if !cell.Authenticated {
			continue
		}
		edges++
		if err := s.proveHandshake(ctx, cell, &ev, cluster); err != nil {
			return ev, err
		}
	}
	if edges == 0 {
		return ev, errors.New("the intent has no authenticated edge, so no handshake can be seen")
	}
	ev.Got = fmt.Sprintf("so for %d authenticated edges", edges)
	return ev, nil
}

package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// imagesTimeout is enough to build every image from source on a small machine.
const imagesTimeout = 75 * time.Minute

// Phases are the standard phases, in an order that their needs allow. With Config.Registry
// they install the intent in Config.Cluster, which must have no network yet, and prove it
// there as far as that can be done without access to its nodes.
func (s *Stack) Phases() []*phase.Phase {
	if s.installs() {
		return s.installPhases()
	}
	preflight := &phase.Phase{
		Name: "preflight", Doc: "The machine has a container engine and room for the cluster.",
		Apply: s.applyPreflight, Checks: s.preflightChecks(),
	}
	imagesPhase := s.imagesPhase(preflight)
	cluster := &phase.Phase{
		Name: "cluster", Doc: "A kind cluster runs, and its nodes hold the images.",
		Needs: []*phase.Phase{imagesPhase}, Apply: s.applyCluster, Checks: s.clusterChecks(),
	}
	all := append([]*phase.Phase{preflight, imagesPhase, cluster}, s.meshPhases(cluster)...)
	apps := all[len(all)-1]
	b4 := &phase.Phase{
		Name: "4B-network-architecture", Doc: "What is not published cannot be reached from outside; what is, can.",
		Needs: []*phase.Phase{apps}, Checks: s.checks4B(),
	}
	c4 := s.phase4C(apps)
	d4 := &phase.Phase{
		Name: "4D-network-policies", Doc: "Every allowed edge connects; every other one is dropped, for the right reason.",
		Needs: []*phase.Phase{c4}, Checks: s.checks4D(),
	}
	return append(all, b4, c4, d4)
}

func (s *Stack) imagesPhase(base *phase.Phase) *phase.Phase {
	return &phase.Phase{
		Name: "images", Doc: "Every image is at hand: from the cache, a registry or source.",
		Needs: []*phase.Phase{base}, Apply: s.applyImages, Checks: s.imagesChecks(), Timeout: imagesTimeout,
	}
}

func (s *Stack) phase4C(apps *phase.Phase) *phase.Phase {
	return &phase.Phase{
		Name: "4C-cilium-spiffe", Doc: "Cilium authenticates with identities that SPIRE issues, on every node.",
		Needs: []*phase.Phase{apps}, Checks: s.checks4C(),
	}
}

// meshPhases bring up what makes the mesh, once base is done; the last one is "apps".
func (s *Stack) meshPhases(base *phase.Phase) []*phase.Phase {
	ciliumPhase := &phase.Phase{
		Name: "cilium", Doc: "Cilium is the network, with SPIRE as its authentication provider and the derived policies in force.",
		Needs: []*phase.Phase{base}, Apply: s.applyCilium, Checks: s.diagnosed(s.ciliumChecks()),
	}
	spirePhase := &phase.Phase{
		Name: "spire", Doc: "A SPIRE server runs, and an agent on every node.",
		Needs: []*phase.Phase{base}, Apply: s.applySPIRE, Checks: s.diagnosed(s.spireChecks()),
	}
	identities := &phase.Phase{
		Name: "identities", Doc: "Every workload is registered, and its SVID can be had on every node.",
		Needs: []*phase.Phase{spirePhase}, Apply: s.applyIdentities, Checks: s.diagnosed(s.identitiesChecks()),
	}
	all := []*phase.Phase{ciliumPhase, spirePhase, identities}
	running := []*phase.Phase{ciliumPhase, identities}
	if _, ok := s.cfg.Intent.Running(Vault); ok {
		secrets := &phase.Phase{
			Name: "secrets", Doc: "Vault and the databases run under their SPIFFE IDs, configured as derived; no first password is left.",
			Needs: running, Apply: s.applySecrets, Checks: s.secretsChecks(),
		}
		all, running = append(all, secrets), []*phase.Phase{secrets}
	}
	apps := &phase.Phase{
		Name: "apps", Doc: "The workloads run the images of this source tree.",
		Needs: running, Apply: s.applyApps, Checks: s.appsChecks(),
	}
	return append(all, apps)
}

// preflight

func (s *Stack) applyPreflight(ctx context.Context) error {
	_, err := kindx.EnsureEngine(ctx, kindx.EngineConfig{
		StateDir: filepath.Join(s.cfg.Dir, "engine"),
		OnEvent:  func(e kindx.Event) { phase.Progress(ctx, "%s", e) },
	})
	return err
}

// images

func (s *Stack) applyImages(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.buildPrograms(ctx) })
	group.Go(func() error {
		if err := s.resolveAll(ctx); err != nil || s.installs() {
			return err
		}
		node, err := s.nodeImage()
		if err != nil {
			return err
		}
		return images.LoadEngine(ctx, node, images.LoadConfig{OnEvent: func(e images.Event) { phase.Progress(ctx, "%s", e) }})
	})
	if err := group.Wait(); err != nil {
		return err // what is built so far stays for the next run
	}
	if s.builder != nil {
		return s.builder.Close()
	}
	return nil
}

// resolveAll finds the third-party images: built before, in the cache, in a
// registry, or built now, all of the missing ones in one go.
func (s *Stack) resolveAll(ctx context.Context) error {
	var build []string
	node, pulled := s.cfg.nodeRefs()
	refs := s.cfg.ThirdPartyImages()
	if !s.installs() {
		refs = append(refs, node)
	}
	for _, ref := range refs {
		inRegistry := ref
		if ref == node {
			inRegistry = pulled
		}
		found, err := s.find(ctx, ref, inRegistry)
		if err != nil {
			return err
		}
		if !found {
			build = append(build, ref)
		}
	}
	if len(build) == 0 {
		return nil
	}
	phase.Progress(ctx, "building %d images from source: %s", len(build), strings.Join(build, ", "))
	phase.Progress(ctx, "it takes the Debian packages %s on this machine, installed where missing", strings.Join(fromsource.HostPackages(), ", "))
	if err := kindx.InstallPackages(ctx, fromsource.HostPackages()...); err != nil {
		return err
	}
	s.mu.Lock()
	s.say = func(e fromsource.Event) { phase.Progress(ctx, "%s", e) }
	s.mu.Unlock()
	built, err := s.builder.Images(ctx, build...)
	for ref, img := range built {
		s.keep(ref, img)
	}
	return err
}

// find looks for an image without building it; false means that it can only be
// built. What is found is kept under the reference that it was found by.
func (s *Stack) find(ctx context.Context, ref, inRegistry string) (bool, error) {
	var recipe error // that there is none
	if s.builder != nil {
		img, cached, err := s.builder.Cached(ref)
		if errors.Is(err, fromsource.ErrNoRecipe) && s.cfg.Images != images.SourceFromSource {
			recipe, err = noRecipe(ref), nil
		}
		if err != nil {
			return false, err
		}
		if cached {
			s.keep(ref, img)
		}
		if cached || s.cfg.Images == images.SourceFromSource {
			return cached, nil
		}
	}
	r, err := images.Resolve(ctx, inRegistry, images.ResolveConfig{
		Source: images.SourceRegistry, Cache: s.cache, Mirrors: s.cfg.Mirrors, Keychain: s.cfg.Keychain,
		OnEvent: func(e images.Event) { phase.Progress(ctx, "%s", e) },
	})
	switch {
	case err == nil:
		s.keep(inRegistry, r.Image)
		return true, nil
	case s.cfg.Images == images.SourceRegistry || ctx.Err() != nil:
		return false, err
	case recipe != nil:
		return false, fmt.Errorf("%w; and %w", err, recipe)
	}
	// What was tried has been told by the events above.
	phase.Progress(ctx, "no registry gave %s: %s will be built from source", inRegistry, ref)
	return false, nil
}

// nodeImage is the node image, under the name that the engine is to know it by:
// the engine gives no image a digest that it did not pull itself.
func (s *Stack) nodeImage() (images.NamedImage, error) {
	built, pulled := s.cfg.nodeRefs()
	if s.builder != nil {
		img, found, err := s.builder.Cached(built)
		if found {
			return images.NamedImage{Ref: built, Image: img}, nil
		}
		if err != nil && !errors.Is(err, fromsource.ErrNoRecipe) {
			return images.NamedImage{}, err
		}
	}
	img, found, err := s.cache.Get(pulled)
	if err != nil {
		return images.NamedImage{}, err
	}
	if found {
		tag, _, _ := strings.Cut(pulled, "@")
		return images.NamedImage{Ref: tag, Image: img}, nil
	}
	return images.NamedImage{}, fmt.Errorf("neither %s, built from source, nor %s of a registry is in the cache: run the images phase first", built, pulled)
}

// cluster

func (s *Stack) clusterConfig(ctx context.Context) (kindx.Config, error) {
	node, err := s.nodeImage()
	if err != nil {
		return kindx.Config{}, err
	}
	return kindx.Config{
		Name: s.cfg.Intent.Name, Image: node.Ref, Workers: s.cfg.Workers,
		DisableDefaultCNI: true, KubeProxyMode: "none", PortMappings: s.portMappings(),
		Kubeconfig: s.cfg.Kubeconfig, Recreate: s.cfg.Recreate,
		StateDir: filepath.Join(s.cfg.Dir, "clusters"),
		OnEvent:  func(e kindx.Event) { phase.Progress(ctx, "%s", e) },
	}, nil
}

// portMappings make the published workloads' node ports ports of this machine.
func (s *Stack) portMappings() []kindx.PortMapping {
	var all []kindx.PortMapping
	for _, w := range s.cfg.Intent.Workloads {
		if p := w.Publish; p != nil {
			all = append(all, kindx.PortMapping{HostPort: p.HostPort, NodePort: p.NodePort})
		}
	}
	return all
}

func (s *Stack) applyCluster(ctx context.Context) error {
	exists, err := Exists(ctx, s.cfg)
	if err != nil {
		return err
	}
	cfg, err := s.clusterConfig(ctx)
	if err != nil {
		return err
	}
	early, stop := context.WithCancel(ctx)
	var warm sync.WaitGroup
	if !exists {
		// kubeadm waits more than it works: meanwhile the nodes take images.
		warm.Go(func() { s.loadEarly(early) })
	}
	began := time.Now()
	cluster, err := kindx.Ensure(ctx, cfg)
	if err != nil {
		stop()
	}
	warm.Wait()
	stop()
	if err != nil {
		return err
	}
	if err := s.freshReports(ctx, cluster.Started, began); err != nil {
		return err
	}
	if err := s.waitMembers(ctx); err != nil {
		return err
	}
	return s.load(ctx)
}

// waitMembers waits until every node is the API server's too: a kubelet joins in its own time.
func (s *Stack) waitMembers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	want := s.cfg.Workers + 1
	return kube.Wait(ctx, fmt.Sprintf("the API server to know %d nodes", want), 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		names, err := s.nodeNames(ctx)
		return len(names) >= want, fmt.Sprintf("%v", names), err
	})
}

// freshReports waits until no container on the nodes is reported to run since
// before they were started again: until then pods look ready that are not there.
func (s *Stack) freshReports(ctx context.Context, nodes []string, started time.Time) error {
	if len(nodes) == 0 {
		return nil
	}
	client, err := s.kube(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	started = started.Truncate(time.Second) // as precise as the API is
	return kube.Wait(ctx, fmt.Sprintf("the kubelets of %v to report their pods anew", nodes), 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		pods, err := client.Clientset().CoreV1().Pods("").List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, "", err
		}
		var stale []string
		for _, p := range pods.Items {
			old := func(c corev1.ContainerStatus) bool {
				return c.State.Running != nil && c.State.Running.StartedAt.Time.Before(started)
			}
			if slices.Contains(nodes, p.Spec.NodeName) && slices.ContainsFunc(p.Status.ContainerStatuses, old) {
				stale = append(stale, p.Name)
			}
		}
		return len(stale) == 0, fmt.Sprintf("old reports of %v", stale), nil
	})
}

// loadEarly loads the images while the cluster is still being made, as soon as
// every node's containerd answers. Whatever goes wrong, load finds it afterwards.
func (s *Stack) loadEarly(ctx context.Context) {
	err := kube.Wait(ctx, "containerd on each node", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		nodes, err := s.nodes(ctx)
		if err != nil {
			return false, "no nodes", err
		}
		if len(nodes) != s.cfg.Workers+1 {
			return false, fmt.Sprintf("%d nodes", len(nodes)), nil
		}
		for _, n := range nodes {
			if err := n.Exec(ctx, nil, nil, "ctr", "version"); err != nil {
				return false, n.Name(), err
			}
		}
		return true, "all answer", nil
	})
	if err == nil {
		err = s.load(ctx)
	}
	if err != nil && ctx.Err() == nil {
		phase.Progress(ctx, "loading images early: %v", err)
	}
}

// load puts every image but the node's own into the nodes.
func (s *Stack) load(ctx context.Context) error {
	nodes, err := s.nodes(ctx)
	if err != nil {
		return err
	}
	var all []images.NamedImage
	for _, ref := range s.nodeImages() {
		img, ok := s.resolved(ref)
		if !ok {
			return fmt.Errorf("image %s was not resolved: run the images phase first", ref)
		}
		all = append(all, images.NamedImage{Ref: ref, Image: img})
	}
	_, err = images.Load(ctx, nodes, all, images.LoadConfig{OnEvent: func(e images.Event) { phase.Progress(ctx, "%s", e) }})
	return err
}

func (s *Stack) nodes(ctx context.Context) ([]images.Node, error) {
	found, err := kindx.Nodes(ctx, s.cfg.Intent.Name)
	if err != nil {
		return nil, err
	}
	var all []images.Node
	for _, n := range found {
		all = append(all, n)
	}
	return all, nil
}

// nodeImages are the references of the images that the nodes run, sorted.
func (s *Stack) nodeImages() []string {
	refs := s.cfg.ThirdPartyImages()
	s.building.Lock()
	defer s.building.Unlock()
	for _, p := range s.programs {
		refs = append(refs, p.ref)
	}
	slices.Sort(refs)
	return slices.Compact(refs)
}

// cilium

func (s *Stack) applyCilium(ctx context.Context) error {
	cfg, err := s.ciliumConfig(ctx)
	if err != nil {
		return err
	}
	if err := s.release(ctx, cfg); err != nil {
		return err
	}
	return s.applyGuards(ctx)
}

// applyGuards puts the namespaces, their admission policy and the network policies in
// place, before anything runs that they guard.
func (s *Stack) applyGuards(ctx context.Context) error {
	client, err := s.kube(ctx)
	if err != nil {
		return err
	}
	namespaces, err := Namespaces(s.cfg.Intent)
	if err != nil {
		return err
	}
	policies, err := Policies(s.cfg.Intent)
	if err != nil {
		return err
	}
	if err := client.Apply(ctx, Owner, namespaces); err != nil {
		return err
	}
	return client.Apply(ctx, Owner, policies)
}

// spire and identities

func (s *Stack) applySPIRE(ctx context.Context) error {
	cluster, err := s.rest(ctx)
	if err != nil {
		return err
	}
	cfg := s.spireConfig()
	cfg.OnEvent = func(e deploy.Event) { phase.Progress(ctx, "%s", e) }
	_, err = deploy.Install(ctx, cluster, cfg)
	return err
}

func (s *Stack) applyIdentities(ctx context.Context) error {
	if err := s.register(ctx); err != nil {
		return err
	}
	cluster, err := s.rest(ctx)
	if err != nil {
		return err
	}
	var group errgroup.Group
	group.Go(func() error { return deploy.WaitOIDC(ctx, cluster, s.spireConfig()) })
	group.Go(func() error { return s.hurryIdentities(ctx) })
	return group.Wait()
}

// register has SPIRE hold the derived entries, and waits until their SVIDs can be had on
// every node.
func (s *Stack) register(ctx context.Context) error {
	want, err := Entries(s.cfg.Intent)
	if err != nil {
		return err
	}
	conn, err := s.spire(ctx)
	if err != nil {
		return err
	}
	result, err := spire.Sync(ctx, conn, want, s.syncConfig())
	if err != nil {
		return err
	}
	phase.Progress(ctx, "%v", result)
	cluster, err := s.rest(ctx)
	if err != nil {
		return err
	}
	client, err := s.kube(ctx)
	if err != nil {
		return err
	}
	// What a mutation took that was killed.
	if err := giveBack(ctx, client, conn); err != nil {
		return err
	}
	_, err = deploy.WaitUsable(ctx, cluster, s.spireConfig())
	return err
}

// hurryIdentities has Cilium's operator register the identities that it failed to
// register while there was no SPIRE; by itself it would try again ever later. It is
// no more than a hurry: a check of 4C finds whether all of them are registered.
func (s *Stack) hurryIdentities(ctx context.Context) error {
	cluster, err := s.rest(ctx)
	if err != nil {
		return err
	}
	conn, err := s.spire(ctx)
	if err != nil {
		return err
	}
	hurry, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err = kube.Wait(hurry, "the entries of Cilium's identities", time.Second, func(ctx context.Context) (bool, string, error) {
		entries, err := spire.List(ctx, conn, spire.ListConfig{ParentID: spire.CiliumOperatorID(s.td)})
		if err != nil {
			return false, "", err
		}
		identities, err := cilium.Identities(ctx, cluster)
		if err != nil {
			return false, "", err
		}
		var missing []uint32
		for _, id := range identities {
			path := fmt.Sprintf("/identity/%d", id.ID)
			if !slices.ContainsFunc(entries, func(e spire.Entry) bool { return e.SPIFFEID.Path() == path }) {
				missing = append(missing, id.ID)
			}
		}
		return len(missing) == 0, fmt.Sprintf("without an entry: %v", missing), cilium.TouchIdentities(ctx, cluster, missing...)
	})
	if err != nil {
		phase.Progress(ctx, "%v", err)
	}
	return nil
}

func (s *Stack) syncConfig() spire.SyncConfig { return spire.SyncConfig{Owner: Owner} }

// apps

func (s *Stack) applyApps(ctx context.Context) error {
	client, err := s.kube(ctx)
	if err != nil {
		return err
	}
	refs, err := s.appImages(ctx)
	if err != nil {
		return err
	}
	manifests, err := Manifests(s.cfg.Intent, refs)
	if err != nil {
		return err
	}
	if err := client.Apply(ctx, Owner, manifests); err != nil {
		return err
	}
	var group errgroup.Group
	for _, w := range s.cfg.Intent.applications() {
		group.Go(func() error { return client.WaitRollout(ctx, "Deployment", w.Namespace, w.Name) })
	}
	return group.Wait()
}

// After puts a phase of your own behind the standard phase of that name, which it
// then needs.
func After(all []*phase.Phase, name string, own *phase.Phase) ([]*phase.Phase, error) {
	i := slices.IndexFunc(all, func(p *phase.Phase) bool { return p.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("there is no phase %q to put %q behind", name, own.Name)
	}
	own.Needs = append(own.Needs, all[i])
	return slices.Insert(all, i+1, own), nil
}

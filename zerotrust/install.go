package zerotrust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// installs says that the intent is installed in a cluster that is there already.
func (s *Stack) installs() bool { return s.cfg.Registry != "" }

// installPhases bring the intent up in a cluster that is there already (Config.Cluster) and
// has no network yet, and prove it there. The images are pushed to Config.Registry, which the
// nodes pull them from by digest. A cluster with another network, another Cilium or SPIRE, or
// another intent is refused before anything is changed. What asks for the nodes themselves is
// left out: the SVID of each container, sockets, node ports, what is in the clear.
func (s *Stack) installPhases() []*phase.Phase {
	cluster := &phase.Phase{
		Name: "cluster", Doc: "The cluster answers, can take the intent, and is kept for it.",
		Apply: s.claim, Checks: s.claimChecks(),
	}
	imagesPhase := s.imagesPhase(cluster)
	registry := &phase.Phase{
		Name: "registry", Doc: "Every image is where the nodes pull it from.",
		Needs: []*phase.Phase{imagesPhase}, Apply: s.push, Checks: s.registryChecks(),
	}
	all := append([]*phase.Phase{cluster, imagesPhase, registry}, s.meshPhases(registry)...)
	apps := all[len(all)-1]
	b4 := &phase.Phase{
		Name: "4B-network-architecture", Doc: "Services are no node's ports but where they are published; names and health work inside.",
		Needs: []*phase.Phase{apps}, Checks: s.checks4B(),
	}
	c4 := s.phase4C(apps)
	verify := s.VerifyPhases()
	verify[0].Needs = append(verify[0].Needs, c4)
	return append(append(all, b4, c4), verify...)
}

// The claim is a ConfigMap that says which intent a cluster is kept for.
const (
	claimNamespace = "kube-system"
	claimName      = "zerotrust"
)

// found is what a cluster shows that is there already.
type found struct {
	version  string
	nodes    []corev1.Node
	classes  []storagev1.StorageClass
	claim    string   // the intent that it is kept for, "" for none
	others   []string // what is there that the stack would have to replace
	mayNotDo []string // rights that are missing
}

// unfit is why the intent cannot be installed there; all reasons, none if it can.
func (f found) unfit(in Intent) []string {
	var all []string
	say := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if len(f.mayNotDo) > 0 {
		say("the kubeconfig's user may not %s: installing takes an administrator of the cluster", strings.Join(f.mayNotDo, ", nor "))
	}
	if have, err := semver.NewVersion(f.version); err != nil || have.Major() != 1 || have.Minor() < firstKubernetesMinor {
		say("its Kubernetes is %s, want 1.%d or later: %s", f.version, firstKubernetesMinor, whyKubernetes)
	}
	if len(f.nodes) == 0 {
		say("it has no nodes")
	}
	for _, n := range f.nodes {
		if n.Spec.PodCIDR == "" {
			say("node %s has no range for its pods (spec.podCIDR): start the controller manager with --allocate-node-cidrs", n.Name)
		}
		if have := n.Status.NodeInfo; have.OperatingSystem != "linux" || have.Architecture != runtime.GOARCH {
			say("node %s is %s/%s, and the images are for linux/%s", n.Name, have.OperatingSystem, have.Architecture, runtime.GOARCH)
		}
	}
	_, vault := in.Running(Vault)
	_, postgres := in.Running(Postgres)
	// The folders of host-path are root's, and lie on whichever node made them.
	fit := func(c storagev1.StorageClass) bool {
		return c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" && c.Provisioner != "kubernetes.io/host-path"
	}
	if (vault || postgres) && !slices.ContainsFunc(f.classes, fit) {
		say("it has no default StorageClass, other than host-path, to keep the servers' data")
	}
	switch f.claim {
	case in.Name: // an earlier run's work
		return all
	case "":
	default:
		say("it is kept for the intent %q (ConfigMap %s/%s): one cluster takes one intent", f.claim, claimNamespace, claimName)
		return all
	}
	for _, o := range f.others {
		say("%s is there, by somebody else: nothing of theirs is replaced; have the cluster proven as it is, or take one without it", o)
	}
	for _, n := range f.nodes {
		switch why, ready := waitsForNetwork(n); {
		case ready && len(f.others) == 0:
			say("node %s is ready, so that it has a network already: take a cluster that was made without one (no CNI), or have this one proven as it is", n.Name)
		case !ready && why != "":
			say("node %s is not ready: %s", n.Name, why)
		}
	}
	return all
}

// waitsForNetwork says whether a node is ready and, if it is not, why; "" is for want of a
// network alone.
func waitsForNetwork(n corev1.Node) (why string, ready bool) {
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return "", true
		}
		if strings.Contains(c.Message, "NetworkPluginNotReady") {
			return "", false
		}
		return cmp.Or(c.Message, c.Reason, "it does not say why"), false
	}
	return "its kubelet has not reported yet", false
}

// survey looks at the cluster and changes nothing.
func (s *Stack) survey(ctx context.Context) (found, error) {
	var f found
	client, err := s.kube(ctx)
	if err != nil {
		return f, err
	}
	set := client.Clientset()
	served, err := set.Discovery().ServerVersion()
	if err != nil {
		return f, fmt.Errorf("asking the API server for its version: %w", err)
	}
	f.version = served.GitVersion
	everything := permission{verb: "*", group: "*", resource: "*"}
	may, err := s.may(ctx, everything)
	if err != nil {
		return f, err
	}
	if !may {
		f.mayNotDo = append(f.mayNotDo, "do everything in the whole cluster")
	}
	if f.nodes, err = s.members(ctx); err != nil {
		return f, err
	}
	classes, err := set.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
	if err != nil {
		return f, fmt.Errorf("listing the storage classes: %w", err)
	}
	f.classes = classes.Items
	claim, err := set.CoreV1().ConfigMaps(claimNamespace).Get(ctx, claimName, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return f, fmt.Errorf("reading ConfigMap %s/%s: %w", claimNamespace, claimName, err)
	}
	if err == nil {
		f.claim = cmp.Or(claim.Data["intent"], "?")
	}
	pods, err := set.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return f, fmt.Errorf("listing the pods of all namespaces: %w", err)
	}
	m := mesh{pods: pods.Items}
	for what, there := range map[string][]corev1.Pod{
		"Cilium": m.cilium(), "a SPIRE agent": m.running("spire-agent"), "a SPIRE server": m.running("spire-server"),
	} {
		if len(there) > 0 {
			f.others = append(f.others, fmt.Sprintf("%s (pod %s/%s)", what, there[0].Namespace, there[0].Name))
		}
	}
	slices.Sort(f.others)
	return f, nil
}

// claim keeps the cluster for the intent, if it can take it.
func (s *Stack) claim(ctx context.Context) error {
	f, err := s.survey(ctx)
	if err != nil {
		return err
	}
	if why := f.unfit(s.cfg.Intent); len(why) > 0 {
		return fmt.Errorf("the intent %s cannot be installed in this cluster; nothing was changed:\n%s", s.cfg.Intent.Name, strings.Join(why, "\n"))
	}
	if f.claim != "" {
		return nil
	}
	client, err := s.kube(ctx)
	if err != nil {
		return err
	}
	_, err = client.Clientset().CoreV1().ConfigMaps(claimNamespace).Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: claimName, Labels: map[string]string{"app.kubernetes.io/managed-by": Owner}},
		Data:       map[string]string{"intent": s.cfg.Intent.Name, "trustDomain": s.cfg.Intent.TrustDomain},
	}, metav1.CreateOptions{FieldManager: Owner})
	if apierrors.IsAlreadyExists(err) { // another run came first: the check says whose it is
		return nil
	}
	if err != nil {
		return fmt.Errorf("keeping the cluster for the intent (ConfigMap %s/%s): %w", claimNamespace, claimName, err)
	}
	return nil
}

func (s *Stack) claimChecks() []phase.Check {
	return []phase.Check{{
		Name: "fit for the intent", Doc: "It is kept for this intent, and has what that needs: rights, nodes, ranges for pods, storage.",
		Hint: "kubectl get nodes -o wide; kubectl -n kube-system get configmap zerotrust -o yaml",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			ev := phase.Evidence{Want: "kept for " + s.cfg.Intent.Name, Source: "API server"}
			f, err := s.survey(ctx)
			if err != nil {
				return ev, err
			}
			phase.Note(ctx, "kubernetes", f.version)
			for _, n := range f.nodes {
				ev.Details = append(ev.Details, fmt.Sprintf("node %s: %s, pods %s", n.Name, n.Status.NodeInfo.KubeletVersion, n.Spec.PodCIDR))
			}
			if why := f.unfit(s.cfg.Intent); len(why) > 0 {
				return ev, phase.Want(ev.Want, strings.Join(why, "; "))
			}
			if ev.Got = "kept for " + f.claim; f.claim == "" {
				ev.Got = "kept for no intent"
			}
			return ev, same(ev)
		},
	}}
}

// apiServer is an address of the API server that works on a node without kube-proxy; "" where
// there is kube-proxy.
func (s *Stack) apiServer(ctx context.Context) (host string, port int, err error) {
	client, err := s.kube(ctx)
	if err != nil {
		return "", 0, err
	}
	_, err = client.Clientset().AppsV1().DaemonSets("kube-system").Get(ctx, "kube-proxy", metav1.GetOptions{})
	if err == nil {
		return "", 0, nil
	}
	if !apierrors.IsNotFound(err) {
		return "", 0, fmt.Errorf("looking for kube-proxy: %w", err)
	}
	slices, err := client.Clientset().DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"})
	if err != nil {
		return "", 0, fmt.Errorf("looking for the API server's own address: %w", err)
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			for _, p := range s.Ports {
				if p.Port != nil && len(e.Addresses) > 0 && net.ParseIP(e.Addresses[0]) != nil {
					return e.Addresses[0], int(*p.Port), nil
				}
			}
		}
	}
	return "", 0, errors.New("there is no kube-proxy, and Service default/kubernetes names no address of the API server that Cilium could use instead")
}

// The registry

// localHost stands before the names of images that are built here and loaded into kind's nodes.
const localHost = "zerotrust.local/"

// inRegistry is the name of an image in Config.Registry: below its own name, the host included,
// as mirrors have it.
func (c Config) inRegistry(ref string) string {
	return strings.TrimSuffix(c.Registry, "/") + "/" + strings.TrimPrefix(ref, localHost)
}

// image is what pods are to call the image ref: just so on kind's nodes, which are given it,
// and by its name in the registry and its digest in a cluster that pulls it. What was not
// resolved yet has no digest: phase images finds it.
func (s *Stack) image(ref string) string {
	if !s.installs() {
		return ref
	}
	named := s.cfg.inRegistry(ref)
	img, err := s.cached(ref)
	if err != nil || img == nil {
		return named
	}
	digest, err := img.Digest()
	if err != nil {
		return named
	}
	return named + "@" + digest.String()
}

// toPush are the images under their names in the registry.
func (s *Stack) toPush() ([]images.NamedImage, error) {
	var all []images.NamedImage
	for _, ref := range s.nodeImages() {
		img, err := s.cached(ref)
		if err != nil {
			return nil, err
		}
		if img == nil {
			return nil, fmt.Errorf("image %s was not resolved: run the images phase first", ref)
		}
		all = append(all, images.NamedImage{Ref: s.cfg.inRegistry(ref), Image: img})
	}
	return all, nil
}

func (s *Stack) push(ctx context.Context) error {
	all, err := s.toPush()
	if err != nil {
		return err
	}
	_, err = images.Push(ctx, all, images.PushConfig{Keychain: s.cfg.Keychain, OnEvent: func(e images.Event) { phase.Progress(ctx, "%s", e) }})
	return err
}

func (s *Stack) registryChecks() []phase.Check {
	return []phase.Check{{
		Name: "images in the registry", Doc: "The registry has the very images that were resolved and built.",
		Hint: "Nobody else may push to those repositories; run again: what is missing is pushed.",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			ev := phase.Evidence{Source: "HEAD of each manifest in " + s.cfg.Registry}
			if err := s.buildPrograms(ctx); err != nil { // for their digests, where nothing was applied
				return ev, err
			}
			all, err := s.toPush()
			if err != nil {
				return ev, err
			}
			missing, err := images.Unpushed(ctx, all, images.PushConfig{Keychain: s.cfg.Keychain})
			if err != nil {
				return ev, err
			}
			for _, n := range all {
				ev.Details = append(ev.Details, n.Ref)
			}
			ev.Want = fmt.Sprintf("%d of %[1]d there", len(all))
			ev.Got = fmt.Sprintf("%d of %d there", len(all)-len(missing), len(all))
			if len(missing) > 0 {
				return ev, phase.Want(ev.Want, ev.Got+"; missing or another one: "+strings.Join(missing, ", "))
			}
			return ev, nil
		},
	}}
}

// checkPulled compares the pods' images with the one built, by reference and by the digest that
// each kubelet reports.
func (s *Stack) checkPulled(ctx context.Context, client *kube.Client, w Workload, built program) (phase.Evidence, error) {
	ref := s.image(built.ref)
	ev := phase.Evidence{Want: fmt.Sprintf("%d ready pods of %s", max(1, w.Replicas), ref), Source: "go build; API server: what the kubelets report"}
	pods, err := client.ReadyPods(ctx, w.Namespace, "app="+w.Name)
	if err != nil {
		return ev, err
	}
	right := 0
	for _, p := range pods {
		as := p.Spec.Containers[0]
		for _, c := range p.Status.ContainerStatuses {
			if c.Name != as.Name {
				continue
			}
			ev.Details = append(ev.Details, fmt.Sprintf("%s on %s runs %s (%s)", p.Name, p.Spec.NodeName, c.Image, c.ImageID))
			if as.Image == ref && strings.HasSuffix(c.ImageID, "@"+built.digest) {
				right++
			}
		}
	}
	phase.Note(ctx, "image "+w.Name, built.digest)
	if ev.Got = fmt.Sprintf("%d ready pods of %s", right, ref); right != len(pods) {
		ev.Got += fmt.Sprintf("; %d of another image", len(pods)-right)
	}
	return ev, same(ev)
}

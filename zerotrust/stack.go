package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
	"github.com/org/spire-vault-99-action/internal/ghostunnel"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/internal/spiffehelper"
	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/postgres"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// Owner marks what this module made: objects' managed-by label, the field
// manager of applied manifests, the prefix of SPIRE entry IDs.
const Owner = "zerotrust"

// The third-party images of the stack, by upstream's names, in the versions that a Config
// without Kubernetes and Cilium has. They are the same whether they come from a registry or
// are built from source, but for the node image: there it is NodeImage, and the one that
// kind pins (kindx.DefaultImage) from a registry.
const (
	NodeImage     = "kindest/node:v1.37.2"
	AgentImage    = "quay.io/cilium/cilium:v1.20.2"
	OperatorImage = "quay.io/cilium/operator-generic:v1.20.2"
	RelayImage    = "quay.io/cilium/hubble-relay:v1.20.2"
	SPIREServer   = "ghcr.io/spiffe/spire-server:1.13.3"
	SPIREAgent    = "ghcr.io/spiffe/spire-agent:1.13.3"
	SPIREOIDC     = "ghcr.io/spiffe/oidc-discovery-provider:1.13.3"
	HelperImage   = spiffehelper.Image
	TunnelImage   = ghostunnel.Image
)

// The programs of this module that the stack brings along, beside the applications.
const (
	proberPackage   = "github.com/org/spire-vault-99-action/zerotrust/probe/prober"
	unsealerPackage = "github.com/org/spire-vault-99-action/zerotrust/vault/unsealer"
)

// podNetwork is kind's own choice.
const podNetwork = "10.244.0.0/16"

// ThirdPartyImages are the references of the images that the nodes run beside
// those of your own module.
func (c Config) ThirdPartyImages() []string {
	network := c.ciliumImages()
	all := []string{network.Agent, network.Operator, network.Relay, SPIREServer, SPIREAgent, SPIREOIDC}
	if _, ok := c.Intent.Running(Vault); ok {
		all = append(all, c.vaultImage(), HelperImage, TunnelImage)
	}
	if _, ok := c.Intent.Running(Postgres); ok {
		all = append(all, postgres.Image, HelperImage, TunnelImage)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func (c Config) vaultImage() string {
	if c.Vault == vault.OpenBao {
		return vault.OpenBaoImage
	}
	return vault.VaultImage
}

// Config says where and how to bring an intent up. Dir and SourceDir are
// required.
type Config struct {
	Intent     Intent
	Dir        string       // cache and state: nothing outside it, the engine and the kubeconfig is written
	SourceDir  string       // the module that the workloads' packages are built in: see ModuleOf
	Workers    int          // worker nodes beside the control plane; default 2
	Kubeconfig string       // path of the kubeconfig to write; default: kind's choice, ~/.kube/config
	Recreate   bool         // replace a cluster of the same name but another configuration
	Vault      vault.Flavor // default vault.Vault

	// ProgramsDir is a checkout of this module, where the programs are built that the stack brings
	// along (the one that probes, Vault's unsealer); Go workspaces do not count there. ""
	// builds them in SourceDir, which must then be this module or require it.
	ProgramsDir string

	// Kubernetes is the nodes' version, such as "1.36.4": any from 1.33 on (CheckKubernetes).
	// "" is NodeImage's from source, and that of kindx.DefaultImage from a registry. A running
	// cluster of another version is another one, to be replaced with Recreate alone.
	Kubernetes string
	// Cilium is Cilium's version, such as "1.19.7": any of 1.15 to 1.20, from 1.19 on if an edge
	// leads to a host outside (cilium.CheckVersion). "" is AgentImage's. A running cluster of
	// another one is upgraded to it; Cilium itself supports that from one minor to the next.
	//
	// Both may have a leading "v". From a registry any version can be had that it has; what is
	// built from source is of NodeImage's and AgentImage's version, and others are refused.
	Cilium string

	// Cluster is one that is there already. With Registry, "HOST/PATH", the intent is
	// installed in it: Phases push the images there, and its nodes pull them, without
	// credentials of ours. Without Registry it is proven as it is, by VerifyPhases: Dir and
	// SourceDir are not needed then, and ProberImage is, which its nodes must be able to
	// pull: an image of zerotrust/probe/prober, with the program at /app/prober.
	Cluster     *rest.Config
	Registry    string
	ProberImage string

	Images       images.Source       // default images.SourceAuto
	Mirrors      map[string][]string // registry mirrors, as for images.Resolve
	Keychain     authn.Keychain      // credentials for registries; default: none
	DebianMirror string              // for images from source; default: mmdebstrap's own
	GoCache      string              // a Go build cache for images from source; default: dropped after use
}

// Stack is an intent on its way to a cluster: the phases, and what they hand to
// each other. Its methods are safe for concurrent use.
type Stack struct {
	cfg     Config
	td      spiffeid.TrustDomain
	cache   *images.Cache
	builder *fromsource.Builder

	mu      sync.Mutex
	images  map[string]v1.Image // resolved, by reference
	restcfg *rest.Config
	client  *kube.Client
	conn    *deploy.Conn
	seen    *x509bundle.Bundle // the last one
	closers []func() error
	say     func(fromsource.Event) // set while images are built

	// here makes an attempt from outside somebody else's cluster.
	here func(ctx context.Context, target string, timeout time.Duration) (probe.Attempt, error)

	building sync.Mutex
	programs map[string]program // built ones, by package

	loading sync.Mutex
	prober  *probe.Prober  // once its image is on the nodes
	beside  *kindx.Outside // once it runs
}

// New checks the configuration; it touches nothing but Dir. The caller closes
// the Stack.
func New(ctx context.Context, cfg Config) (*Stack, error) {
	if err := cfg.Intent.Validate(); err != nil {
		return nil, err
	}
	if err := cfg.checkVersions(); err != nil {
		return nil, err
	}
	if cfg.Registry != "" && cfg.Cluster == nil {
		return nil, errors.New("zerotrust: Config.Registry is for a cluster that is there already: Config.Cluster is required with it")
	}
	if cfg.Cluster != nil && cfg.Registry == "" {
		if cfg.ProberImage == "" {
			return nil, errors.New("zerotrust: Config.ProberImage, or Registry, is required with Config.Cluster")
		}
		td, err := spiffeid.TrustDomainFromString(cfg.Intent.TrustDomain)
		return &Stack{cfg: cfg, td: td, restcfg: cfg.Cluster, here: probe.FromHere}, err
	}
	if cfg.Dir == "" || cfg.SourceDir == "" {
		return nil, errors.New("zerotrust: Config.Dir and Config.SourceDir are required")
	}
	if cfg.Workers == 0 {
		cfg.Workers = 2
	}
	if cfg.Images == "" {
		cfg.Images = images.SourceAuto
	}
	if cfg.Vault == "" {
		cfg.Vault = vault.Vault
	}
	td, err := spiffeid.TrustDomainFromString(cfg.Intent.TrustDomain)
	if err != nil {
		return nil, err
	}
	cache, err := images.OpenCache(filepath.Join(cfg.Dir, "images"))
	if err != nil {
		return nil, err
	}
	s := &Stack{
		cfg: cfg, td: td, cache: cache, images: map[string]v1.Image{}, programs: map[string]program{},
		restcfg: cfg.Cluster, here: probe.FromHere,
	}
	if cfg.Images != images.SourceRegistry {
		s.builder, err = fromsource.New(ctx, fromsource.Config{
			Dir: filepath.Join(cfg.Dir, "fromsource"), Cache: cache, DebianMirror: cfg.DebianMirror, GoCache: cfg.GoCache,
			OnEvent: s.tell,
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Close ends what the phases left open. The cluster stays.
func (s *Stack) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []error
	for _, c := range s.closers {
		all = append(all, c())
	}
	s.closers = nil
	if s.conn != nil {
		all = append(all, s.conn.Close())
		s.conn = nil
	}
	return errors.Join(all...)
}

func (s *Stack) atClose(c func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, c)
}

// tell hands the image builder's events to the phase that is building.
func (s *Stack) tell(e fromsource.Event) {
	s.mu.Lock()
	say := s.say
	s.mu.Unlock()
	if say != nil {
		say(e)
	}
}

// rest is the connection to the cluster, found by its name.
func (s *Stack) rest(ctx context.Context) (*rest.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.restcfg != nil {
		return s.restcfg, nil
	}
	cfg, err := kindx.REST(ctx, s.cfg.Intent.Name)
	if err != nil {
		return nil, err
	}
	s.restcfg = cfg
	return cfg, nil
}

func (s *Stack) kube(ctx context.Context) (*kube.Client, error) {
	cfg, err := s.rest(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == nil {
		s.client, err = kube.New(cfg)
	}
	return s.client, err
}

// spire is the admin connection to the SPIRE server, opened once.
func (s *Stack) spire(ctx context.Context) (*deploy.Conn, error) {
	cfg, err := s.rest(ctx)
	if err != nil {
		return nil, err
	}
	installed := s.spireConfig()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		s.conn, err = deploy.Connect(ctx, cfg, installed)
		if err != nil {
			return nil, err
		}
	}
	return s.conn, nil
}

// dropSPIRE forgets the admin connection: the next use opens another one.
func (s *Stack) dropSPIRE() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// bundle is the trust bundle, as the SPIRE server has it now.
func (s *Stack) bundle(ctx context.Context) (*x509bundle.Bundle, error) {
	conn, err := s.spire(ctx)
	if err != nil {
		return nil, err
	}
	bundle, err := deploy.Bundle(ctx, conn)
	if err == nil {
		s.mu.Lock()
		s.seen = bundle
		s.mu.Unlock()
	}
	return bundle, err
}

// trusted is the trust bundle as the SPIRE server has it or, while it is away, as it had it
// last: what was issued before is still to be judged.
func (s *Stack) trusted(ctx context.Context) (*x509bundle.Bundle, error) {
	bundle, err := s.bundle(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.seen != nil {
		return s.seen, nil
	}
	return bundle, err
}

func (s *Stack) spireConfig() deploy.Config {
	cfg := deploy.Config{
		TrustDomain: s.td, ClusterName: s.cfg.Intent.Name,
		ServerImage: s.image(SPIREServer), AgentImage: s.image(SPIREAgent), OIDCImage: s.image(SPIREOIDC), TunnelImage: s.image(TunnelImage),
	}
	if w, ok := s.cfg.Intent.Running(Vault); ok {
		cfg.KeyReaders = []spiffeid.ID{s.cfg.Intent.ID(w)}
	}
	return cfg
}

func (s *Stack) ciliumConfig(ctx context.Context) (cilium.Config, error) {
	own := s.cfg.ciliumImages()
	cfg := cilium.Config{
		Version: s.cfg.ciliumVersion(), TrustDomain: s.td, ClusterName: s.cfg.Intent.Name,
		APIServerHost: s.cfg.Intent.Name + "-control-plane",
		DirectRoutes:  podNetwork,
		Images:        cilium.Images{Agent: s.image(own.Agent), Operator: s.image(own.Operator), Relay: s.image(own.Relay)},
		PullPolicy:    "IfNotPresent",
		DisableEnvoy:  true, // no recipe builds Envoy, and no policy of ours needs it
		DNSProxy:      slices.ContainsFunc(s.cfg.Intent.Edges, func(e Edge) bool { return e.host() != "" }),
	}
	if s.installs() { // whose nodes may be anywhere
		var err error
		cfg.DirectRoutes = ""
		if cfg.APIServerHost, cfg.APIServerPort, err = s.apiServer(ctx); err != nil {
			return cfg, err
		}
	}
	return cfg, nil
}

func (s *Stack) resolved(ref string) (v1.Image, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, ok := s.images[ref]
	return img, ok
}

func (s *Stack) keep(ref string, img v1.Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.images[ref] = img
}

// Down removes the cluster and its kubeconfig entry. It is fine if there is none.
func Down(ctx context.Context, cfg Config) error {
	return kindx.Delete(ctx, cfg.Intent.Name, kindx.Config{Kubeconfig: cfg.Kubeconfig, StateDir: filepath.Join(cfg.Dir, "clusters")})
}

// Exists says whether the cluster is there, whole or not.
func Exists(ctx context.Context, cfg Config) (bool, error) {
	_, err := kindx.Nodes(ctx, cfg.Intent.Name)
	if errors.Is(err, kindx.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// members are the cluster's nodes, as the API server has them.
func (s *Stack) members(ctx context.Context) ([]corev1.Node, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := client.Clientset().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the nodes: %w", err)
	}
	return nodes.Items, nil
}

var errNoPod = errors.New("no ready pod")

// readyPods are the ready pods of a workload, at least one.
func (s *Stack) readyPods(ctx context.Context, w Workload) ([]corev1.Pod, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := client.ReadyPods(ctx, w.Namespace, "")
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return p.Spec.ServiceAccountName != w.Account() })
	if err == nil && len(pods) == 0 {
		err = fmt.Errorf("workload %s: %w: none in namespace %s has service account %s", w.Name, errNoPod, w.Namespace, w.Account())
	}
	return pods, err
}

// nodeNames are the names of the cluster's nodes, sorted.
func (s *Stack) nodeNames(ctx context.Context) ([]string, error) {
	nodes, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	return names, nil
}

// cached is an image that was resolved before, by this process or an earlier one,
// or nil.
func (s *Stack) cached(ref string) (v1.Image, error) {
	if img, ok := s.resolved(ref); ok {
		return img, nil
	}
	if s.builder != nil {
		img, found, err := s.builder.Cached(ref)
		if found || err != nil && !errors.Is(err, fromsource.ErrNoRecipe) {
			return img, err
		}
	}
	img, found, err := s.cache.Get(ref)
	if err != nil || !found {
		return nil, err
	}
	return img, nil
}

func (s *Stack) preflightConfig() kindx.PreflightConfig {
	return kindx.PreflightConfig{Name: s.cfg.Intent.Name, Workers: s.cfg.Workers, PortMappings: s.portMappings()}
}

package deploy

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/ghostunnel"
	"github.com/org/spire-vault-99-action/spire"
)

// The images of the SPIRE version that the manifests and configs are written for.
const (
	ServerImage = "ghcr.io/spiffe/spire-server:1.13.3"
	AgentImage  = "ghcr.io/spiffe/spire-agent:1.13.3"
	OIDCImage   = "ghcr.io/spiffe/oidc-discovery-provider:1.13.3"
)

// Where the agents' sockets are, on the nodes as in the containers that mount them.
const (
	WorkloadSocket = "/run/spire/sockets/agent.sock"
	AdminSocket    = "/run/spire/admin-sockets/admin.sock"
)

const (
	serverPort = 8081
	// On the nodes' own 127.0.0.1, since agents are in the host's network.
	agentHealthPort = 9982
)

// Storage says where the server keeps its keys and its entries.
type Storage string

const (
	// StorageAuto keeps what an installed server has; else it is StorageClaim if the
	// cluster has a default StorageClass that is fit, StorageNode if not. Unfit is
	// kubernetes.io/host-path, kind's last resort: its volumes are in a node's /tmp
	// and tied to no node.
	StorageAuto Storage = ""
	// StorageClaim is a volume claim. The server runs as uid 1000.
	StorageClaim Storage = "claim"
	// StorageNode is the folder /var/lib/spire-server/<namespace> of the control-plane
	// node, to which the server is bound. Kubernetes makes such folders for root,
	// so the server runs as root, with no capability. For clusters with one
	// control-plane node. Uninstall leaves the folder.
	StorageNode Storage = "node"
)

// Config says what to install and how to reach it. The zero value works; calls
// about the same installation need the same Config.
type Config struct {
	// Namespace for everything. "" is spire-system. It should be SPIRE's alone:
	// Uninstall deletes it.
	Namespace string
	// TrustDomain of all SPIFFE IDs. Zero is demo.local.
	TrustDomain spiffeid.TrustDomain
	// ClusterName is the cluster's name in node attestation and so in the node
	// alias. "" is precinct-99.
	ClusterName string

	// Images, by default those of SPIRE 1.13.3 on ghcr.io.
	ServerImage, AgentImage, OIDCImage string
	// TunnelImage is ghostunnel's, for KeyReaders; by default the release that its
	// arguments are written for.
	TunnelImage string
	// PullPolicy of all containers. "" is IfNotPresent.
	PullPolicy string

	// AdminIDs may call all of the server's APIs, besides the identity that Connect
	// uses. Nil is Cilium's operator.
	AdminIDs []spiffeid.ID
	// AuthorizedDelegates may ask the agents, at the admin socket, for the SVIDs of
	// others. Nil is Cilium's agent.
	AuthorizedDelegates []spiffeid.ID

	// Storage of the server; StorageClass and StorageSize are for StorageClaim. "" is
	// the default class, and 1Gi.
	Storage                   Storage
	StorageClass, StorageSize string

	// CATTL is how long the server's own authority is valid. Zero is a week, so a
	// laptop's cluster outlives a weekend. SVIDs live at most a sixth of it.
	CATTL time.Duration
	// X509TTL and JWTTTL are how long SVIDs are, where their entry does not
	// say. Zero is an hour, and 5 minutes.
	X509TTL, JWTTTL time.Duration
	// SyncInterval is how often the server reads its entries anew, and how often
	// agents ask for theirs: a new entry takes up to twice as long to a workload.
	// Zero is one second. SPIRE's own default is 5 s, which is better from some
	// ten thousand entries on.
	SyncInterval time.Duration

	// JWTIssuer is the "iss" of JWT-SVIDs and the issuer in the discovery document. ""
	// is the URL of service spire-oidc inside the cluster.
	JWTIssuer string
	// OIDCDomains are host names by which the discovery document may be asked for,
	// besides those of the service. Ports do not matter.
	OIDCDomains []string
	// KeyReaders may also fetch the keys over SPIFFE mTLS, at port KeysPort of the
	// service, by the host name 127.0.0.1. With none there is no such port.
	KeyReaders []spiffeid.ID

	// VerifyKubelet has agents check their kubelet's certificate against the cluster's
	// authority. Kubelets sign their own unless serverTLSBootstrap is on.
	VerifyKubelet bool
	// LogLevel of server, agents and provider. "" is INFO.
	LogLevel string
	// NoWait has Install return once everything is applied.
	NoWait bool

	// OnEvent is told of progress, never from two goroutines at a time.
	OnEvent func(Event)
}

// Event is a bit of progress.
type Event struct {
	// Text says on one line what is being done or has been.
	Text string
}

// String is the event on one line.
func (e Event) String() string { return e.Text }

func (c Config) event(format string, args ...any) {
	if c.OnEvent != nil {
		c.OnEvent(Event{Text: fmt.Sprintf(format, args...)})
	}
}

// AdminID is the identity that Connect takes: an admin of the server by its config,
// with no entry of its own.
func AdminID(td spiffeid.TrustDomain) spiffeid.ID {
	id, _ := spiffeid.FromPath(td, "/admin/session") // fails for the zero trust domain alone
	return id
}

// OIDCID is the identity of the discovery provider.
func OIDCID(td spiffeid.TrustDomain) spiffeid.ID {
	id, _ := spiffeid.FromPath(td, "/oidc-discovery-provider") // as for AdminID
	return id
}

// Entries are the registration entries that an installation itself needs: the node
// alias, without which no other entry is delivered, and the OIDC discovery
// provider's. Install does not create them, so that one wanted list and one owner
// can hold them along with all others.
func Entries(cfg Config) []spire.Entry {
	cfg = cfg.withDefaults()
	return []spire.Entry{
		spire.NodeAlias(cfg.TrustDomain, cfg.ClusterName),
		{
			SPIFFEID: OIDCID(cfg.TrustDomain),
			ParentID: spire.NodeAliasID(cfg.TrustDomain, cfg.ClusterName),
			Selectors: []spire.Selector{
				{Type: "k8s", Value: "ns:" + cfg.Namespace}, {Type: "k8s", Value: "sa:spire-oidc"},
			},
		},
	}
}

// KeysAddress is where KeyReaders find the keys of JWT-SVIDs, at the path /keys; the server
// there is OIDCID.
func KeysAddress(cfg Config) string {
	return fmt.Sprintf("spire-oidc.%s.svc.cluster.local:%d", cfg.withDefaults().Namespace, KeysPort)
}

// KeysPort is that of KeysAddress, of the service and of its pods.
const KeysPort = 8443

// Issuer is the "iss" of the JWT-SVIDs of an installation, and the URL below which their
// keys are to be had.
func Issuer(cfg Config) string { return cfg.withDefaults().JWTIssuer }

func (c Config) withDefaults() Config {
	c.Namespace = cmp.Or(c.Namespace, "spire-system")
	if c.TrustDomain.IsZero() {
		c.TrustDomain = spiffeid.RequireTrustDomainFromString("demo.local")
	}
	c.ClusterName = cmp.Or(c.ClusterName, "precinct-99")
	c.ServerImage = cmp.Or(c.ServerImage, ServerImage)
	c.AgentImage = cmp.Or(c.AgentImage, AgentImage)
	c.OIDCImage = cmp.Or(c.OIDCImage, OIDCImage)
	c.TunnelImage = cmp.Or(c.TunnelImage, ghostunnel.Image)
	c.PullPolicy = cmp.Or(c.PullPolicy, "IfNotPresent")
	if c.AdminIDs == nil {
		c.AdminIDs = []spiffeid.ID{spire.CiliumOperatorID(c.TrustDomain)}
	}
	if c.AuthorizedDelegates == nil {
		c.AuthorizedDelegates = []spiffeid.ID{spire.CiliumAgentID(c.TrustDomain)}
	}
	c.StorageSize = cmp.Or(c.StorageSize, "1Gi")
	c.CATTL = cmp.Or(c.CATTL, 7*24*time.Hour)
	c.X509TTL = cmp.Or(c.X509TTL, time.Hour)
	c.JWTTTL = cmp.Or(c.JWTTTL, 5*time.Minute)
	c.SyncInterval = cmp.Or(c.SyncInterval, time.Second)
	c.JWTIssuer = cmp.Or(c.JWTIssuer, "http://spire-oidc."+c.Namespace+".svc.cluster.local")
	c.LogLevel = cmp.Or(c.LogLevel, "INFO")
	return c
}

var (
	// dnsLabel is what Kubernetes allows for a namespace.
	dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	// plain has nothing that YAML or HCL would read as more than a word.
	plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@-]*$`)
)

// check finds what would break the manifests or a config, which are templates.
func (c Config) check() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if !dnsLabel.MatchString(c.Namespace) {
		bad("Namespace %q: want a DNS label", c.Namespace)
	}
	if _, err := spiffeid.FromSegments(c.TrustDomain, c.ClusterName); err != nil {
		bad("ClusterName %q: it becomes part of SPIFFE IDs: %v", c.ClusterName, err)
	}
	for name, value := range map[string]string{
		"ServerImage": c.ServerImage, "AgentImage": c.AgentImage, "OIDCImage": c.OIDCImage, "TunnelImage": c.TunnelImage,
		"StorageSize": c.StorageSize, "StorageClass": cmp.Or(c.StorageClass, "none"),
	} {
		if !plain.MatchString(value) {
			bad("%s %q: unexpected characters", name, value)
		}
	}
	if !slices.Contains([]string{"Always", "IfNotPresent", "Never"}, c.PullPolicy) {
		bad("PullPolicy %q: want Always, IfNotPresent or Never", c.PullPolicy)
	}
	if !slices.Contains([]Storage{StorageAuto, StorageClaim, StorageNode}, c.Storage) {
		bad("Storage %q: want %q, %q or nothing", c.Storage, StorageClaim, StorageNode)
	}
	if !slices.Contains([]string{"DEBUG", "INFO", "WARN", "ERROR"}, c.LogLevel) {
		bad("LogLevel %q: want DEBUG, INFO, WARN or ERROR", c.LogLevel)
	}
	for name, d := range map[string]time.Duration{
		"CATTL": c.CATTL, "X509TTL": c.X509TTL, "JWTTTL": c.JWTTTL, "SyncInterval": c.SyncInterval,
	} {
		if d < time.Second {
			bad("%s %s: want a second or more", name, d)
		}
	}
	for _, id := range slices.Concat(c.AdminIDs, c.AuthorizedDelegates, c.KeyReaders) {
		if !id.MemberOf(c.TrustDomain) {
			bad("AdminIDs, AuthorizedDelegates, KeyReaders: %s is not of trust domain %s", id, c.TrustDomain)
		}
	}
	if u, err := url.Parse(c.JWTIssuer); err != nil || u.Scheme == "" || u.Host == "" {
		bad("JWTIssuer %q: want a URL", c.JWTIssuer)
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("SPIRE deployment config: %w", err)
	}
	return nil
}

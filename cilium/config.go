package cilium

import (
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	// DefaultVersion is the Cilium version that an empty Config.Version means.
	DefaultVersion = "1.20.2"
	// Namespace is where Cilium is installed.
	Namespace = "kube-system"

	releaseName    = "cilium"
	agentSelector  = "k8s-app=cilium"
	relaySelector  = "k8s-app=hubble-relay"
	agentContainer = "cilium-agent"
	relayPort      = 4245

	defaultTimeout = 10 * time.Minute
)

// Config says which Cilium to install and how. Its zero value is Cilium
// [DefaultVersion] out of the Go module, with the chart's images, kube-proxy
// kept, and no mutual authentication.
type Config struct {
	// Version is the wanted chart version, with or without a leading "v". Empty
	// means the version of the chart that Chart.Dir, Chart.Archive or
	// Chart.Module names, and DefaultVersion for the other sources.
	Version string
	// Chart is where the chart comes from.
	Chart Chart

	// ClusterName is Cilium's name for this cluster (it prefixes the node names
	// in flows). Empty keeps the chart's "default".
	ClusterName string

	// APIServerHost is an address of the API server that works without
	// kube-proxy, such as "<cluster>-control-plane" for kind. When it is set,
	// Cilium replaces kube-proxy; when it is empty, kube-proxy must be there.
	APIServerHost string
	// APIServerPort is the port at APIServerHost; 0 means 6443.
	APIServerPort int

	// DirectRoutes is the pods' network, such as "10.244.0.0/16" for kind, and has
	// nodes send each other the packets of pods as they are, by a route to every other
	// node. All nodes must be on one link, as kind's are. Empty means a tunnel, which
	// any nodes can have; its agents compile their programs twice when they first start.
	DirectRoutes string

	// TrustDomain turns mutual authentication on. Its zero value leaves it off,
	// and the three fields below without effect.
	TrustDomain spiffeid.TrustDomain
	// SPIREServer is the SPIRE server's host:port as the operator reaches it. The
	// operator resolves a Service to its cluster IP, so that Service must not be
	// headless. Empty means "spire-server.spire-system.svc:8081".
	SPIREServer string
	// AdminSocket is the SPIRE agent's admin socket on each node. Its directory is
	// mounted into cilium-agent. Empty means
	// "/run/spire/admin-sockets/admin.sock".
	AdminSocket string
	// AgentSocket is the SPIRE agent's workload socket on each node. Its directory
	// is mounted into cilium-operator. Empty means "/run/spire/sockets/agent.sock".
	AgentSocket string

	// Images replaces the chart's images by reference.
	Images Images
	// PullPolicy is the pull policy of the images in Images ("Never",
	// "IfNotPresent", "Always"); empty keeps the chart's.
	PullPolicy string
	// DisableEnvoy turns Envoy and with it the L7 proxy off, for clusters that
	// have no Envoy image. L7 policies are then refused by Cilium.
	DisableEnvoy bool
	// DNSProxy keeps the L7 proxy on without Envoy, for rules about DNS and toFQDNs: their
	// proxy is in Cilium's agent itself. L7 policies of other protocols are then taken, and
	// lead nowhere.
	DNSProxy bool

	// Values are further chart values. They are merged last, map by map, and win.
	Values map[string]any

	// Timeout bounds the wait for the rollout of each install, upgrade or
	// rollback; 0 means 10 minutes. A context that ends earlier wins.
	Timeout time.Duration
	// OnEvent, if set, is told what happens, Helm's own log included. It may be
	// called from several goroutines at once.
	OnEvent func(Event)
}

// Images are full image references; an empty one keeps the chart's own.
type Images struct {
	Agent, Operator, Relay string
}

// Event is one thing that happened while a verb of this package ran.
type Event struct {
	// Source is who says it: "chart", "helm", "rollout" or "release".
	Source  string
	Message string
}

// String is the event as one line.
func (e Event) String() string {
	return e.Source + ": " + strings.Join(strings.Fields(e.Message), " ")
}

func (c Config) emit(source, format string, args ...any) {
	if c.OnEvent != nil {
		c.OnEvent(Event{Source: source, Message: fmt.Sprintf(format, args...)})
	}
}

func (c Config) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

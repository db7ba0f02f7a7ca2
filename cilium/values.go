package cilium

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"strings"
)

// clusterNamePattern and its 32 characters are Cilium's own rule, checked here so
// that the message comes before anything is fetched or rendered.
var clusterNamePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

// Values are the chart values that c stands for, c.Values merged in last. They fit
// the charts of 1.15 to 1.20. It is pure; the error says which field is wrong.
func Values(c Config) (map[string]any, error) {
	v := map[string]any{
		"ipam": map[string]any{"mode": "kubernetes"},
		// Pods that read a changed configuration are replaced; else they would run on
		// with the old one.
		"rollOutCiliumPods": true,
		"operator":          map[string]any{"replicas": 1, "rollOutPods": true},
		"hubble": map[string]any{
			"enabled": true,
			// It often starts before cluster DNS does, and would then look for its peers
			// again only after 30 s.
			"relay": map[string]any{"enabled": true, "rollOutPods": true, "retryTimeout": "1s"},
			// The chart makes the certificates while it renders and needs no image for
			// it; 1.20 keeps those that exist. 1.15 makes new ones at each upgrade.
			"tls": map[string]any{"auto": map[string]any{"enabled": true, "method": "helm"}},
			"metrics": map[string]any{"enabled": []any{
				"drop:sourceContext=pod;destinationContext=pod",
			}},
		},
		"kubeProxyReplacement": c.APIServerHost != "",
	}
	if c.ClusterName != "" {
		if !clusterNamePattern.MatchString(c.ClusterName) {
			return nil, fmt.Errorf("cilium: ClusterName %q: Cilium takes at most 32 lower-case letters, digits and '-', starting and ending with a letter or digit", c.ClusterName)
		}
		v["cluster"] = map[string]any{"name": c.ClusterName}
	}
	if c.APIServerHost != "" {
		v["k8sServiceHost"] = c.APIServerHost
		port := c.APIServerPort
		if port == 0 {
			port = 6443
		}
		if port < 1 || port > 65535 {
			return nil, fmt.Errorf("cilium: APIServerPort %d is not a port", port)
		}
		v["k8sServicePort"] = port
	}
	if c.DirectRoutes != "" {
		if network, err := netip.ParsePrefix(c.DirectRoutes); err != nil || !network.Addr().Is4() {
			return nil, fmt.Errorf("cilium: DirectRoutes %q: want the pods' IPv4 network, such as 10.244.0.0/16", c.DirectRoutes)
		}
		v["routingMode"] = "native"
		v["autoDirectNodeRoutes"] = true
		v["ipv4NativeRoutingCIDR"] = c.DirectRoutes
	}
	if c.DisableEnvoy {
		v["envoy"] = map[string]any{"enabled": false}
		v["l7Proxy"] = c.DNSProxy
		if c.DNSProxy {
			// It would ask an Envoy that is not there for its version.
			v["extraConfig"] = map[string]any{"disable-envoy-version-check": "true"}
		}
	}

	images := map[string]any{}
	if i := image(c.Images.Agent, c.PullPolicy); i != nil {
		images["image"] = i
	}
	if i := image(c.Images.Operator, c.PullPolicy); i != nil {
		images["operator"] = map[string]any{"image": i}
	}
	if i := image(c.Images.Relay, c.PullPolicy); i != nil {
		images["hubble"] = map[string]any{"relay": map[string]any{"image": i}}
	}
	v = merge(v, images)

	if !c.TrustDomain.IsZero() {
		auth, err := authentication(c)
		if err != nil {
			return nil, err
		}
		v["authentication"] = auth
	}
	return merge(v, c.Values), nil
}

func image(ref, pullPolicy string) map[string]any {
	if ref == "" {
		return nil
	}
	i := map[string]any{"override": ref, "useDigest": false}
	if pullPolicy != "" {
		i["pullPolicy"] = pullPolicy
	}
	return i
}

func authentication(c Config) (map[string]any, error) {
	if version := wantedVersion(c); version != "" {
		if err := CheckVersion(version); err != nil {
			return nil, err
		}
	}
	server := orDefault(c.SPIREServer, "spire-server.spire-system.svc:8081")
	if _, _, err := net.SplitHostPort(server); err != nil {
		return nil, fmt.Errorf("cilium: SPIREServer %q is not host:port: %w", server, err)
	}
	admin := orDefault(c.AdminSocket, "/run/spire/admin-sockets/admin.sock")
	agent := orDefault(c.AgentSocket, "/run/spire/sockets/agent.sock")
	for name, path := range map[string]string{"AdminSocket": admin, "AgentSocket": agent} {
		if !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("cilium: %s %q is not an absolute path on the node", name, path)
		}
	}
	return map[string]any{
		"enabled": true,
		"mutual": map[string]any{"spire": map[string]any{
			"enabled":         true,
			"install":         map[string]any{"enabled": false},
			"serverAddress":   server,
			"trustDomain":     c.TrustDomain.Name(),
			"adminSocketPath": admin,
			"agentSocketPath": agent,
			// Within each attempt the operator asks the agent ever less often.
			"connectionTimeout": "10s",
		}},
	}, nil
}

// merge is a copy of base with over laid upon it: maps are merged, everything else
// is replaced. Neither argument is changed or shared.
func merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		m, isMap := v.(map[string]any)
		if !isMap {
			out[k] = v
			continue
		}
		b, _ := out[k].(map[string]any)
		out[k] = merge(b, m)
	}
	return out
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

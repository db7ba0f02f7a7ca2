package cilium

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var demo = spiffeid.RequireTrustDomainFromString("demo.local")

// at is the value at a dotted path, nil if there is none.
func at(v map[string]any, path string) any {
	var cur any = v
	for key := range strings.SplitSeq(path, ".") {
		m, _ := cur.(map[string]any)
		cur = m[key]
	}
	return cur
}

func TestValues(t *testing.T) {
	full := Config{
		ClusterName: "precinct-99", APIServerHost: "precinct-99-control-plane", TrustDomain: demo,
		Images:     Images{Agent: "q.io/agent:v1", Operator: "q.io/operator:v1", Relay: "q.io/relay:v1"},
		PullPolicy: "Never", DisableEnvoy: true, DirectRoutes: "10.244.0.0/16",
		Values: map[string]any{
			"hubble":   map[string]any{"relay": map[string]any{"replicas": 2}},
			"operator": map[string]any{"replicas": 3},
			"debug":    map[string]any{"enabled": true},
		},
	}
	for _, tt := range []struct {
		name string
		c    Config
		want map[string]any // by path; nil wants it absent
	}{
		{"zero", Config{}, map[string]any{
			"kubeProxyReplacement": false, "k8sServiceHost": nil, "cluster": nil, "authentication": nil,
			"envoy": nil, "l7Proxy": nil, "image": nil, "operator.image": nil, "operator.replicas": 1,
			"ipam.mode": "kubernetes", "hubble.relay.enabled": true, "hubble.tls.auto.method": "helm",
			"hubble.relay.retryTimeout": "1s", "routingMode": nil, "autoDirectNodeRoutes": nil, "ipv4NativeRoutingCIDR": nil,
			"rollOutCiliumPods": true, "operator.rollOutPods": true, "hubble.relay.rollOutPods": true,
		}},
		{"full", full, map[string]any{
			"cluster.name": "precinct-99", "kubeProxyReplacement": true,
			"k8sServiceHost": "precinct-99-control-plane", "k8sServicePort": 6443,
			"envoy.enabled": false, "l7Proxy": false,
			"routingMode": "native", "autoDirectNodeRoutes": true, "ipv4NativeRoutingCIDR": "10.244.0.0/16",
			"image.override": "q.io/agent:v1", "image.useDigest": false, "image.pullPolicy": "Never",
			"operator.image.override": "q.io/operator:v1", "hubble.relay.image.override": "q.io/relay:v1",
			"authentication.enabled":                      true,
			"authentication.mutual.spire.enabled":         true,
			"authentication.mutual.spire.install.enabled": false,
			"authentication.mutual.spire.trustDomain":     "demo.local",
			"authentication.mutual.spire.serverAddress":   "spire-server.spire-system.svc:8081",
			"authentication.mutual.spire.adminSocketPath": "/run/spire/admin-sockets/admin.sock",
			"authentication.mutual.spire.agentSocketPath": "/run/spire/sockets/agent.sock",
			// The user's values win and take nothing else away.
			"operator.replicas": 3, "hubble.relay.replicas": 2, "hubble.relay.enabled": true, "debug.enabled": true,
		}},
		{"own port and one image", Config{APIServerHost: "h", APIServerPort: 443, Images: Images{Agent: "a:1"}}, map[string]any{
			"k8sServicePort": 443, "image.override": "a:1", "image.pullPolicy": nil, "operator.image": nil,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Values(tt.c)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range tt.want {
				if diff := cmp.Diff(want, at(got, path)); diff != "" {
					t.Errorf("%s: -want +got\n%s", path, diff)
				}
			}
		})
	}
	want := map[string]any{
		"hubble":   map[string]any{"relay": map[string]any{"replicas": 2}},
		"operator": map[string]any{"replicas": 3},
		"debug":    map[string]any{"enabled": true},
	}
	if diff := cmp.Diff(want, full.Values); diff != "" {
		t.Errorf("Values changed what the caller gave: -want +got\n%s", diff)
	}
}

func TestValuesRefuse(t *testing.T) {
	for _, tt := range []struct {
		name string
		c    Config
		say  string
	}{
		{"cluster name", Config{ClusterName: "Precinct_99"}, "ClusterName"},
		{"long cluster name", Config{ClusterName: strings.Repeat("a", 33)}, "32"},
		{"port", Config{APIServerHost: "h", APIServerPort: 70000}, "70000"},
		{"server without port", Config{TrustDomain: demo, SPIREServer: "spire-server"}, "host:port"},
		{"routes to an address", Config{DirectRoutes: "10.244.0.0"}, "DirectRoutes"},
		{"routes to IPv6", Config{DirectRoutes: "fd00::/48"}, "DirectRoutes"},
		{"relative socket", Config{TrustDomain: demo, AdminSocket: "run/admin.sock"}, "AdminSocket"},
		{"1.21", Config{TrustDomain: demo, Version: "v1.21.0"}, "removed after 1.20"},
		{"1.14", Config{TrustDomain: demo, Version: "1.14.19"}, "cilium-dbg"},
		{"half a version", Config{TrustDomain: demo, Version: "1.20"}, "whole version"},
		{"1.21 module", Config{TrustDomain: demo, Chart: Chart{Module: "v1.21.3"}}, "1.21.3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := Values(tt.c); err == nil || !strings.Contains(err.Error(), tt.say) {
				t.Errorf("got %v, want an error with %q", err, tt.say)
			}
		})
	}
	if _, err := Values(Config{Version: "1.21.0"}); err != nil {
		t.Errorf("1.21 without mutual authentication: %v", err)
	}
}

package kindx

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

func TestZeroConfigWorks(t *testing.T) {
	c, err := Config{}.withDefaults()
	if err != nil || c.Name != DefaultName || c.Image == "" || c.Provider != Docker || c.ReadyTimeout <= 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestBadConfigs(t *testing.T) {
	tests := []struct {
		cfg  Config
		want string
	}{
		{Config{Name: "Upper"}, `"Upper"`},
		{Config{Name: strings.Repeat("a", 51)}, "at most 50"},
		{Config{Workers: -1}, "-1 workers"},
		{Config{KubeProxyMode: "off"}, `"off"`},
		{Config{PodSubnet: "10.0.0.0"}, "CIDR"},
		{Config{Provider: "lxc"}, `"lxc"`},
		{Config{PortMappings: []PortMapping{{HostPort: 70000, NodePort: 80}}}, "1 to 65535"},
		{Config{PortMappings: []PortMapping{{HostPort: 80}}}, "1 to 65535"},
		{Config{PortMappings: []PortMapping{{HostPort: 80, NodePort: 80, Protocol: "quic"}}}, `"tcp", "udp" or "sctp"`},
		{Config{PortMappings: []PortMapping{{Listen: "localhost", HostPort: 80, NodePort: 80}}}, "IP address"},
		{Config{PortMappings: []PortMapping{{HostPort: 80, NodePort: 80}, {HostPort: 80, NodePort: 81}}}, "mapped twice"},
		{Config{Mounts: []Mount{{HostPath: "/a", NodePath: "b"}}}, "mount"},
	}
	for _, tt := range tests {
		if _, err := tt.cfg.withDefaults(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: error %v must say %q", tt.cfg, err, tt.want)
		}
	}
}

func TestKindConfig(t *testing.T) {
	c, err := Config{
		Name: "c", Image: "node:1", Workers: 1, DisableDefaultCNI: true, KubeProxyMode: "none",
		KubeadmPatches: []string{"mine"}, PortMappings: []PortMapping{{HostPort: 8080, NodePort: 30080}},
		Mounts: []Mount{{HostPath: "/h", NodePath: "/n", ReadOnly: true}},
	}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	mounts := []v1alpha4.Mount{{HostPath: "/h", ContainerPath: "/n", Readonly: true}}
	want := &v1alpha4.Cluster{
		TypeMeta: v1alpha4.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Name:     "c",
		Nodes: []v1alpha4.Node{
			{Role: "control-plane", Image: "node:1", ExtraMounts: mounts, ExtraPortMappings: []v1alpha4.PortMapping{
				{ListenAddress: "127.0.0.1", HostPort: 8080, ContainerPort: 30080, Protocol: "TCP"},
			}},
			{Role: "worker", Image: "node:1", ExtraMounts: mounts},
		},
		Networking:           v1alpha4.Networking{DisableDefaultCNI: true, KubeProxyMode: "none"},
		KubeadmConfigPatches: []string{"mine"},
	}
	if diff := cmp.Diff(want, c.kindConfig(2)); diff != "" {
		t.Errorf("cgroup v2 (-want +got):\n%s", diff)
	}
	want.KubeadmConfigPatches = []string{allowCgroupV1, "mine"}
	if diff := cmp.Diff(want, c.kindConfig(1)); diff != "" {
		t.Errorf("cgroup v1 (-want +got):\n%s", diff)
	}
	if len(c.KubeadmPatches) != 1 {
		t.Error("the caller's patches were changed")
	}
}

func TestShape(t *testing.T) {
	a := Config{PortMappings: []PortMapping{{HostPort: 1, NodePort: 1}, {HostPort: 2, NodePort: 2}}, Kubeconfig: "/a", StateDir: "/s"}
	b := Config{PortMappings: []PortMapping{{HostPort: 2, NodePort: 2, Protocol: "TCP"}, {Listen: "127.0.0.1", HostPort: 1, NodePort: 1}}, KubeProxyMode: "iptables"}
	sa, sb := mustShape(t, a), mustShape(t, b)
	if sa.fingerprint() != sb.fingerprint() {
		t.Errorf("what says the same in other words must be the same:\n%s\n%s", sa.json(), sb.json())
	}
	if differences, err := sa.compare(sb.marker()); err != nil || len(differences) != 0 {
		t.Errorf("%v, %v", differences, err)
	}
	other := mustShape(t, Config{Workers: 1})
	if sa.fingerprint() == other.fingerprint() {
		t.Error("another cluster has the same fingerprint")
	}
	if _, err := sa.compare(nil); err == nil {
		t.Error("no marker must be an error")
	}
	if _, err := sa.compare([]byte(`{}`)); err == nil {
		t.Error("a file without a format must be an error")
	}
	differences, err := sa.compare([]byte(`{"format":2,"shape":{}}`))
	if want := []Difference{{"format", "2", "1"}}; err != nil || !slices.Equal(differences, want) {
		t.Errorf("a later format: %v, %v", differences, err)
	}
}

func mustShape(t *testing.T, c Config) shape {
	t.Helper()
	c, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return shapeOf(c)
}

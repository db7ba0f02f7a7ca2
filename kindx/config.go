package kindx

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/kind/pkg/apis/config/defaults"
	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// DefaultName is the cluster's name where a Config gives none.
const DefaultName = "precinct-99"

// DefaultImage is the node image that this version of kind was made for, pinned by
// digest.
const DefaultImage = defaults.Image

// Config describes a cluster. Its zero value is a cluster of one node with
// kind's own network.
type Config struct {
	// Name of the cluster; "" is DefaultName. Lower-case letters, digits, "-" and
	// ".", at most 50.
	Name string
	// Image of the nodes; "" is the one that this version of kind was made for. It
	// is pulled if the engine does not have it.
	Image string
	// Workers is how many nodes there are beside the one of the control plane.
	Workers int
	// PodSubnet and ServiceSubnet are CIDRs; "" is kind's choice.
	PodSubnet, ServiceSubnet string
	// DisableDefaultCNI leaves the cluster without a pod network: nodes are not
	// ready until one is installed.
	DisableDefaultCNI bool
	// KubeProxyMode is "iptables" (what "" means), "ipvs", "nftables" or "none".
	KubeProxyMode string
	// KubeadmPatches are merge patches in YAML for kubeadm's configuration
	// documents, matched by kind. On cgroup v1 the one that lets the kubelet start
	// there is added.
	KubeadmPatches []string
	// ContainerdPatches are merge patches in TOML for the nodes' containerd.
	ContainerdPatches []string
	// PortMappings are ports of the control plane's node to be had on this machine.
	PortMappings []PortMapping
	// Mounts are folders of this machine to be had in every node.
	Mounts []Mount

	// Kubeconfig is the file to which the cluster's entry is added; "" is the one
	// that kubectl would use.
	Kubeconfig string
	// Recreate removes a cluster of that name first, whoever made it and whatever
	// is in it.
	Recreate bool
	// StateDir keeps a note while a cluster is being made, so that what a killed
	// run left is known and removed by the next one, and a lock that keeps two runs
	// apart. "" does without either.
	StateDir string
	// LogDir, if not "", gets the logs of a cluster that did not come up, before
	// that is removed.
	LogDir string
	// ReadyTimeout is how long the API server has to answer after the cluster was
	// made or started again; 0 is 3 minutes.
	ReadyTimeout time.Duration
	// Provider is the container engine; "" is Docker.
	Provider Provider
	// OnEvent, if not nil, gets each step.
	OnEvent func(Event)
}

// PortMapping makes a port of the control plane's node a port of this machine.
type PortMapping struct {
	Listen   string // address on this machine; "" is 127.0.0.1
	HostPort int    // 0 is any that is free
	NodePort int    // on the node
	Protocol string // "tcp" (what "" means), "udp" or "sctp"
}

func (p PortMapping) String() string {
	return fmt.Sprintf("%s to %d/%s", net.JoinHostPort(p.Listen, strconv.Itoa(p.HostPort)), p.NodePort, p.Protocol)
}

// Mount makes a folder of this machine a folder of the nodes.
type Mount struct {
	HostPath, NodePath string
	ReadOnly           bool
}

func (m Mount) String() string {
	s := m.HostPath + " at " + m.NodePath
	if m.ReadOnly {
		s += " read-only"
	}
	return s
}

// withDefaults fills in what is not set, and is an error for what cannot be.
func (c Config) withDefaults() (Config, error) {
	if c.Name == "" {
		c.Name = DefaultName
	}
	if c.Image == "" {
		c.Image = DefaultImage
	}
	if c.KubeProxyMode == "" {
		c.KubeProxyMode = "iptables"
	}
	if c.ReadyTimeout == 0 {
		c.ReadyTimeout = 3 * time.Minute
	}
	c.Provider = c.Provider.orDefault()
	problems := []error{c.Provider.validate()}
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if !regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`).MatchString(c.Name) || len(c.Name) > 50 {
		bad("name %q must be at most 50 lower-case letters, digits, dots and dashes", c.Name)
	}
	if c.Workers < 0 {
		bad("%d workers cannot be", c.Workers)
	}
	if !slices.Contains([]string{"iptables", "ipvs", "nftables", "none"}, c.KubeProxyMode) {
		bad(`kube-proxy mode %q must be "iptables", "ipvs", "nftables" or "none"`, c.KubeProxyMode)
	}
	for _, subnet := range []string{c.PodSubnet, c.ServiceSubnet} {
		if subnet == "" {
			continue
		}
		if _, _, err := net.ParseCIDR(subnet); err != nil {
			bad("subnet %q must be a CIDR such as 10.244.0.0/16", subnet)
		}
	}
	c.PortMappings = slices.Clone(c.PortMappings)
	taken := map[string]bool{}
	for i := range c.PortMappings {
		p := c.PortMappings[i].withDefaults()
		c.PortMappings[i] = p
		if net.ParseIP(p.Listen) == nil {
			bad("port mapping %s: %q must be an IP address", p, p.Listen)
		}
		if p.HostPort < 0 || p.HostPort > 65535 || p.NodePort < 1 || p.NodePort > 65535 {
			bad("port mapping %s: ports go from 1 to 65535", p)
		}
		if !slices.Contains([]string{"tcp", "udp", "sctp"}, p.Protocol) {
			bad(`port mapping %s: the protocol must be "tcp", "udp" or "sctp"`, p)
		}
		at := fmt.Sprintf("%s %d %s", p.Listen, p.HostPort, p.Protocol)
		if p.HostPort != 0 && taken[at] {
			bad("port mapping %s: the port is mapped twice", p)
		}
		taken[at] = true
	}
	c.Mounts = slices.Clone(c.Mounts)
	for i, m := range c.Mounts {
		abs, err := filepath.Abs(m.HostPath)
		if m.HostPath == "" || err != nil || !filepath.IsAbs(m.NodePath) {
			bad("mount %s: it needs a path on this machine and an absolute one in the nodes", m)
		}
		c.Mounts[i].HostPath = abs
	}
	if err := errors.Join(problems...); err != nil {
		return c, fmt.Errorf("cluster configuration: %w", err)
	}
	return c, nil
}

func (p PortMapping) withDefaults() PortMapping {
	if p.Listen == "" {
		p.Listen = "127.0.0.1"
	}
	p.Protocol = strings.ToLower(p.Protocol)
	if p.Protocol == "" {
		p.Protocol = "tcp"
	}
	return p
}

// The kubelet refuses to start on cgroup v1 unless it is told not to.
// https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
const allowCgroupV1 = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
`

// kindConfig is the cluster in kind's own terms, for an engine with that version
// of cgroups.
func (c Config) kindConfig(cgroupVersion int) *v1alpha4.Cluster {
	out := &v1alpha4.Cluster{
		TypeMeta: v1alpha4.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Name:     c.Name,
		Networking: v1alpha4.Networking{
			DisableDefaultCNI: c.DisableDefaultCNI, KubeProxyMode: v1alpha4.ProxyMode(c.KubeProxyMode),
			PodSubnet: c.PodSubnet, ServiceSubnet: c.ServiceSubnet,
		},
		KubeadmConfigPatches:    slices.Clone(c.KubeadmPatches),
		ContainerdConfigPatches: slices.Clone(c.ContainerdPatches),
	}
	if cgroupVersion == 1 {
		// First, so that a patch of the caller's has the last word.
		out.KubeadmConfigPatches = slices.Insert(out.KubeadmConfigPatches, 0, allowCgroupV1)
	}
	var mounts []v1alpha4.Mount
	for _, m := range c.Mounts {
		mounts = append(mounts, v1alpha4.Mount{HostPath: m.HostPath, ContainerPath: m.NodePath, Readonly: m.ReadOnly})
	}
	for i := range 1 + c.Workers {
		node := v1alpha4.Node{Role: v1alpha4.WorkerRole, Image: c.Image, ExtraMounts: slices.Clone(mounts)}
		if i == 0 {
			node.Role = v1alpha4.ControlPlaneRole
			for _, p := range c.PortMappings {
				node.ExtraPortMappings = append(node.ExtraPortMappings, v1alpha4.PortMapping{
					ListenAddress: p.Listen, HostPort: int32(p.HostPort), ContainerPort: int32(p.NodePort), // both were checked to be ports
					Protocol: v1alpha4.PortMappingProtocol(strings.ToUpper(p.Protocol)),
				})
			}
		}
		out.Nodes = append(out.Nodes, node)
	}
	return out
}

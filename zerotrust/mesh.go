package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// The names that Cilium's chart, and SPIRE's charts as well as Cilium's own, give these objects:
// https://github.com/spiffe/helm-charts-hardened/tree/main/charts/spire
const (
	ciliumConfigMap      = "cilium-config"
	spireAgentConfigMap  = "spire-agent"
	spireServerConfigMap = "spire-server"
	spireService         = "spire-server"
)

// mesh is what the API server shows of Cilium and SPIRE to somebody who installed neither. Of
// what could not be seen it has the error.
type mesh struct {
	nodes []corev1.Node
	pods  []corev1.Pod      // of all namespaces
	cfg   map[string]string // ConfigMap cilium-config

	agentConf, serverConf string         // SPIRE's configurations
	service               corev1.Service // of its server

	nodesErr, podsErr, cfgErr, agentConfErr, serverConfErr, serviceErr error
}

// errNotThere is that of an object which is nowhere.
var errNotThere = errors.New("is not there")

// looker looks at the mesh once.
type looker struct {
	stack *Stack

	mu   sync.Mutex
	seen *mesh
}

func (l *looker) look(ctx context.Context) (mesh, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen != nil {
		return *l.seen, nil
	}
	m, err := l.stack.look(ctx)
	if err == nil && ctx.Err() == nil {
		l.seen = &m
	}
	return m, errors.Join(err, ctx.Err())
}

// look reads what there is to read. Where the pods cannot be listed, Cilium is looked for
// where it usually is, and SPIRE nowhere.
func (s *Stack) look(ctx context.Context) (mesh, error) {
	var m mesh
	client, err := s.kube(ctx)
	if err != nil {
		return m, err
	}
	core := client.Clientset().CoreV1()
	if nodes, err := core.Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		m.nodesErr = listNodes.named(fmt.Errorf("listing the nodes: %w", err))
	} else {
		m.nodes = nodes.Items
	}
	if pods, err := core.Pods("").List(ctx, metav1.ListOptions{}); err != nil {
		m.podsErr = listAllPods.named(fmt.Errorf("listing the pods of all namespaces: %w", err))
	} else {
		m.pods = pods.Items
	}
	config := func(namespace, name string) (map[string]string, error) {
		if namespace == "" {
			return nil, fmt.Errorf("ConfigMap %s: where it is is not known", name)
		}
		got, err := core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("ConfigMap %s/%s %w", namespace, name, errNotThere)
		}
		if err != nil {
			return nil, getConfig(name).named(fmt.Errorf("reading ConfigMap %s/%s: %w", namespace, name, err))
		}
		return got.Data, nil
	}
	m.cfg, m.cfgErr = config(namespaceOf(m.cilium(), relayNamespace), ciliumConfigMap)
	data, err := config(namespaceOf(m.running("spire-agent"), ""), spireAgentConfigMap)
	m.agentConf, m.agentConfErr = data["agent.conf"], err
	data, err = config(namespaceOf(m.running("spire-server"), ""), spireServerConfigMap)
	m.serverConf, m.serverConfErr = data["server.conf"], err
	m.service, m.serviceErr = s.spireServiceOf(ctx, client, m.cfg["mesh-auth-spire-server-address"])
	return m, nil
}

// spireServiceOf is the Service that Cilium's operator reaches the SPIRE server by,
// "NAME.NAMESPACE.svc:8081" in Cilium's configuration.
func (s *Stack) spireServiceOf(ctx context.Context, client *kube.Client, address string) (corev1.Service, error) {
	name, namespace, ok := serviceName(address)
	if !ok {
		return corev1.Service{}, fmt.Errorf("the address %q of the SPIRE server in Cilium's configuration is no Service's", address)
	}
	got, err := client.Clientset().CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return corev1.Service{}, fmt.Errorf("Service %s/%s, by which Cilium is to reach the SPIRE server, %w", namespace, name, errNotThere) //nolint:staticcheck // a kind's name
	}
	if err != nil {
		return corev1.Service{}, permission{verb: "get", resource: "services", name: name}.named(fmt.Errorf("reading Service %s/%s: %w", namespace, name, err))
	}
	return *got, nil
}

func serviceName(address string) (name, namespace string, ok bool) {
	host, _, _ := strings.Cut(address, ":")
	parts := strings.Split(host, ".")
	if len(parts) < 3 || parts[2] != "svc" {
		return "", "", false
	}
	return parts[0], parts[1], true
}

func namespaceOf(pods []corev1.Pod, otherwise string) string {
	if len(pods) == 0 {
		return otherwise
	}
	return pods[0].Namespace
}

func (m mesh) labelled(label, value string) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(m.pods), func(p corev1.Pod) bool { return p.Labels[label] != value })
}

// cilium are the pods of Cilium's agents.
func (m mesh) cilium() []corev1.Pod { return m.labelled("k8s-app", "cilium") }

// relay are the pods of Hubble Relay.
func (m mesh) relay() []corev1.Pod { return m.labelled("k8s-app", "hubble-relay") }

// running are the pods that run the program, "spire-agent" or "spire-server", by the name of
// their image, whoever built or mirrors it, or by their labels, which each chart has of its own.
func (m mesh) running(program string) []corev1.Pod {
	return slices.DeleteFunc(slices.Clone(m.pods), func(p corev1.Pod) bool {
		for _, label := range []string{"app.kubernetes.io/name", "app"} {
			if p.Labels[label] == program {
				return false
			}
		}
		return !slices.ContainsFunc(p.Spec.Containers, func(c corev1.Container) bool { return serves(c, program) })
	})
}

// serves says whether a container is of the program's image and runs it as a server: the image
// also has commands that ask one.
func serves(c corev1.Container, program string) bool {
	asks := slices.ContainsFunc(slices.Concat(c.Command, c.Args), func(word string) bool {
		return slices.Contains([]string{"api", "healthcheck", "validate"}, word)
	})
	return !asks && strings.HasSuffix(imageName(c.Image), program)
}

// imageName is the last part of an image's name, without its tag and digest.
func imageName(ref string) string {
	name, _, _ := strings.Cut(path.Base(strings.SplitN(ref, "@", 2)[0]), ":")
	return name
}

// imageTag is the tag of an image, "" if it has none.
func imageTag(ref string) string {
	_, tag, _ := strings.Cut(path.Base(strings.SplitN(ref, "@", 2)[0]), ":")
	return tag
}

// versions are the tags of the pods' images of the given name, each once.
func versions(pods []corev1.Pod, name string) string {
	var all []string
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			if tag := imageTag(c.Image); strings.HasSuffix(imageName(c.Image), name) && !slices.Contains(all, tag) {
				all = append(all, tag)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// nodesWithout are the nodes that have no ready one of the pods, each with the reason.
func (m mesh) nodesWithout(pods []corev1.Pod) []string {
	var all []string
	for _, n := range m.nodes {
		why := "no pod of it is there"
		for _, p := range pods {
			if p.Spec.NodeName != n.Name {
				continue
			}
			trouble := kube.Trouble(p)
			if why = fmt.Sprintf("pod %s/%s: %s", p.Namespace, p.Name, trouble); trouble == "" {
				why = ""
				break
			}
		}
		if why != "" {
			all = append(all, n.Name+": "+why)
		}
	}
	slices.Sort(all)
	return all
}

// state is as much of what causes are found in as can be seen so.
func (m mesh) state(td spiffeid.TrustDomain) state {
	s := state{td: td, agentConf: m.agentConf, serverConf: m.serverConf, ciliumConfig: m.cfg, spireService: m.service, pods: m.pods}
	for part, err := range map[sight]error{
		seesCiliumConfig: m.cfgErr, seesSPIREService: m.serviceErr, seesPods: m.podsErr,
		seesAgentConf: m.agentConfErr, seesServerConf: m.serverConfErr,
	} {
		if err == nil {
			s.seen |= part
		}
	}
	if m.agentConf == "" || s.agent().SocketPath == "" {
		s.seen &^= seesAgentConf // written in another way than we can read
	}
	if own, err := spiffeid.TrustDomainFromString(s.agent().TrustDomain); err == nil {
		s.td, s.seen = own, s.seen|seesTrustDomain
	}
	return s
}

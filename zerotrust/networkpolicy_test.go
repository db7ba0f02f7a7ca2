package zerotrust

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const testPodNetwork = "10.244.0.0/16"

func TestNetworkPoliciesYAML(t *testing.T) {
	policies, err := NetworkPolicies(Precinct99(), testPodNetwork)
	derived(t, "networkpolicies.yaml", policies, err)
}

func TestNetworkPoliciesSayWhatTheyCannot(t *testing.T) {
	in := Precinct99()
	in.Edges = append(in.Edges, Edge{From: "backend", To: "dns:api.github.com", Port: TCP(443)})
	_, err := NetworkPolicies(in)
	for _, want := range []string{"edge backend → dns:api.github.com:443: a NetworkPolicy knows no DNS names", "edge outside → frontend:3000: the pods' networks are needed"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin %v", want, err)
		}
	}
	if _, err := NetworkPolicies(Precinct99(), "10.244"); err == nil {
		t.Error("a network that is none was accepted")
	}
}

// Every allowed edge is allowed by the policies, and nothing else is: judged by what
// Kubernetes' documentation says that they mean, over random intents.
func TestNetworkPoliciesMeanTheIntent(t *testing.T) {
	judged, allowed := 0, 0
	for seed := range uint64(600) {
		in := randomIntent(rand.New(rand.NewPCG(seed, 99)))
		if in.Validate() != nil {
			continue
		}
		judged++
		text, err := NetworkPolicies(in, testPodNetwork)
		if err != nil {
			t.Fatal(err)
		}
		policies := readPolicies(t, text)
		for _, c := range conversations(in) {
			want := meant(in, c)
			if want {
				allowed++
			}
			if got := passes(policies, c); got != want {
				written, _ := in.YAML()
				t.Fatalf("seed %d: %s: the policies let it through: %t, meant: %t\n%s\n%s", seed, c, got, want, written, text)
			}
		}
	}
	if judged < 200 || allowed < 1000 {
		t.Errorf("only %d intents with %d allowed conversations were judged", judged, allowed)
	}
}

// FuzzNetworkPolicies has what the policies of any valid file mean judged.
func FuzzNetworkPolicies(f *testing.F) {
	for _, name := range []string{"precinct99.yaml", "../examples/orders/zerotrust.yaml"} {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, file string) {
		in, err := ParseIntent("f.yaml", []byte(file))
		if err != nil || len(in.Workloads) > 20 {
			return
		}
		// A NetworkPolicy knows no names, which is told.
		in.Edges = slices.DeleteFunc(in.Edges, func(e Edge) bool { return e.host() != "" })
		text, err := NetworkPolicies(in, testPodNetwork)
		if err != nil {
			t.Fatal(err)
		}
		policies := readPolicies(t, text)
		for _, c := range conversations(in) {
			if got, want := passes(policies, c), meant(in, c); got != want {
				t.Fatalf("%s: the policies let it through: %t, meant: %t\n%s", c, got, want, text)
			}
		}
	})
}

// The judge finds what is wrong.
func TestJudgeOfNetworkPolicies(t *testing.T) {
	in := Precinct99()
	text, err := NetworkPolicies(in, testPodNetwork)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func([]networkingv1.NetworkPolicy) []networkingv1.NetworkPolicy{
		"a policy deleted": func(p []networkingv1.NetworkPolicy) []networkingv1.NetworkPolicy { return p[1:] },
		"a selector widened": func(p []networkingv1.NetworkPolicy) []networkingv1.NetworkPolicy {
			p[1].Spec.Ingress[0].From[0].PodSelector, p[3].Spec.Egress = nil, p[0].Spec.Egress
			return p
		},
		"ports forgotten": func(p []networkingv1.NetworkPolicy) []networkingv1.NetworkPolicy {
			p[0].Spec.Ingress[0].Ports = nil
			return p
		},
		"egress forgotten": func(p []networkingv1.NetworkPolicy) []networkingv1.NetworkPolicy {
			p[0].Spec.Egress = p[0].Spec.Egress[:1]
			return p
		},
	} {
		policies := spoil(readPolicies(t, text))
		if !slices.ContainsFunc(conversations(in), func(c conversation) bool { return passes(policies, c) != meant(in, c) }) {
			t.Errorf("%s: not found", name)
		}
	}
}

// pod is one end of a conversation; with no namespace it is outside the cluster.
type pod struct {
	workload, namespace string // workload is "" for a pod that the intent does not know
	labels              labels.Set
	ip                  netip.Addr
}

type conversation struct {
	from, to pod
	port     Port
}

func (c conversation) String() string {
	return fmt.Sprintf("%s/%s → %s/%s:%s", c.from.namespace, c.from.workload, c.to.namespace, c.to.workload, c.port)
}

// conversations are all that is to be judged: every pod with every port of every workload,
// and ports that nobody serves.
func conversations(in Intent) []conversation {
	outside := pod{ip: netip.MustParseAddr("172.18.0.9")}
	sources := []pod{outside}
	var targets []pod
	add := func(p pod) {
		p.ip = netip.AddrFrom4([4]byte{10, 244, byte(len(sources)), 7})
		sources = append(sources, p)
		if p.workload != "" {
			targets = append(targets, p)
		}
	}
	for _, ns := range append(in.Namespaces(), "elsewhere") {
		add(pod{namespace: ns, labels: labels.Set{"stranger": "yes"}})
	}
	ports := []Port{TCP(1), UDP(1), TCP(53), UDP(53)}
	for _, w := range in.Workloads {
		set := labels.Set(w.Labels)
		if set == nil {
			set = labels.Set{"app": w.Name}
		}
		add(pod{w.Name, w.Namespace, set, netip.Addr{}})
		for _, p := range w.listens() {
			ports = append(ports, p, Port{p.Number, !p.UDP})
		}
	}
	var all []conversation
	for _, from := range sources {
		for _, to := range targets {
			for _, port := range ports {
				if from.ip != to.ip {
					all = append(all, conversation{from, to, port})
				}
			}
		}
	}
	return all
}

// meant says what the intent's words mean for a conversation.
func meant(in Intent, c conversation) bool {
	return slices.ContainsFunc(in.Edges, func(e Edge) bool {
		from := e.From == c.from.workload && c.from.workload != "" ||
			e.From == "outside" && c.from.namespace == "" ||
			c.from.namespace != "" && e.From == "namespace:"+c.from.namespace
		return from && e.To == c.to.workload && e.Port == c.port
	})
}

// passes judges a conversation by https://kubernetes.io/docs/concepts/services-networking/network-policies/:
// a pod that policies of a direction select is open in it to what one of their rules names,
// and any other pod to all.
func passes(policies []networkingv1.NetworkPolicy, c conversation) bool {
	out, in := c.from.namespace == "", false
	selectedOut, selectedIn := false, false
	for _, p := range policies {
		if selects(p, c.from, networkingv1.PolicyTypeEgress) {
			selectedOut = true
			for _, r := range p.Spec.Egress {
				out = out || rule(p, r.To, r.Ports, c.to, c.port)
			}
		}
		if selects(p, c.to, networkingv1.PolicyTypeIngress) {
			selectedIn = true
			for _, r := range p.Spec.Ingress {
				in = in || rule(p, r.From, r.Ports, c.from, c.port)
			}
		}
	}
	return (out || !selectedOut) && (in || !selectedIn)
}

func selects(p networkingv1.NetworkPolicy, of pod, direction networkingv1.PolicyType) bool {
	return p.Namespace == of.namespace && slices.Contains(p.Spec.PolicyTypes, direction) && matches(&p.Spec.PodSelector, of.labels)
}

func rule(p networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort, other pod, port Port) bool {
	portOK := len(ports) == 0 || slices.ContainsFunc(ports, func(r networkingv1.NetworkPolicyPort) bool {
		return *r.Protocol == corev1.Protocol(port.Protocol()) && (r.Port == nil || r.Port.IntValue() == port.Number)
	})
	return portOK && (len(peers) == 0 || slices.ContainsFunc(peers, func(peer networkingv1.NetworkPolicyPeer) bool {
		if b := peer.IPBlock; b != nil {
			return netip.MustParsePrefix(b.CIDR).Contains(other.ip) &&
				!slices.ContainsFunc(b.Except, func(n string) bool { return netip.MustParsePrefix(n).Contains(other.ip) })
		}
		if other.namespace == "" {
			return false
		}
		ns := peer.NamespaceSelector == nil && other.namespace == p.Namespace ||
			peer.NamespaceSelector != nil && matches(peer.NamespaceSelector, labels.Set{"kubernetes.io/metadata.name": other.namespace})
		return ns && (peer.PodSelector == nil || matches(peer.PodSelector, other.labels))
	}))
}

func matches(s *metav1.LabelSelector, set labels.Set) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(set)
}

func readPolicies(t *testing.T, text []byte) []networkingv1.NetworkPolicy {
	t.Helper()
	var all []networkingv1.NetworkPolicy
	dec := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var p networkingv1.NetworkPolicy
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// randomIntent has up to six workloads in up to three namespaces. Not every one is valid.
func randomIntent(r *rand.Rand) Intent {
	in := Intent{Name: "random", TrustDomain: "random.example"}
	ports := []Port{TCP(80), UDP(80), TCP(53), UDP(5353), TCP(8443)}
	pick := func() Port { return ports[r.IntN(len(ports))] }
	for i := range 1 + r.IntN(6) {
		w := Workload{Name: fmt.Sprintf("w%d", i), Namespace: fmt.Sprintf("n%d", r.IntN(3))}
		for range r.IntN(4) {
			if p := pick(); !slices.Contains(w.Ports, p) {
				w.Ports = append(w.Ports, p)
			}
		}
		in.Workloads = append(in.Workloads, w)
	}
	for range r.IntN(12) {
		to := in.Workloads[r.IntN(len(in.Workloads))]
		if len(to.Ports) == 0 {
			continue
		}
		e := Edge{From: in.Workloads[r.IntN(len(in.Workloads))].Name, To: to.Name, Port: to.Ports[r.IntN(len(to.Ports))]}
		switch r.IntN(8) {
		case 0:
			e.From = Outside
		case 1:
			e.From = fmt.Sprintf("namespace:n%d", r.IntN(4)) // one of them may be empty
		default:
			e.Authenticated = r.IntN(2) == 0
		}
		in.Edges = append(in.Edges, e)
	}
	return in
}

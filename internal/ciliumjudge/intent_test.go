package ciliumjudge

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/cilium/pkg/u8proto"
	"sigs.k8s.io/yaml"
)

// intent is zerotrust.Intent as its file has it, as far as policies go. What an intent
// means is written down here once more, from what its fields say: were it by zerotrust's
// code, that would be its own judge.
type intent struct {
	Version     int        `json:"version"`
	Name        string     `json:"name"`
	TrustDomain string     `json:"trustDomain"`
	Workloads   []workload `json:"workloads"`
	Edges       []edge     `json:"edges,omitempty"`
}

type workload struct {
	Name           string `json:"name"`
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
	Ports          []port `json:"ports,omitempty"`
	HealthPort     int    `json:"healthPort,omitempty"`
	Runs           string `json:"runs,omitempty"`
	Database       string `json:"database,omitempty"`
}

type edge struct {
	From          string `json:"from"`
	To            string `json:"to"`
	Port          port   `json:"port"`
	Authenticated bool   `json:"authenticated,omitempty"`
}

// port is "8000/TCP" or "53/UDP" in a file, or the number alone for TCP. Beside those of
// intents there are others that the judge asks for.
type port struct {
	number uint16
	proto  u8proto.U8proto
}

func tcp(number uint16) port { return port{number, u8proto.TCP} }
func udp(number uint16) port { return port{number, u8proto.UDP} }

func (p port) String() string { return fmt.Sprintf("%d/%s", p.number, p.proto) }

func (p port) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p *port) UnmarshalJSON(text []byte) error {
	number, proto, given := strings.Cut(strings.Trim(string(text), `"`), "/")
	n, err := strconv.ParseUint(number, 10, 16)
	*p = tcp(uint16(n))
	if err == nil && given {
		p.proto, err = u8proto.ParseProtocol(proto)
	}
	return err
}

func parse(t *testing.T, file []byte) intent {
	t.Helper()
	var in intent
	if err := yaml.Unmarshal(file, &in); err != nil {
		t.Fatal(err)
	}
	return in
}

func (in intent) file(t testing.TB) []byte {
	t.Helper()
	text, err := yaml.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// verdict is what becomes of a connection.
type verdict struct {
	allowed       bool
	authenticated bool // both sides are to prove who they are first
	proxied       bool // it goes through Cilium's DNS proxy
}

const (
	dnsPort = 53
	// keysPort is that of spire-oidc, where Vault gets the keys that it verifies SVIDs with.
	keysPort = 8443
)

// meant is what the intent lets one peer do to another, by port. What is not in it is denied.
func (in intent) meant(from, to *peer) map[port]verdict {
	ports := map[port]verdict{}
	if from.workload == to.workload {
		return ports // no edge leads to where it is from, not even one from all of the namespace
	}
	if from.workload != "" && to.dns {
		v := verdict{allowed: true, proxied: len(in.hosts(from)) > 0}
		ports[udp(dnsPort)], ports[tcp(dnsPort)] = v, v
	}
	if to.keys && slices.ContainsFunc(in.Workloads, func(w workload) bool { return w.Name == from.workload && w.Runs == "vault" }) {
		ports[tcp(keysPort)] = verdict{allowed: true}
	}
	for _, e := range in.Edges {
		if e.leaves(from) && e.arrives(to) {
			ports[e.Port] = verdict{allowed: true, authenticated: e.Authenticated}
		}
	}
	return ports
}

func (e edge) leaves(p *peer) bool {
	if namespace, found := strings.CutPrefix(e.From, "namespace:"); found {
		return p.namespace == namespace
	}
	if e.From == "outside" {
		return p.outside
	}
	return p.workload == e.From
}

func (e edge) arrives(p *peer) bool {
	if host, found := strings.CutPrefix(e.To, "dns:"); found {
		return slices.Contains(p.hosts, host)
	}
	return p.workload == e.To
}

// hosts are those outside the cluster that the workload may connect to.
func (in intent) hosts(from *peer) []string {
	var all []string
	for _, e := range in.Edges {
		if host, found := strings.CutPrefix(e.To, "dns:"); found && e.leaves(from) {
			all = append(all, host)
		}
	}
	return all
}

// names are those that workloads may look up or may not.
func (in intent) names() []string {
	all := []string{"example.net"}
	for _, e := range in.Edges {
		if host, found := strings.CutPrefix(e.To, "dns:"); found {
			// A resolver in a pod tries the cluster's domains first.
			all = append(all, host, "www."+host, host+".example.net", host+".apps.svc.cluster.local")
		}
	}
	for _, w := range in.Workloads {
		all = append(all, w.Name+"."+w.Namespace+".svc.cluster.local")
	}
	return all
}

// mayLookUp says whether a workload may ask for a name. One that may connect to hosts
// outside can ask for them and for what is in the cluster, and tell nothing to others by
// asking for their names. The rest have nobody to talk to but the cluster's own DNS.
func (in intent) mayLookUp(from *peer, name string) bool {
	hosts := in.hosts(from)
	return len(hosts) == 0 || slices.Contains(hosts, name) || strings.HasSuffix(name, ".cluster.local")
}

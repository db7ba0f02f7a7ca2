package zerotrust

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/spire"
)

// Intent says who may talk to whom: the workloads of a cluster and the edges
// between them. What is not named is denied. Everything else (SPIRE entries,
// policies, the probes that prove them) is derived from it.
type Intent struct {
	Name        string     `json:"name"`        // of the cluster
	TrustDomain string     `json:"trustDomain"` // of SPIRE, for example "demo.local"
	Workloads   []Workload `json:"workloads"`   // in any order; names are unique
	Edges       []Edge     `json:"edges"`       // the allowed edges
}

// Workload is one application or server: pods that share a service account, which
// is its identity.
type Workload struct {
	Name           string `json:"name"` // also its Deployment's (or StatefulSet's), Service's and, unless set, service account's
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount,omitempty"` // default: Name
	Ports          []Port `json:"ports,omitempty"`          // that it serves; none for a pure client
	// HealthPort is a TCP port, beside Ports, where /health/live and /health/ready
	// answer the kubelet in plain HTTP. No edge may lead there. 0 for none.
	HealthPort int `json:"healthPort,omitempty"`

	// What it runs is one of three, or nothing: then it is there already, deployed by
	// somebody else.
	Runs    Server `json:"runs,omitempty"`    // a server which this module brings along
	Package string `json:"package,omitempty"` // a Go main package that its image is built from
	Image   string `json:"image,omitempty"`   // an image that the nodes pull

	// Labels are those of the pods of what is there already, for what cannot select by
	// service account (see NetworkPolicies); default: app=NAME, as everything else has it.
	Labels map[string]string `json:"labels,omitempty"`

	Database string            `json:"database,omitempty"` // with Postgres: the name of the database in it
	Args     []string          `json:"args,omitempty"`
	Env      map[string]string `json:"env,omitempty"`      // besides what is derived: see Environment
	Replicas int               `json:"replicas,omitempty"` // default 1
	// MTLS says that its first port speaks mTLS with its SVID, and accepts the callers
	// that have an edge to it alone: 4C puts that to the test.
	MTLS bool `json:"mtls,omitempty"`
	// HTTP is the path of a page of its first port, which then speaks plain HTTP: whoever has
	// an edge to it must get an answer to GET, with a status below 500.
	HTTP string `json:"http,omitempty"`
	// Publish makes its first port one of this machine's.
	Publish *Publish `json:"publish,omitempty"`
	// Access is what it may have from Vault; nil for nothing.
	Access *Access `json:"access,omitempty"`
}

// Server is a server that this module brings along.
type Server string

// The servers. There is at most one Vault.
const (
	Vault    Server = "vault"
	Postgres Server = "postgres"
)

// Publish says where a workload can be reached from outside the cluster.
type Publish struct {
	HostPort int `json:"hostPort"` // on 127.0.0.1 of this machine
	NodePort int `json:"nodePort"` // on the nodes, 30000 to 32767
}

// Access says what a workload may have from Vault, logging in with its JWT-SVID.
type Access struct {
	KV       bool   `json:"kv,omitempty"`       // KV secrets below its own name
	Database string `json:"database,omitempty"` // name of the Postgres workload that it gets users of; "" for none
}

// Port is a port of a protocol. In YAML and in text it is "8000" or "53/UDP".
type Port struct {
	Number int
	UDP    bool // else TCP
}

// TCP is the TCP port of that number.
func TCP(number int) Port { return Port{Number: number} }

// UDP is the UDP port of that number.
func UDP(number int) Port { return Port{Number: number, UDP: true} }

func (p Port) String() string {
	if p.UDP {
		return fmt.Sprintf("%d/UDP", p.Number)
	}
	return strconv.Itoa(p.Number)
}

// Protocol is "TCP" or "UDP".
func (p Port) Protocol() string {
	if p.UDP {
		return "UDP"
	}
	return "TCP"
}

// MarshalJSON makes it a number if it is a TCP port, and else a string.
func (p Port) MarshalJSON() ([]byte, error) {
	if p.UDP {
		return json.Marshal(p.String())
	}
	return json.Marshal(p.Number)
}

// UnmarshalText reads "8000", "8000/TCP" or "53/UDP".
func (p *Port) UnmarshalText(text []byte) error {
	number, protocol, given := strings.Cut(string(text), "/")
	n, err := strconv.Atoi(number)
	if err != nil || given && protocol != "TCP" && protocol != "UDP" {
		return fmt.Errorf("port %q: want a number such as 8000, or 53/UDP", text)
	}
	*p = Port{n, protocol == "UDP"}
	return nil
}

// Edge allows connections from one workload to a port of another. Its ends can also be
// Outside, a namespace or a host by its DNS name.
type Edge struct {
	From string `json:"from"` // a workload, Outside, or "namespace:NAME": every pod of it but To's own
	To   string `json:"to"`   // a workload, or "dns:HOST" outside the cluster
	Port Port   `json:"port"`
	// Authenticated asks Cilium to have both sides proven by their SPIFFE
	// identities before the first packet passes.
	Authenticated bool `json:"authenticated,omitempty"`
}

// Outside is everything that is not in the cluster, as the From of an Edge.
const Outside = "outside"

const (
	namespacePrefix = "namespace:"
	dnsPrefix       = "dns:"
)

func (e Edge) String() string { return fmt.Sprintf("%s → %s:%s", e.From, e.To, e.Port) }

// namespace is the one that the edge is from, "" if it is from a workload or Outside.
func (e Edge) namespace() string {
	ns, _ := strings.CutPrefix(e.From, namespacePrefix)
	if ns == e.From {
		return ""
	}
	return ns
}

// host is the one outside the cluster that the edge leads to, "" if it leads to a workload.
func (e Edge) host() string {
	host, _ := strings.CutPrefix(e.To, dnsPrefix)
	if host == e.To {
		return ""
	}
	return host
}

// starts says whether the edge is from that workload, by its name or its namespace.
func (e Edge) starts(w Workload) bool { return e.From == w.Name || e.namespace() == w.Namespace }

// Account is the workload's service account.
func (w Workload) Account() string {
	if w.ServiceAccount != "" {
		return w.ServiceAccount
	}
	return w.Name
}

// Host is the name of the workload's Service inside the cluster.
func (w Workload) Host() string { return w.Name + "." + w.Namespace + ".svc.cluster.local" }

// Workload finds a workload by name.
func (in Intent) Workload(name string) (Workload, bool) {
	i := slices.IndexFunc(in.Workloads, func(w Workload) bool { return w.Name == name })
	if i < 0 {
		return Workload{}, false
	}
	return in.Workloads[i], true
}

// Edge finds the edge that allows one workload, or Outside, to connect to a port of
// another, if there is one.
func (in Intent) Edge(from, to string, port Port) (Edge, bool) {
	w, _ := in.Workload(from)
	i := slices.IndexFunc(in.Edges, func(e Edge) bool {
		return e.To == to && e.Port == port && (e.From == from || w.Name != "" && e.starts(w))
	})
	if i < 0 {
		return Edge{}, false
	}
	return in.Edges[i], true
}

// listens are all ports that the workload's pods serve.
func (w Workload) listens() []Port {
	if w.HealthPort == 0 {
		return w.Ports
	}
	return append(slices.Clone(w.Ports), TCP(w.HealthPort))
}

// ID is the workload's SPIFFE ID, zero for an intent that is not valid.
func (in Intent) ID(w Workload) spiffeid.ID {
	td, err := spiffeid.TrustDomainFromString(in.TrustDomain)
	if err != nil {
		return spiffeid.ID{}
	}
	return spire.WorkloadEntry(td, in.Name, w.Namespace, w.Account()).SPIFFEID
}

// Running finds the workload that runs a server, if there is one.
func (in Intent) Running(s Server) (Workload, bool) {
	i := slices.IndexFunc(in.Workloads, func(w Workload) bool { return w.Runs == s })
	if i < 0 {
		return Workload{}, false
	}
	return in.Workloads[i], true
}

// foreign says that the workload is there already, deployed by somebody else.
func (w Workload) foreign() bool { return w.Runs == "" && w.Package == "" && w.Image == "" }

// applications are the workloads that are deployed from the intent, servers apart.
func (in Intent) applications() []Workload {
	return slices.DeleteFunc(slices.Clone(in.Workloads), func(w Workload) bool { return w.Package == "" && w.Image == "" })
}

// Namespaces are the namespaces of the workloads, sorted.
func (in Intent) Namespaces() []string {
	var all []string
	for _, w := range in.Workloads {
		all = append(all, w.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

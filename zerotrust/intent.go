package zerotrust

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Intent says who may talk to whom: the workloads of a cluster and the edges
// between them. What is not named is denied. Everything else (SPIRE entries,
// policies, the probes that prove them) is derived from it.
type Intent struct {
	Name        string     // of the cluster
	TrustDomain string     // of SPIRE, for example "demo.local"
	Workloads   []Workload // in any order; names are unique
	Edges       []Edge     // the allowed edges
}

// Workload is one application: a Deployment whose pods share a service account,
// which is its identity.
type Workload struct {
	Name           string // also its Deployment's, Service's and, unless set, service account's
	Namespace      string
	ServiceAccount string // default: Name
	Ports          []int  // TCP ports that it serves; none for a pure client
	Package        string // Go main package that its image is built from
	Args           []string
	Replicas       int // default 1
}

// Edge allows connections from one workload to a port of another.
type Edge struct {
	From, To string // workload names
	Port     int    // TCP
	// Authenticated asks Cilium to have both sides proven by their SPIFFE
	// identities before the first packet passes.
	Authenticated bool
}

func (e Edge) String() string { return fmt.Sprintf("%s → %s:%d", e.From, e.To, e.Port) }

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

// Edge finds the allowed edge between two workloads, if there is one.
func (in Intent) Edge(from, to string, port int) (Edge, bool) {
	i := slices.IndexFunc(in.Edges, func(e Edge) bool { return e.From == from && e.To == to && e.Port == port })
	if i < 0 {
		return Edge{}, false
	}
	return in.Edges[i], true
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

// Validate finds everything that is wrong with the intent.
func (in Intent) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf("intent: "+format, args...)) }
	label := func(what, name string) {
		if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
			fault("%s %q: %s", what, name, strings.Join(msgs, "; "))
		}
	}
	label("name", in.Name)
	if td, err := spiffeid.TrustDomainFromString(in.TrustDomain); err != nil {
		fault("trust domain %q: %v", in.TrustDomain, err)
	} else if td.Name() != in.TrustDomain {
		fault("trust domain %q: give its name alone, %q", in.TrustDomain, td.Name())
	}
	names, accounts := map[string]bool{}, map[string]string{}
	for _, w := range in.Workloads {
		label("workload", w.Name)
		label("namespace of "+w.Name, w.Namespace)
		label("service account of "+w.Name, w.Account())
		if names[w.Name] {
			fault("workload %q is named twice", w.Name)
		}
		names[w.Name] = true
		id := w.Namespace + "/" + w.Account()
		if other, taken := accounts[id]; taken {
			fault("workloads %q and %q share the service account %s, and so one identity", other, w.Name, id)
		}
		accounts[id] = w.Name
		ports := map[int]bool{}
		for _, p := range w.Ports {
			if p < 1 || p > 65535 {
				fault("workload %q: port %d is not between 1 and 65535", w.Name, p)
			}
			if ports[p] {
				fault("workload %q: port %d is named twice", w.Name, p)
			}
			ports[p] = true
		}
	}
	edges := map[string]bool{}
	for _, e := range in.Edges {
		if key := e.String(); edges[key] {
			fault("edge %s is named twice", e)
		} else {
			edges[key] = true
		}
		if !names[e.From] {
			fault("edge %s: no workload %q", e, e.From)
		}
		to, known := in.Workload(e.To)
		if !known {
			fault("edge %s: no workload %q", e, e.To)
		} else if !slices.Contains(to.Ports, e.Port) {
			fault("edge %s: %s serves %v, not port %d", e, e.To, to.Ports, e.Port)
		}
		if e.From == e.To {
			fault("edge %s leads to itself", e)
		}
	}
	return errors.Join(faults...)
}

// Precinct99 is the demo: a frontend that may call a backend on one of its two
// ports, each side proven by its SPIFFE identity, and an intruder that may call
// nobody.
func Precinct99() Intent {
	const workload = "github.com/org/spire-vault-99-action/examples/precinct/workload"
	return Intent{
		Name:        "precinct-99",
		TrustDomain: "demo.local",
		Workloads: []Workload{
			{Name: "frontend", Namespace: "99-apps", Ports: []int{3000}, Package: workload, Args: []string{"serve", ":3000"}},
			{Name: "backend", Namespace: "99-apps", Ports: []int{8000, 9000}, Package: workload, Args: []string{"serve", ":8000", ":9000"}},
			{Name: "intruder", Namespace: "99-apps", Package: workload, Args: []string{"serve"}},
		},
		Edges: []Edge{
			{From: "frontend", To: "backend", Port: 8000, Authenticated: true},
		},
	}
}

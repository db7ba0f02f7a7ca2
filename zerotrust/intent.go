package zerotrust

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/zerotrust/postgres"
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

// Workload is one application or server: pods that share a service account, which
// is its identity.
type Workload struct {
	Name           string // also its Deployment's (or StatefulSet's), Service's and, unless set, service account's
	Namespace      string
	ServiceAccount string // default: Name
	Ports          []int  // TCP ports that it serves; none for a pure client
	// HealthPort is a TCP port, beside Ports, where /health/live and /health/ready
	// answer the kubelet in plain HTTP. No edge may lead there. 0 for none.
	HealthPort int

	// Runs says that it is a server which this module brings along; empty for an
	// application of your own, and then Package is needed.
	Runs     Server
	Database string // with Postgres: the name of the database in it

	Package  string // Go main package that its image is built from
	Args     []string
	Env      map[string]string // besides what is derived: see Environment
	Replicas int               // default 1
	// MTLS says that its first port speaks mTLS with its SVID, and accepts the callers
	// that have an edge to it alone: 4C puts that to the test.
	MTLS bool
	// Publish makes its first port one of this machine's.
	Publish *Publish
	// Access is what it may have from Vault; nil for nothing.
	Access *Access
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
	HostPort int // on 127.0.0.1 of this machine
	NodePort int // on the nodes, 30000 to 32767
}

// Access says what a workload may have from Vault, logging in with its JWT-SVID.
type Access struct {
	KV       bool   // KV secrets below its own name
	Database string // name of the Postgres workload that it gets users of; "" for none
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

// listens are all ports that the workload's pods serve.
func (w Workload) listens() []int {
	if w.HealthPort == 0 {
		return w.Ports
	}
	return append(slices.Clone(w.Ports), w.HealthPort)
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

// applications are the workloads that are built from a package.
func (in Intent) applications() []Workload {
	return slices.DeleteFunc(slices.Clone(in.Workloads), func(w Workload) bool { return w.Runs != "" })
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
		if ports[w.HealthPort] || w.HealthPort < 0 || w.HealthPort > 65535 {
			fault("workload %q: health port %d is one of its ports, or none at all", w.Name, w.HealthPort)
		}
		faults = append(faults, in.validateServer(w), in.validateAccess(w))
		if w.MTLS && (len(w.Ports) == 0 || w.Runs != "" || len(callers(in, w)) == 0) {
			fault("workload %q: for MTLS it needs a package, a port and an edge that leads to it", w.Name)
		}
		if p := w.Publish; p != nil && (len(w.Ports) == 0 || p.NodePort < 30000 || p.NodePort > 32767 || p.HostPort < 0 || p.HostPort > 65535) {
			fault("workload %q: to be published it needs a port, a node port from 30000 to 32767 and a host port", w.Name)
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

// validateServer checks what a workload runs.
func (in Intent) validateServer(w Workload) error {
	serves := map[Server][]int{Vault: {8200}, Postgres: {postgres.Port, postgres.AdminPort}}
	switch ports, known := serves[w.Runs]; {
	case w.Runs == "" && w.Package == "":
		return fmt.Errorf("intent: workload %q: it needs a Package, or Runs", w.Name)
	case w.Runs == "":
		return nil
	case !known:
		return fmt.Errorf("intent: workload %q: it runs %q: use %q or %q", w.Name, w.Runs, Vault, Postgres)
	case w.Package != "" || w.Replicas > 1 || w.Publish != nil || w.Access != nil || w.HealthPort != 0:
		return fmt.Errorf("intent: workload %q: what runs %s has no Package, Replicas, Publish, Access or HealthPort", w.Name, w.Runs)
	case !slices.Equal(w.Ports, ports):
		return fmt.Errorf("intent: workload %q: %s serves ports %v, not %v", w.Name, w.Runs, ports, w.Ports)
	case w.Account() != w.Name:
		return fmt.Errorf("intent: workload %q: what runs %s has the service account of its name", w.Name, w.Runs)
	case (w.Runs == Postgres) != (w.Database != ""):
		return fmt.Errorf("intent: workload %q: a Database is for what runs %s, which needs one", w.Name, Postgres)
	}
	vault, known := in.Running(Vault)
	if w.Runs == Vault {
		if vault.Name != w.Name {
			return fmt.Errorf("intent: workloads %q and %q both run %s", vault.Name, w.Name, Vault)
		}
		return nil
	}
	if !known {
		return fmt.Errorf("intent: workload %q: nobody gets a user of it, for no workload runs %s", w.Name, Vault)
	}
	if _, allowed := in.Edge(vault.Name, w.Name, postgres.AdminPort); !allowed {
		return fmt.Errorf("intent: workload %q: %s makes its users: there is no edge %s", w.Name, Vault, Edge{From: vault.Name, To: w.Name, Port: postgres.AdminPort})
	}
	return nil
}

// validateAccess checks that what a workload may have can be had: the edges that lead
// there are named, not implied.
func (in Intent) validateAccess(w Workload) error {
	if w.Access == nil {
		return nil
	}
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("intent: workload %q: access: "+format, append([]any{w.Name}, args...)...))
	}
	edge := func(from, to string, port int) {
		if _, allowed := in.Edge(from, to, port); !allowed {
			fault("there is no edge %s", Edge{From: from, To: to, Port: port})
		}
	}
	vault, known := in.Running(Vault)
	if !known || len(vault.Ports) == 0 {
		fault("no workload runs %s", Vault)
		return errors.Join(faults...)
	}
	edge(w.Name, vault.Name, vault.Ports[0])
	if w.Access.Database != "" {
		db, known := in.Workload(w.Access.Database)
		if !known || db.Runs != Postgres || len(db.Ports) == 0 {
			fault("database %q is no workload that runs %s", w.Access.Database, Postgres)
			return errors.Join(faults...)
		}
		edge(w.Name, db.Name, postgres.Port)
	}
	return errors.Join(faults...)
}

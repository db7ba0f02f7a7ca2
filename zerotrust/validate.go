package zerotrust

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/org/spire-vault-99-action/zerotrust/postgres"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// Fault is one thing that is wrong with an intent.
type Fault struct {
	// Path is the place in the intent, "workloads[2].ports[0]"; "" is all of it.
	Path string
	Text string
	// File, Line and Column are the place in the YAML; zero for an intent that does not
	// come from there.
	File         string
	Line, Column int
}

func (f Fault) String() string {
	if f.Line == 0 {
		return "intent: " + f.Text
	}
	return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Text)
}

// Faults is the error of an intent that is not valid: everything that is wrong with it,
// in the order of the places.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, fault := range f {
		lines[i] = fault.String()
	}
	return strings.Join(lines, "\n")
}

// Validate finds everything that is wrong with the intent. Its error is of type Faults.
func (in Intent) Validate() error {
	if faults := in.faults(); len(faults) > 0 {
		return faults
	}
	return nil
}

// checking collects faults.
type checking struct {
	in     Intent
	faults Faults
}

func (c *checking) fault(path, format string, args ...any) {
	c.faults = append(c.faults, Fault{Path: path, Text: fmt.Sprintf(format, args...)})
}

func (c *checking) label(path, what, name string) {
	if msgs := validation.IsDNS1123Label(name); len(msgs) > 0 {
		c.fault(path, "%s %q: %s", what, name, strings.Join(msgs, "; "))
	}
}

func (in Intent) faults() Faults {
	c := &checking{in: in}
	c.label("name", "name", in.Name)
	if td, err := spiffeid.TrustDomainFromString(in.TrustDomain); err != nil {
		c.fault("trustDomain", "trust domain %q: %v", in.TrustDomain, err)
	} else if td.Name() != in.TrustDomain {
		c.fault("trustDomain", "trust domain %q: give its name alone, %q", in.TrustDomain, td.Name())
	}
	if len(in.Workloads) == 0 {
		c.fault("workloads", "there is no workload")
	}
	names, accounts, nodePorts := map[string]bool{}, map[string]string{}, map[int]string{}
	for i, w := range in.Workloads {
		at := fmt.Sprintf("workloads[%d]", i)
		c.label(at+".name", "workload", w.Name)
		c.label(at+".namespace", "namespace of "+w.Name, w.Namespace)
		c.label(at+".serviceAccount", "service account of "+w.Name, w.Account())
		if w.Name == Outside {
			c.fault(at+".name", "workload %q: the name stands for what is not in the cluster", w.Name)
		}
		if names[w.Name] {
			c.fault(at+".name", "workload %q is named twice", w.Name)
		}
		names[w.Name] = true
		id := w.Namespace + "/" + w.Account()
		if other, taken := accounts[id]; taken {
			c.fault(at, "workloads %q and %q share the service account %s, and so one identity", other, w.Name, id)
		}
		accounts[id] = w.Name
		if p := w.Publish; p != nil {
			if other, taken := nodePorts[p.NodePort]; taken {
				c.fault(at+".publish.nodePort", "workloads %q and %q both want node port %d", other, w.Name, p.NodePort)
			}
			nodePorts[p.NodePort] = w.Name
		}
		c.ports(at, w)
		c.runs(at, w)
		c.access(at, w)
	}
	for i := range in.Edges {
		c.edge(i)
	}
	return c.faults
}

// ports checks those that a workload serves, and what is said of them.
func (c *checking) ports(at string, w Workload) {
	seen := map[Port]bool{}
	for i, p := range w.Ports {
		at := fmt.Sprintf("%s.ports[%d]", at, i)
		if p.Number < 1 || p.Number > 65535 {
			c.fault(at, "workload %q: port %d is not between 1 and 65535", w.Name, p.Number)
		}
		if seen[p] {
			c.fault(at, "workload %q: port %s is named twice", w.Name, p)
		}
		seen[p] = true
	}
	if w.HealthPort != 0 && seen[TCP(w.HealthPort)] || w.HealthPort < 0 || w.HealthPort > 65535 {
		c.fault(at+".healthPort", "workload %q: health port %d is one of its ports, or none at all", w.Name, w.HealthPort)
	}
	first := len(w.Ports) > 0 && !w.Ports[0].UDP
	if u, err := url.ParseRequestURI(w.HTTP); w.HTTP != "" && (err != nil || u.Path == "" || u.IsAbs() || !first || w.Runs != "" || w.MTLS) {
		c.fault(at+".http", "workload %q: want the path of a page, such as /login, and a TCP port, first, that does not speak mTLS", w.Name)
	}
	if w.MTLS && (!first || w.Runs != "" || len(callers(c.in, w)) == 0) {
		c.fault(at+".mtls", "workload %q: for mTLS it needs a TCP port, first, and an edge that leads to it from a workload", w.Name)
	}
	p := w.Publish
	if p == nil {
		return
	}
	if !first || p.NodePort < 30000 || p.NodePort > 32767 || p.HostPort < 0 || p.HostPort > 65535 {
		c.fault(at+".publish", "workload %q: to be published it needs a TCP port, first, a node port from 30000 to 32767 and a host port", w.Name)
		return
	}
	if e := (Edge{From: Outside, To: w.Name, Port: w.Ports[0]}); !slices.Contains(c.in.Edges, e) {
		c.fault(at+".publish", "workload %q is published: there is no edge %s", w.Name, e)
	}
}

// runs checks what a workload runs.
func (c *checking) runs(at string, w Workload) {
	var given []string
	for name, value := range map[string]string{"runs": string(w.Runs), "package": w.Package, "image": w.Image} {
		if value != "" {
			given = append(given, name)
		}
	}
	slices.Sort(given)
	if len(given) > 1 {
		c.fault(at, "workload %q: give one of %s", w.Name, strings.Join(given, ", "))
		return
	}
	if len(given) == 0 && (w.Publish != nil || w.Access != nil || w.Replicas != 0 || w.Args != nil || w.Env != nil) {
		c.fault(at, "workload %q: only what is deployed from here (package, image) has args, env, replicas, publish and access", w.Name)
	}
	if len(given) > 0 && len(w.Labels) > 0 {
		c.fault(at+".labels", "workload %q: the labels of what is deployed from here are app=%s", w.Name, w.Name)
	}
	if w.Replicas < 0 {
		c.fault(at+".replicas", "workload %q: %d replicas", w.Name, w.Replicas)
	}
	if (w.Runs == Postgres) != (w.Database != "") {
		c.fault(at+".database", "workload %q: a database is for what runs %s, which needs one", w.Name, Postgres)
	}
	if w.Runs == "" {
		return
	}
	serves := map[Server][]Port{Vault: {TCP(vault.Port)}, Postgres: {TCP(postgres.Port), TCP(postgres.AdminPort)}}
	ports, known := serves[w.Runs]
	if !known {
		c.fault(at+".runs", "workload %q: it runs %q: use %q or %q", w.Name, w.Runs, Vault, Postgres)
		return
	}
	if w.Replicas > 1 || w.Publish != nil || w.Access != nil || w.HealthPort != 0 || w.Args != nil || w.Env != nil || w.Account() != w.Name {
		c.fault(at, "workload %q: what runs %s has no args, env, replicas, publish, access or healthPort, and the service account of its name", w.Name, w.Runs)
	}
	if !slices.Equal(w.Ports, ports) {
		c.fault(at+".ports", "workload %q: %s serves ports %v, not %v", w.Name, w.Runs, ports, w.Ports)
	}
	store, known := c.in.Running(Vault)
	if w.Runs == Vault {
		if store.Name != w.Name {
			c.fault(at+".runs", "workloads %q and %q both run %s", store.Name, w.Name, Vault)
		}
		return
	}
	if !known {
		c.fault(at+".runs", "workload %q: nobody gets a user of it, for no workload runs %s", w.Name, Vault)
	} else {
		c.wants(at, fmt.Sprintf("workload %q: %s makes its users", w.Name, Vault), store.Name, w.Name, TCP(postgres.AdminPort))
	}
}

// wants checks that an edge which something stands on is named, not implied.
func (c *checking) wants(at, why, from, to string, port Port) {
	if _, allowed := c.in.Edge(from, to, port); !allowed {
		c.fault(at, "%s: there is no edge %s", why, Edge{From: from, To: to, Port: port})
	}
}

// access checks that what a workload may have from Vault can be had.
func (c *checking) access(at string, w Workload) {
	if w.Access == nil {
		return
	}
	at += ".access"
	why := fmt.Sprintf("workload %q: access", w.Name)
	store, known := c.in.Running(Vault)
	if !known {
		c.fault(at, "%s: no workload runs %s", why, Vault)
		return
	}
	c.wants(at, why, w.Name, store.Name, TCP(vault.Port))
	if w.Access.Database == "" {
		return
	}
	at += ".database"
	if db, known := c.in.Workload(w.Access.Database); !known || db.Runs != Postgres {
		c.fault(at, "%s: database %q is no workload that runs %s", why, w.Access.Database, Postgres)
		return
	}
	c.wants(at, why, w.Name, w.Access.Database, TCP(postgres.Port))
}

// edge checks that an edge leads from somewhere to somewhere, and says something new.
func (c *checking) edge(i int) {
	e, at := c.in.Edges[i], fmt.Sprintf("edges[%d]", i)
	switch from, known := c.in.Workload(e.From); {
	case e.namespace() != "":
		c.label(at+".from", fmt.Sprintf("edge %s: namespace", e), e.namespace())
	case e.From != Outside && !known:
		c.fault(at+".from", "edge %s: no workload %q", e, e.From)
	case known && from.Name == e.To:
		c.fault(at, "edge %s leads to itself", e)
	}
	if host := e.host(); host != "" {
		if msgs := validation.IsDNS1123Subdomain(host); len(msgs) > 0 {
			c.fault(at+".to", "edge %s: host %q: %s", e, host, strings.Join(msgs, "; "))
		}
		if _, err := netip.ParseAddr(host); err == nil {
			c.fault(at+".to", "edge %s: %s is an address, and no DNS name", e, host)
		}
		if strings.HasSuffix(host, ".cluster.local") || strings.HasSuffix(host, ".svc") {
			c.fault(at+".to", "edge %s: %s is inside the cluster: name its workload", e, host)
		}
		if e.From == Outside {
			c.fault(at, "edge %s: what is outside needs no edge to get out", e)
		}
		if e.Port.Number < 1 || e.Port.Number > 65535 {
			c.fault(at+".port", "edge %s: port %d is not between 1 and 65535", e, e.Port.Number)
		}
	} else if to, known := c.in.Workload(e.To); !known {
		c.fault(at+".to", "edge %s: no workload %q", e, e.To)
	} else if !slices.Contains(to.Ports, e.Port) {
		c.fault(at+".port", "edge %s: %s serves %v, not port %s", e, e.To, to.Ports, e.Port)
	}
	if e.Authenticated && (e.From == Outside || e.host() != "") {
		c.fault(at+".authenticated", "edge %s: what is outside the cluster has no identity to authenticate", e)
	}
	for _, earlier := range c.in.Edges[:i] {
		if earlier.To != e.To || earlier.Port != e.Port {
			continue
		}
		if earlier.From == e.From {
			c.fault(at, "edge %s is named twice", e)
		} else if c.overlap(earlier, e) {
			c.fault(at, "edge %s: some of it is in edge %s already", e, earlier)
		}
	}
}

// overlap says whether one is from a namespace and the other from a workload in it.
func (c *checking) overlap(a, b Edge) bool {
	for _, w := range c.in.Workloads {
		if a.starts(w) && b.starts(w) {
			return true
		}
	}
	return false
}

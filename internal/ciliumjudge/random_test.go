package ciliumjudge

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// random is an intent that the seed stands for. Not every one is valid.
func random(seed uint64) intent {
	r := rand.New(rand.NewPCG(seed, 0))
	one := func(in ...string) string { return in[r.IntN(len(in))] }
	rarely := func() bool { return r.IntN(4) == 0 }

	in := intent{Version: 1, Name: "random", TrustDomain: "demo.local"}
	namespaces := []string{"apps", "data", "jobs", "ops"}[:1+r.IntN(4)]
	for i := range 1 + r.IntN(8) {
		w := workload{Name: fmt.Sprint("w", i), Namespace: one(namespaces...)}
		if rarely() {
			w.ServiceAccount = one("w0", "w1", "robot", "default", "spire-oidc") // others have these names too
		}
		for range r.IntN(4) {
			p := tcp([]uint16{1, 53, 80, 8000, 8001, 8443, 65535}[r.IntN(7)])
			if rarely() {
				p = udp(p.number)
			}
			if !slices.Contains(w.Ports, p) {
				w.Ports = append(w.Ports, p)
			}
			if rarely() && p.number < 65535 {
				w.HealthPort = 8080
			}
		}
		in.Workloads = append(in.Workloads, w)
	}
	if rarely() {
		in.Workloads = append(in.Workloads, workload{Name: "safe", Namespace: one(namespaces...), Runs: "vault", Ports: []port{tcp(8200)}})
		if rarely() {
			in.Workloads = append(in.Workloads, workload{Name: "db", Namespace: one(namespaces...), Runs: "postgres", Database: "db", Ports: []port{tcp(5432), tcp(5433)}})
			in.Edges = append(in.Edges, edge{From: "safe", To: "db", Port: tcp(5433), Authenticated: rarely()})
		}
	}
	for range r.IntN(20) {
		to := in.Workloads[r.IntN(len(in.Workloads))]
		e := edge{From: in.Workloads[r.IntN(len(in.Workloads))].Name, To: to.Name, Authenticated: r.IntN(2) == 0}
		switch {
		case rarely():
			e.From = "namespace:" + one("apps", "data", "jobs", "ops", "elsewhere", "kube-system", "spire-system")
		case rarely():
			e.From, e.Authenticated = "outside", false
		}
		switch {
		case rarely() && e.From != "outside":
			e.To, e.Port, e.Authenticated = "dns:"+one("api.example.com", "example.com", "example.org"), tcp(443), false
			if rarely() {
				e.Port = udp(443)
			}
		case len(to.Ports) == 0 || e.From == to.Name:
			continue
		default:
			e.Port = to.Ports[r.IntN(len(to.Ports))]
		}
		if !slices.ContainsFunc(in.Edges, func(o edge) bool { return o.From == e.From && o.To == e.To && o.Port == e.Port }) {
			in.Edges = append(in.Edges, e)
		}
	}
	return in
}

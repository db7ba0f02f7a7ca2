package zerotrust

import "github.com/org/spire-vault-99-action/zerotrust/postgres"

// Precinct99 is the demo: a site whose frontend alone may call the backend, a
// backend that has its secrets and its database users from Vault, and an intruder
// that may call nobody. The GitHub that the backend calls is a small stand-in beside it.
func Precinct99() Intent {
	const (
		programs = "github.com/org/spire-vault-99-action/examples/precinct/"
		domain   = "demo.local"
		apps     = "99-apps"
		health   = 8080
	)
	id := func(name string) string { return "spiffe://" + domain + "/ns/" + apps + "/sa/" + name }
	host := func(name string) string { return "https://" + name + "." + apps + ".svc.cluster.local" }
	return Intent{
		Name:        "precinct-99",
		TrustDomain: domain,
		Workloads: []Workload{
			{
				Name: "frontend", Namespace: apps, Ports: []int{3000}, HealthPort: health, Package: programs + "frontend",
				Env:     map[string]string{"BACKEND_URL": host("backend") + ":8000", "BACKEND_SPIFFE_ID": id("backend")},
				Publish: &Publish{HostPort: 3000, NodePort: 30300},
			},
			{
				Name: "backend", Namespace: apps, Ports: []int{8000}, HealthPort: health, MTLS: true, Package: programs + "backend",
				Env:    map[string]string{"GITHUB_API_URL": host("githubstub") + ":8443/", "GITHUB_SPIFFE_ID": id("githubstub")},
				Access: &Access{KV: true, Database: "postgres"},
			},
			{Name: "githubstub", Namespace: apps, Ports: []int{8443}, HealthPort: health, MTLS: true, Package: programs + "githubstub"},
			{Name: "intruder", Namespace: apps, Package: programs + "workload", Args: []string{"serve"}},
			{Name: "postgres", Namespace: "99-data", Ports: []int{postgres.Port, postgres.AdminPort}, Runs: Postgres, Database: "precinct"},
			{Name: "vault", Namespace: "99-vault", Ports: []int{8200}, Runs: Vault},
		},
		Edges: []Edge{
			{From: "frontend", To: "backend", Port: 8000, Authenticated: true},
			{From: "backend", To: "vault", Port: 8200, Authenticated: true},
			{From: "backend", To: "postgres", Port: postgres.Port, Authenticated: true},
			{From: "backend", To: "githubstub", Port: 8443},
			{From: "vault", To: "postgres", Port: postgres.AdminPort},
		},
	}
}

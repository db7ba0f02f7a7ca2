package zerotrust

import (
	"slices"
	"strings"
	"testing"
)

func TestPrecinct99IsValid(t *testing.T) {
	if err := Precinct99().Validate(); err != nil {
		t.Fatal(err)
	}
}

// All faults are told at once.
func TestValidateTellsEverything(t *testing.T) {
	in := Intent{
		Name: "Not A Label", TrustDomain: "spiffe://x/y",
		Workloads: []Workload{
			{Name: "a", Namespace: "n", Ports: []Port{TCP(80), TCP(80), TCP(70000)}},
			{Name: "a", Namespace: "n"},
			{Name: "b", Namespace: "n", ServiceAccount: "a"},
		},
		Edges: []Edge{
			{From: "a", To: "b", Port: TCP(1)},
			{From: "x", To: "a", Port: TCP(80)},
			{From: "b", To: "a", Port: TCP(80)},
			{From: "b", To: "a", Port: TCP(80)},
			{From: "a", To: "a", Port: TCP(80)},
			{From: "a", To: "y", Port: TCP(80)},
		},
	}
	err := in.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`name "Not A Label"`, `trust domain "spiffe://x/y"`, "port 80 is named twice", "port 70000", `workload "a" is named twice`,
		`share the service account n/a`, "b serves [], not port 1", `no workload "x"`, "b → a:80 is named twice", "leads to itself", `no workload "y"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin: %v", want, err)
		}
	}
}

// What cannot be brought up is refused, each for its own reason.
func TestValidateServersAndAccess(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Intent)
		want   string
	}{
		"a package and an image":     {func(in *Intent) { in.Workloads[0].Image = "r/x:1" }, `workload "frontend": give one of image, package`},
		"published by somebody else": {func(in *Intent) { in.Workloads[0].Package = "" }, `workload "frontend": only what is deployed from here`},
		"an unknown server":          {func(in *Intent) { in.Workloads[5].Runs = "redis" }, `it runs "redis": use "vault" or "postgres"`},
		"a server's other port":      {func(in *Intent) { in.Workloads[4].Ports = []Port{TCP(5433)} }, "postgres serves ports [5432 5433], not [5433]"},
		"a server with replicas":     {func(in *Intent) { in.Workloads[4].Replicas = 2 }, "what runs postgres has no args, env, replicas"},
		"a server's account":         {func(in *Intent) { in.Workloads[5].ServiceAccount = "v" }, "and the service account of its name"},
		"postgres with no database":  {func(in *Intent) { in.Workloads[4].Database = "" }, "a database is for what runs postgres"},
		"two vaults": {func(in *Intent) {
			in.Workloads = append(in.Workloads, Workload{Name: "v2", Namespace: "x", Ports: []Port{TCP(8200)}, Runs: Vault})
		}, `workloads "vault" and "v2" both run vault`},
		"no edge to vault":        {func(in *Intent) { in.Edges = slices.Delete(in.Edges, 2, 3) }, "access: there is no edge backend → vault:8200"},
		"no edge to the database": {func(in *Intent) { in.Edges = slices.Delete(in.Edges, 3, 4) }, "access: there is no edge backend → postgres:5432"},
		"vault cannot make users": {func(in *Intent) { in.Edges = slices.Delete(in.Edges, 5, 6) }, "vault makes its users: there is no edge vault → postgres:5433"},
		"an unknown database":     {func(in *Intent) { in.Workloads[1].Access.Database = "mysql" }, `database "mysql" is no workload that runs postgres`},
		"access without a vault": {func(in *Intent) {
			in.Workloads, in.Edges = in.Workloads[:5], slices.DeleteFunc(in.Edges, func(e Edge) bool { return e.From == "vault" || e.To == "vault" })
		}, "access: no workload runs vault"},
		"mTLS for nobody":             {func(in *Intent) { in.Workloads[3].MTLS = true }, `workload "intruder": for mTLS it needs`},
		"a page without its slash":    {func(in *Intent) { in.Workloads[0].HTTP = "login" }, `workload "frontend": want the path of a page`},
		"a page elsewhere":            {func(in *Intent) { in.Workloads[0].HTTP = "http://x/login" }, "want the path of a page"},
		"a page of who serves none":   {func(in *Intent) { in.Workloads[3].HTTP = "/" }, `workload "intruder": want the path of a page`},
		"a page of who speaks mTLS":   {func(in *Intent) { in.Workloads[1].HTTP = "/" }, `workload "backend": want the path of a page`},
		"health on a served port":     {func(in *Intent) { in.Workloads[0].HealthPort = 3000 }, "health port 3000 is one of its ports"},
		"an edge to a health port":    {func(in *Intent) { in.Edges[1].Port = TCP(8080) }, "backend serves [8000], not port 8080"},
		"a node port out of range":    {func(in *Intent) { in.Workloads[0].Publish.NodePort = 3000 }, "a node port from 30000 to 32767"},
		"published without any ports": {func(in *Intent) { in.Workloads[3].Publish = &Publish{HostPort: 1, NodePort: 30000} }, `workload "intruder": to be published it needs a TCP port`},
	} {
		t.Run(name, func(t *testing.T) {
			in := Precinct99()
			tc.change(&in)
			if err := in.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

package zerotrust

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
			{Name: "a", Namespace: "n", Ports: []int{80, 80, 70000}},
			{Name: "a", Namespace: "n"},
			{Name: "b", Namespace: "n", ServiceAccount: "a"},
		},
		Edges: []Edge{
			{From: "a", To: "b", Port: 1},
			{From: "x", To: "a", Port: 80},
			{From: "b", To: "a", Port: 80},
			{From: "b", To: "a", Port: 80},
			{From: "a", To: "a", Port: 80},
			{From: "a", To: "y", Port: 80},
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

func TestMatrix(t *testing.T) {
	var got []string
	for _, c := range Matrix(Precinct99()) {
		s := c.String()
		if c.Allowed {
			s += " allowed"
		}
		if c.Authenticated {
			s += " authenticated"
		}
		got = append(got, s)
	}
	want := []string{
		"frontend → backend:8000 allowed authenticated", "frontend → backend:9000",
		"backend → frontend:3000",
		"intruder → frontend:3000", "intruder → backend:8000", "intruder → backend:9000",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

package zerotrust

import (
	"fmt"
	"slices"
	"testing"
)

// What gets through without a policy is what only that policy kept out.
func TestWithout(t *testing.T) {
	in, err := ParseIntent("shop.yaml", []byte(`version: 1
name: shop
trustDomain: shop.example
workloads:
  - {name: web, namespace: shop, ports: [80]}
  - {name: db, namespace: shop, ports: [5432]}
edges:
  - {from: outside, to: web, port: 80}
  - {from: web, to: db, port: 5432, authenticated: true}
  - {from: web, to: "dns:example.com", port: 443}
`))
	if err != nil {
		t.Fatal(err)
	}
	for workload, want := range map[string]string{
		// From outside nothing else is in the way; db's own egress still is.
		"web": "[]",
		"db":  "[outside → db:5432 db → dns:example.com:443]",
	} {
		if got := fmt.Sprint(without(in, workload)); got != want {
			t.Errorf("without the policy of %s: %s, want %s", workload, got, want)
		}
	}
	for workload, want := range map[string]int{"web": 1, "db": 1} {
		if got := authenticated(in, workload); len(got) != want || !slices.ContainsFunc(got, func(c Cell) bool { return c.From == "web" && c.To == "db" }) {
			t.Errorf("authenticated edges of %s: %v", workload, got)
		}
	}
	if got := authenticated(Precinct99(), "intruder"); len(got) != 0 {
		t.Errorf("the intruder has authenticated edges: %v", got)
	}
}

// Rolling back changes nothing but that nobody is asked to authenticate.
func TestUnauthenticated(t *testing.T) {
	in := Precinct99()
	plain := in.unauthenticated()
	for i, e := range in.Edges {
		e.Authenticated = false
		if plain.Edges[i] != e {
			t.Errorf("%+v, want %+v", plain.Edges[i], e)
		}
	}
	if len(authenticated(in, "backend")) == 0 {
		t.Error("the intent itself was changed")
	}
}

package zerotrust_test

import (
	"context"
	"fmt"

	"github.com/org/spire-vault-99-action/zerotrust"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// What is not named is denied: the matrix has a cell for every workload, and what is
// outside the cluster, and every port of every other one.
func ExampleMatrix() {
	intent := zerotrust.Intent{
		Name: "shop", TrustDomain: "shop.example",
		Workloads: []zerotrust.Workload{
			{Name: "web", Namespace: "shop", Ports: []zerotrust.Port{zerotrust.TCP(8080)}},
			{Name: "db", Namespace: "shop", Ports: []zerotrust.Port{zerotrust.TCP(5432)}},
		},
		Edges: []zerotrust.Edge{{From: "web", To: "db", Port: zerotrust.TCP(5432), Authenticated: true}},
	}
	for _, cell := range zerotrust.Matrix(intent) {
		fmt.Println(cell, "allowed:", cell.Allowed)
	}
	// Output:
	// outside → web:8080 allowed: false
	// outside → db:5432 allowed: false
	// web → db:5432 allowed: true
	// db → web:8080 allowed: false
}

// Bringing the demo up and proving it, as examples/full does.
func ExampleStack() {
	ctx := context.Background()
	stack, err := zerotrust.New(ctx, zerotrust.Config{Intent: zerotrust.Precinct99(), Dir: "/var/cache/zerotrust", SourceDir: "."})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stack.Close()
	report, err := phase.Run(ctx, stack.Phases(), func(e phase.Event) { fmt.Println(e.Phase, e.Text) })
	fmt.Println(report.OK(), err)
}

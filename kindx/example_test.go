package kindx_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/org/spire-vault-99-action/kindx"
)

// A cluster for Cilium: no network and no kube-proxy of its own. Run again, it
// finds the same cluster; with another configuration it says so.
func ExampleEnsure() {
	ctx := context.Background()
	say := func(e kindx.Event) { fmt.Println(e) }

	if _, err := kindx.EnsureEngine(ctx, kindx.EngineConfig{StateDir: "/var/tmp/demo/engine", OnEvent: say}); err != nil {
		fmt.Println(err)
		return
	}
	c, err := kindx.Ensure(ctx, kindx.Config{
		Name: "demo", Workers: 2, DisableDefaultCNI: true, KubeProxyMode: "none",
		StateDir: "/var/tmp/demo/clusters", OnEvent: say,
	})
	if other, ok := errors.AsType[*kindx.MismatchError](err); ok {
		fmt.Println("it differs in", other.Differences)
		return
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	nodes, err := c.Nodes(ctx)
	fmt.Println(len(nodes), err)
}

// What a MismatchError tells its reader.
func ExampleMismatchError() {
	err := error(&kindx.MismatchError{Name: "demo", Differences: []kindx.Difference{
		{Field: "workers", Have: "1", Want: "2"},
	}})
	fmt.Println(err)
	// Output: cluster "demo" exists and differs from what is wanted (have → want): workers: 1 → 2: take another name, delete it, or ask for it to be recreated
}

// Only what is in the way is an error; the rest is for the reader.
func ExampleFailures() {
	findings := []kindx.Finding{
		{Name: "cgroup", Status: kindx.Warn, Saw: "v1", Do: "boot with v2"},
		{Name: "ports", Status: kindx.Fail, Saw: "taken: 127.0.0.1:8080 to 80/tcp", Do: "map others"},
	}
	fmt.Println(kindx.Failures(findings))
	// Output: ports: taken: 127.0.0.1:8080 to 80/tcp: map others
}

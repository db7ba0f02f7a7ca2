package cilium_test

import (
	"fmt"
	"log"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/cilium"
)

// The values that a Config stands for can be looked at before anything is installed.
func ExampleValues() {
	values, err := cilium.Values(cilium.Config{
		ClusterName:   "precinct-99",
		APIServerHost: "precinct-99-control-plane",
		TrustDomain:   spiffeid.RequireTrustDomainFromString("demo.local"),
		Values:        map[string]any{"operator": map[string]any{"replicas": 2}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("replaces kube-proxy:", values["kubeProxyReplacement"])
	fmt.Println("operator:", values["operator"])
	// Output:
	// replaces kube-proxy: true
	// operator: map[replicas:2 rollOutPods:true]
}

package deploy_test

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/spire/deploy"
)

// What an installation is made of. Install applies it to a cluster.
func ExampleManifests() {
	manifests, err := deploy.Manifests(deploy.Config{
		TrustDomain: spiffeid.RequireTrustDomainFromString("corp.example"),
		ClusterName: "c1",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for line := range strings.Lines(string(manifests)) {
		if strings.Contains(line, "image:") || strings.Contains(line, "server_address") || strings.Contains(line, "admin_ids") {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	// Output:
	// admin_ids = ["spiffe://corp.example/admin/session", "spiffe://corp.example/cilium-operator"]
	// image: ghcr.io/spiffe/spire-server:1.13.3
	// image: ghcr.io/spiffe/oidc-discovery-provider:1.13.3
	// image: ghcr.io/spiffe/spire-agent:1.13.3
	// server_address = "spire-server.spire-system.svc"
	// image: ghcr.io/spiffe/spire-agent:1.13.3
}

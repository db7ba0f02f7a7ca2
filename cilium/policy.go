package cilium

import (
	"context"
	"fmt"

	"k8s.io/client-go/rest"
)

// ApplyPolicies server-side-applies a YAML stream of policies as the field manager
// owner. It returns when the API server has them; each agent puts them in force
// within about a second, so a probe waits for the verdict it expects.
func ApplyPolicies(ctx context.Context, cluster *rest.Config, owner string, manifests []byte) error {
	client, err := connect(cluster)
	if err != nil {
		return err
	}
	if err := client.Apply(ctx, owner, manifests); err != nil {
		return fmt.Errorf("cilium: apply policies as %s: %w", owner, err)
	}
	return nil
}

// DeletePolicies deletes the policies of a YAML stream and waits until they are gone.
// One that is not there is fine.
func DeletePolicies(ctx context.Context, cluster *rest.Config, manifests []byte) error {
	client, err := connect(cluster)
	if err != nil {
		return err
	}
	if err := client.Delete(ctx, manifests); err != nil {
		return fmt.Errorf("cilium: delete policies: %w", err)
	}
	return nil
}

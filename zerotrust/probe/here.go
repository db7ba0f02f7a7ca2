package probe

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/org/spire-vault-99-action/internal/try"
)

// FromHere tries once, as Prober.Try does, but from this process: from outside of a cluster,
// if this machine is. An error means that the target is none.
func FromHere(ctx context.Context, target string, timeout time.Duration) (Attempt, error) {
	if err := checkTarget(target); err != nil {
		return Attempt{}, fmt.Errorf("probe: try %s from here: %w", target, err)
	}
	return Attempt(try.Once(ctx, target, cmp.Or(timeout, defaultTimeout))), nil
}

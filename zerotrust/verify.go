package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// VerifyPhases prove the intent's edges on a cluster that somebody else built
// (Config.Cluster), as far as that can be done from within it: they change nothing, but for
// the ephemeral containers that probe from inside the pods. What is outside the cluster is
// not tried. Without Hubble no denial can be told from a time-out, which the report says.
func (s *Stack) VerifyPhases() []*phase.Phase {
	permissions := &phase.Phase{Name: "permissions", Doc: "Whoever asks may do what the proof needs, and the cluster answers.", Checks: []phase.Check{{
		Name: "rights", Doc: "Pods can be found, a prober added to them and run there, and Hubble Relay reached.",
		Hint: "go run ./examples/derive -intent FILE verifier | kubectl apply -f -; then be in the group " + VerifierGroup,
		Run:  s.checkPermissions,
	}}}
	mesh := &phase.Phase{
		Name: "mesh", Needs: []*phase.Phase{permissions},
		Doc:    "Cilium and SPIRE are there, ready, and set up as the intent needs them.",
		Checks: s.meshChecks(),
	}
	workloads := &phase.Phase{Name: "workloads", Needs: []*phase.Phase{permissions}, Doc: "Each workload of the intent has ready pods, by its service account."}
	for _, w := range s.cfg.Intent.Workloads {
		workloads.Checks = append(workloads.Checks, phase.Check{
			Name: "pods of " + w.Name, Doc: "There is a ready pod that has the workload's identity.",
			Hint: fmt.Sprintf("kubectl -n %s get pods -o custom-columns=NAME:.metadata.name,ACCOUNT:.spec.serviceAccountName,PHASE:.status.phase", w.Namespace),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkPods(ctx, w) },
		})
	}
	log := s.flows()
	cells := slices.DeleteFunc(Matrix(s.cfg.Intent), func(c Cell) bool { return c.From == Outside })
	return []*phase.Phase{permissions, mesh, workloads, {
		Name: "4D-network-policies", Doc: "Every allowed edge connects; every other one is dropped, for the right reason.",
		Needs: []*phase.Phase{workloads}, Checks: s.matrixChecks(log, cells),
	}, {
		Name: "4D-from-outside", Doc: "The same from outside the cluster, as far as this machine is there and has a way to the pods.",
		Needs: []*phase.Phase{workloads}, Checks: s.outsideChecks(log),
	}}
}

func (s *Stack) checkPods(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "at least one ready pod", Source: "API server"}
	pods, err := s.readyPods(ctx, w)
	if errors.Is(err, errNoPod) {
		return ev, phase.Failf("%w", err)
	}
	if err != nil {
		return ev, err
	}
	var names []string
	for _, p := range pods {
		names = append(names, p.Name)
	}
	ev.Got = strings.Join(names, ", ")
	return ev, nil
}

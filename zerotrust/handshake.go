package zerotrust

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// proveHandshake makes the two sides of an authenticated edge prove themselves
// anew and adds what it saw to ev.
func (s *Stack) proveHandshake(ctx context.Context, cell Cell, ev *phase.Evidence, cluster *rest.Config) error {
	from, err := s.identityOf(ctx, cluster, cell.From)
	if err != nil {
		return err
	}
	to, err := s.identityOf(ctx, cluster, cell.To)
	if err != nil {
		return err
	}
	pair := func() (cilium.AuthEntry, bool, error) {
		entries, err := cilium.AuthEntries(ctx, cluster)
		if err != nil {
			return cilium.AuthEntry{}, false, err
		}
		i := slices.IndexFunc(entries, func(e cilium.AuthEntry) bool {
			return e.Node == to.Node && e.LocalIdentity == to.Identity && e.RemoteIdentity == from.Identity
		})
		if i < 0 {
			return cilium.AuthEntry{}, false, nil
		}
		return entries[i], true, nil
	}
	if err := cilium.FlushAuth(ctx, cluster, ""); err != nil {
		return err
	}
	// What is in the map from here on is fresh, whoever used the edge.
	flushed := time.Now()
	_, result, err := s.probe(ctx, cell, allowedTimeout)
	if err != nil {
		return err
	}
	ev.Details = append(ev.Details, fmt.Sprintf("%s after the flush: %s", cell, result))
	e, there, err := pair()
	if err != nil {
		return err
	}
	if !result.Connected || !there {
		return phase.Want(ev.Want, fmt.Sprintf("%s: %s; pair in the map of %s: %t", cell, result, to.Node, there))
	}
	if e.AuthType != "spire" || !e.Expires.After(flushed) {
		return phase.Want(ev.Want, fmt.Sprintf("%s: authenticated by %s until %s", cell, e.AuthType, e.Expires))
	}
	ev.Details = append(ev.Details, fmt.Sprintf("%s: identity %d authenticated to %d on %s by %s until %s",
		cell, e.RemoteIdentity, e.LocalIdentity, e.Node, e.AuthType, e.Expires.UTC().Format(time.RFC3339)))
	return nil
}

// identityOf finds a ready endpoint of the workload.
func (s *Stack) identityOf(ctx context.Context, cluster *rest.Config, workload string) (cilium.Endpoint, error) {
	w, _ := s.cfg.Intent.Workload(workload)
	pods, err := s.readyPods(ctx, w)
	if err != nil {
		return cilium.Endpoint{}, err
	}
	endpoints, err := cilium.Endpoints(ctx, cluster, w.Namespace)
	if err != nil {
		return cilium.Endpoint{}, err
	}
	for _, e := range endpoints {
		i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == e.Pod })
		if i >= 0 && e.Identity != 0 {
			e.Node = pods[i].Spec.NodeName
			return e, nil
		}
	}
	return cilium.Endpoint{}, fmt.Errorf("no ready pod of workload %s has a Cilium endpoint with an identity", workload)
}

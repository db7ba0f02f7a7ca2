package zerotrust

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// Upgrade brings a cluster whose Cilium authenticates nobody to the intent's mutual
// authentication while its applications run. What asks for authentication comes last:
// SPIRE and its entries, then Cilium, then, when every identity is registered, the policies.
// When it returns, a handshake of each authenticated edge has been seen. It is idempotent, and may be interrupted and run again.
func (s *Stack) Upgrade(ctx context.Context) error {
	if err := s.applySPIRE(ctx); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if err := s.register(ctx); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	cfg, err := s.ciliumConfig(ctx)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if err := s.release(ctx, cfg); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if err := s.hurryIdentities(ctx); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if _, err := s.checkIdentityEntries(ctx); err != nil {
		return fmt.Errorf("upgrade: not every identity is registered, so that the policies do not ask for authentication yet: %w", err)
	}
	if err := s.applyGuards(ctx); err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	if !slices.ContainsFunc(s.cfg.Intent.Edges, func(e Edge) bool { return e.Authenticated }) {
		return nil
	}
	// Each node takes the policies up in its own time.
	err = s.within(ctx, func() error { _, err := s.checkHandshake(ctx); return err })
	if err != nil {
		return fmt.Errorf("upgrade: the policies are there, and not every edge is seen authenticated: %w", err)
	}
	return nil
}

// Rollback goes back to a Cilium that authenticates nobody, while the applications run: the
// same edges stay allowed, and no other one. SPIRE stays, as workloads use it themselves. It
// is idempotent, and may be interrupted and run again.
func (s *Stack) Rollback(ctx context.Context) error {
	cluster, err := s.rest(ctx)
	if err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	policies, err := Policies(s.cfg.Intent.unauthenticated())
	if err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	if err := cilium.ApplyPolicies(ctx, cluster, Owner, policies); err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	plain, err := s.ciliumConfig(ctx)
	if err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	plain.TrustDomain = spiffeid.TrustDomain{}
	if err := s.release(ctx, plain); err != nil {
		return fmt.Errorf("rollback: %w", err)
	}
	return nil
}

func (s *Stack) release(ctx context.Context, cfg cilium.Config) error {
	cluster, err := s.rest(ctx)
	if err != nil {
		return err
	}
	cfg.OnEvent = func(e cilium.Event) { phase.Progress(ctx, "%s", e) }
	_, err = cilium.Install(ctx, cluster, cfg)
	return err
}

// unauthenticated is the intent with no edge that asks for authentication.
func (in Intent) unauthenticated() Intent {
	in.Edges = slices.Clone(in.Edges)
	for i := range in.Edges {
		in.Edges[i].Authenticated = false
	}
	return in
}

// drillUpgrade goes back to no mutual authentication and to it again, under load.
func (s *Stack) drillUpgrade(ctx context.Context, log *flowLog, site Site) (ev phase.Evidence, err error) {
	ev = phase.Evidence{
		Want:   "authenticated edges pass unauthenticated after the rollback, and authenticated after the upgrade; no failed request",
		Source: "steady load from this machine; probes in the pods; Hubble Relay",
	}
	edges := slices.DeleteFunc(Matrix(s.cfg.Intent), func(c Cell) bool { return !c.Authenticated })
	stop := site.Load(ctx)
	// Whatever happens, the intent's authentication is asked for again.
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w; putting it back: %v", err, s.Upgrade(context.WithoutCancel(ctx))) //nolint:errorlint // the first one is the cause
		}
	}()
	tried := func(what string, m mutation) error {
		if wrong := s.settled(ctx, log, edges, m, &ev); len(wrong) > 0 {
			return phase.Want(ev.Want, what+": "+strings.Join(wrong, "; "))
		}
		return nil
	}
	work := func() error {
		if err := s.Rollback(ctx); err != nil {
			return err
		}
		if err := tried("after the rollback", mutation{expect: func(Cell) expectation { return notTold }}); err != nil {
			return err
		}
		if err := s.Upgrade(ctx); err != nil {
			return err
		}
		return tried("after the upgrade", mutation{expect: func(Cell) expectation { return asBefore }})
	}
	err = work()
	requests, failed, first := stop()
	ev.Got = fmt.Sprintf("back and forth with %d requests, %d failed", requests, failed)
	if err != nil {
		return ev, err
	}
	if failed > 0 || requests == 0 {
		return ev, phase.Want(ev.Want, fmt.Sprintf("%d of %d requests failed, the first: %v", failed, requests, first))
	}
	return ev, nil
}

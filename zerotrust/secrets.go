package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/postgres"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// VaultSettings derives what Vault is configured with: the login role, the policy and the
// database users of each workload that has Access.
func VaultSettings(in Intent) (vault.Settings, error) {
	td, err := spiffeid.TrustDomainFromString(in.TrustDomain)
	if err != nil {
		return vault.Settings{}, fmt.Errorf("intent: trust domain: %w", err)
	}
	s := vault.Settings{
		Issuer:  deploy.Issuer(deploy.Config{}),
		Keys:    vault.Endpoint{Address: deploy.KeysAddress(deploy.Config{}), ID: deploy.OIDCID(td)},
		AuditID: deploy.AdminID(td),
	}
	for _, w := range in.Workloads {
		if w.Runs == Postgres {
			s.Databases = append(s.Databases, vault.Database{
				Name: w.Database, Superuser: postgres.Superuser,
				Endpoint: vault.Endpoint{Address: fmt.Sprintf("%s:%d", w.Host(), postgres.AdminPort), ID: in.ID(w)},
			})
		}
		if w.Access == nil {
			continue
		}
		a := vault.Access{Name: w.Name, ID: in.ID(w), KV: w.Access.KV}
		if db, ok := in.Workload(w.Access.Database); ok {
			a.Database = db.Database
		}
		s.Access = append(s.Access, a)
	}
	return s, nil
}

// vaultConfig is how the intent's Vault, w, is installed.
func (s *Stack) vaultConfig(ctx context.Context, w Workload) (vault.Config, error) {
	unsealer, err := s.program(ctx, unsealerPackage)
	if err != nil {
		return vault.Config{}, err
	}
	settings, err := VaultSettings(s.cfg.Intent)
	if err != nil {
		return vault.Config{}, err
	}
	return vault.Config{
		Namespace: w.Namespace, Name: w.Name, Flavor: s.cfg.Vault, ID: s.cfg.Intent.ID(w),
		Image: s.image(s.cfg.vaultImage()), HelperImage: s.image(HelperImage), TunnelImage: s.image(TunnelImage), UnsealerImage: s.image(unsealer.ref),
		Tunnels: settings.Tunnels(), SocketDir: socketDir, StorageClass: s.storageClass(),
	}, nil
}

func (s *Stack) postgresConfig(w Workload) postgres.Config {
	vault, _ := s.cfg.Intent.Running(Vault)
	return postgres.Config{
		Namespace: w.Namespace, Name: w.Name, Database: w.Database, Admin: s.cfg.Intent.ID(vault),
		Image: s.image(postgres.Image), HelperImage: s.image(HelperImage), TunnelImage: s.image(TunnelImage),
		SocketDir: socketDir, StorageClass: s.storageClass(),
	}
}

func (s *Stack) databases() []Workload {
	return slices.DeleteFunc(slices.Clone(s.cfg.Intent.Workloads), func(w Workload) bool { return w.Runs != Postgres })
}

// connectVault is a connection of its own; the caller closes it.
func (s *Stack) connectVault(ctx context.Context, w Workload) (*vault.Conn, error) {
	cfg, err := s.vaultConfig(ctx, w)
	if err != nil {
		return nil, err
	}
	if cfg.Bundle, err = s.bundle(ctx); err != nil {
		return nil, err
	}
	cluster, err := s.rest(ctx)
	if err != nil {
		return nil, err
	}
	return vault.Connect(ctx, cluster, cfg)
}

// applySecrets brings up Vault and the databases, and configures the one for the others.
func (s *Stack) applySecrets(ctx context.Context) error {
	client, err := s.kube(ctx)
	if err != nil {
		return err
	}
	if err := s.applyStorage(ctx, client); err != nil {
		return err
	}
	cluster, err := s.rest(ctx)
	if err != nil {
		return err
	}
	server, _ := s.cfg.Intent.Running(Vault)
	cfg, err := s.vaultConfig(ctx, server)
	if err != nil {
		return err
	}
	began := time.Now()
	up := func(what string) {
		phase.Progress(ctx, "%s after %s", what, time.Since(began).Round(100*time.Millisecond))
	}
	// The databases first: Vault's tunnels want their names to resolve.
	for _, w := range s.databases() {
		if err := postgres.Install(ctx, cluster, s.postgresConfig(w)); err != nil {
			return err
		}
	}
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := vault.Install(groupCtx, cluster, cfg); err != nil {
			return err
		}
		up("Vault runs")
		conn, err := s.connectVault(groupCtx, server)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.Unlock(groupCtx); err != nil {
			return err
		}
		up("Vault is unsealed")
		return nil
	})
	for _, w := range s.databases() {
		group.Go(func() error {
			if err := postgres.WaitReady(groupCtx, cluster, s.postgresConfig(w)); err != nil {
				return err
			}
			up("PostgreSQL " + w.Name + " is ready")
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := s.configureVault(ctx, cluster, server); err != nil {
		return err
	}
	up("Vault is configured")
	return nil
}

// configureVault does it with a root token that is made for it and revoked after it.
func (s *Stack) configureVault(ctx context.Context, cluster *rest.Config, server Workload) (err error) {
	conn, err := s.connectVault(ctx, server)
	if err != nil {
		return err
	}
	defer conn.Close()
	session, err := conn.Root(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// Also when ctx has ended: no root token is to stay.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, session.Close(ending))
	}()
	settings, err := VaultSettings(s.cfg.Intent)
	if err != nil {
		return err
	}
	first := map[string]string{}
	for _, w := range s.databases() {
		if first[w.Database], err = postgres.BootstrapPassword(ctx, cluster, s.postgresConfig(w)); err != nil {
			return err
		}
	}
	plan, err := session.Configure(ctx, settings, first)
	if err != nil {
		return err
	}
	phase.Progress(ctx, "Vault: %d mounts made, %d objects written, %d removed", len(plan.Mount), len(plan.Write), len(plan.Remove))
	for _, w := range s.databases() {
		if first[w.Database] == "" {
			continue
		}
		if err := session.RotateRoot(ctx, w.Database); err != nil {
			// Vault knows an older server of that name: it gets to know this one.
			if ferr := session.Forget(ctx, w.Database); ferr != nil {
				return errors.Join(err, ferr)
			}
			if _, err := session.Configure(ctx, settings, first); err != nil {
				return err
			}
			if err := session.RotateRoot(ctx, w.Database); err != nil {
				return err
			}
		}
		if err := postgres.DropBootstrap(ctx, cluster, s.postgresConfig(w)); err != nil {
			return err
		}
		phase.Progress(ctx, "PostgreSQL %s: Vault alone knows the superuser's password now", w.Name)
	}
	return nil
}

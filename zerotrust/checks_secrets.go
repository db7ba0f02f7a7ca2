package zerotrust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/postgres"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

func (s *Stack) secretsChecks() []phase.Check {
	server, _ := s.cfg.Intent.Running(Vault)
	all := []phase.Check{
		{
			Name: "vault unsealed", Doc: "Vault proves its SPIFFE ID, is initialised and unsealed, and keeps its data on disk.",
			Hint: fmt.Sprintf("kubectl -n %s logs %s-0 -c unsealer; kubectl -n %[1]s logs %[2]s-0 -c vault", server.Namespace, server.Name),
			Run:  s.checkVaultOpen,
		},
		{
			Name: "vault configured", Doc: "Its auth method, engines, policies and roles are exactly the derived ones: read with a JWT-SVID minted for this check.",
			Hint: "Run again without --verify: the secrets phase puts it right.",
			Run:  s.checkVaultConfigured,
		},
		{
			Name: "keys of JWT-SVIDs", Doc: "SPIRE gives Vault the keys over SPIFFE mTLS; another identity, none at all, and plain text are refused.",
			Hint: "kubectl -n spire-system logs deploy/spire-oidc -c tunnel",
			Run:  s.checkKeys,
		},
	}
	for _, w := range s.databases() {
		all = append(all, phase.Check{
			Name: "postgres " + w.Name, Doc: "It proves its SPIFFE ID in TLS, takes nobody without TLS and no superuser, and its first password is gone.",
			Hint: fmt.Sprintf("kubectl -n %s logs %s-0 --all-containers", w.Namespace, w.Name),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkPostgres(ctx, w) },
		}, phase.Check{
			Name: "administration of " + w.Name, Doc: "Vault comes in as the superuser over SPIFFE mTLS; another identity, none at all, and plain text are refused.",
			Hint: fmt.Sprintf("kubectl -n %s logs %s-0 -c tunnel", w.Namespace, w.Name),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkAdmin(ctx, w) },
		})
	}
	return all
}

func (s *Stack) checkVaultOpen(ctx context.Context) (phase.Evidence, error) {
	server, _ := s.cfg.Intent.Running(Vault)
	ev := phase.Evidence{Want: "initialised and unsealed, storage raft, as " + s.cfg.Intent.ID(server).String(), Source: "sys/seal-status over TLS, by SPIFFE ID"}
	conn, err := s.connectVault(ctx, server)
	if err != nil {
		return ev, err
	}
	defer conn.Close()
	status, err := conn.GetStatus(ctx)
	if err != nil {
		return ev, err
	}
	ev.Got = fmt.Sprintf("version %s, initialised %t, sealed %t, storage %s", status.Version, status.Initialized, status.Sealed, status.Storage)
	phase.Note(ctx, "vault", status.Version)
	if !status.Initialized || status.Sealed || status.Storage != "raft" {
		return ev, phase.Want(ev.Want, ev.Got)
	}
	return ev, nil
}

// auditLife is how long the JWT-SVID of a check is valid.
const auditLife = time.Minute

func (s *Stack) checkVaultConfigured(ctx context.Context) (phase.Evidence, error) {
	server, _ := s.cfg.Intent.Running(Vault)
	ev := phase.Evidence{Want: "nothing to do", Source: "Vault's own API, as role " + vault.AuditRole}
	settings, err := VaultSettings(s.cfg.Intent)
	if err != nil {
		return ev, err
	}
	conn, err := s.connectVault(ctx, server)
	if err != nil {
		return ev, err
	}
	defer conn.Close()
	admin, err := s.spire(ctx)
	if err != nil {
		return ev, err
	}
	jwt, err := deploy.MintJWT(ctx, admin, settings.AuditID, vault.Audience, auditLife)
	if err != nil {
		return ev, err
	}
	session, err := conn.Login(ctx, vault.AuditRole, jwt)
	if err != nil {
		return ev, err
	}
	plan, diffErr := session.Diff(ctx, settings)
	if err := errors.Join(diffErr, session.Close(ctx)); err != nil {
		return ev, err
	}
	for _, o := range vault.Objects(settings) {
		ev.Details = append(ev.Details, o.Path)
	}
	ev.Got = plan.String()
	return ev, same(ev)
}

// checkPostgres speaks PostgreSQL's protocol: who comes how is told from its answers.
func (s *Stack) checkPostgres(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{
		Want:   "TLS as " + s.cfg.Intent.ID(w).String() + "; refused without, and as the superuser; no Secret with a first password",
		Source: "PostgreSQL's protocol through a forwarded port; API server",
	}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	cfg := s.postgresConfig(w)
	_, err = client.Clientset().CoreV1().Secrets(w.Namespace).Get(ctx, cfg.BootstrapSecret(), metav1.GetOptions{})
	if err == nil {
		return ev, phase.Want(ev.Want, "Secret "+cfg.BootstrapSecret()+" is still there")
	}
	if !apierrors.IsNotFound(err) {
		return ev, err
	}
	cert, err := s.presented(ctx, w)
	if err != nil {
		return ev, err
	}
	ev.Details = append(ev.Details, fmt.Sprintf("with TLS: %v until %s", cert.URIs, cert.NotAfter.UTC().Format(time.RFC3339)))
	vault, err := s.clientTLS(ctx, cfg.Admin, s.cfg.Intent.ID(w))
	if err != nil {
		return ev, err
	}
	for _, try := range []struct {
		who  string
		tls  *tls.Config
		user string
		code string
	}{
		{"without TLS", nil, "nobody", notAuthorized},
		{"somebody with an SVID", vault, "nobody", wrongPassword},
		{"the superuser, with Vault's SVID", vault, postgres.Superuser, notAuthorized},
	} {
		conn, done, err := s.forwarded(ctx, w)
		if err != nil {
			return ev, err
		}
		code, err := startSession(ctx, conn, try.tls, try.user)
		done()
		if err != nil {
			return ev, fmt.Errorf("%s: %w", try.who, err)
		}
		got := fmt.Sprintf("%s: ends with code %s", try.who, code)
		ev.Details = append(ev.Details, got)
		if code != try.code {
			return ev, phase.Want(try.code, got)
		}
	}
	ev.Got = ev.Want
	return ev, nil
}

// forwarded is a connection to a server's first port, past the network's policies.
func (s *Stack) forwarded(ctx context.Context, w Workload) (net.Conn, func(), error) {
	client, err := s.kube(ctx)
	if err != nil {
		return nil, nil, err
	}
	forward, err := client.Forward(ctx, w.Namespace, w.Name+"-0", w.Ports[0].Number)
	if err != nil {
		return nil, nil, err
	}
	conn, err := connect(ctx, forward.Addr)
	if err != nil {
		forward.Close()
		return nil, nil, err
	}
	return conn, func() { conn.Close(); forward.Close() }, nil
}

// presented is the certificate that a server of the intent presents, once it is
// verified to be the SVID of its SPIFFE ID.
func (s *Stack) presented(ctx context.Context, w Workload) (*x509.Certificate, error) {
	bundle, err := s.bundle(ctx)
	if err != nil {
		return nil, err
	}
	conn, done, err := s.forwarded(ctx, w)
	if err != nil {
		return nil, err
	}
	defer done()
	var presented *x509.Certificate
	cfg := tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(s.cfg.Intent.ID(w)))
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		presented = state.PeerCertificates[0]
		return nil
	}
	if w.Runs == Postgres {
		_, err = startSession(ctx, conn, cfg, "nobody")
	} else {
		err = tls.Client(conn, cfg).HandshakeContext(ctx)
	}
	if err != nil {
		return nil, phase.Failf("the TLS identity of %s: %w", w.Name, err)
	}
	return presented, nil
}

// checkAdmin puts the port to the test by which Vault comes in as the superuser.
func (s *Stack) checkAdmin(ctx context.Context, w Workload) (phase.Evidence, error) {
	return s.checkListener(ctx, listener{
		namespace: w.Namespace, pod: w.Name + "-0", port: postgres.AdminPort,
		server: s.cfg.Intent.ID(w), caller: s.postgresConfig(w).Admin, try: knockPostgres(postgres.Superuser),
	})
}

// checkKeys puts the port to the test where Vault fetches the keys of JWT-SVIDs.
func (s *Stack) checkKeys(ctx context.Context) (phase.Evidence, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	pods, err := client.ReadyPods(ctx, "spire-system", "app.kubernetes.io/name=spire-oidc")
	if err != nil {
		return phase.Evidence{}, err
	}
	if len(pods) == 0 {
		return phase.Evidence{}, errors.New("SPIRE's OIDC provider has no ready pod")
	}
	server, _ := s.cfg.Intent.Running(Vault)
	return s.checkListener(ctx, listener{
		namespace: "spire-system", pod: pods[0].Name, port: deploy.KeysPort,
		server: deploy.OIDCID(s.td), caller: s.cfg.Intent.ID(server), try: knockHTTP("/keys"),
	})
}

package zerotrust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
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
	}
	for _, w := range s.databases() {
		all = append(all, phase.Check{
			Name: "postgres " + w.Name, Doc: "It proves its SPIFFE ID in TLS, takes nobody without TLS, and its first password is gone.",
			Hint: fmt.Sprintf("kubectl -n %s logs %s-0 --all-containers", w.Namespace, w.Name),
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkPostgres(ctx, w) },
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

// checkPostgres speaks the beginning of PostgreSQL's protocol: the request for TLS, the
// handshake, and a start without TLS, which must be refused.
func (s *Stack) checkPostgres(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{
		Want:   "TLS as " + s.cfg.Intent.ID(w).String() + "; refused without; no Secret with a first password",
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
	forward, err := client.Forward(ctx, w.Namespace, w.Name+"-0", w.Ports[0])
	if err != nil {
		return ev, err
	}
	defer forward.Close()
	plain, err := startPlain(ctx, forward.Addr)
	if err != nil {
		return ev, err
	}
	ev.Details = append(ev.Details, fmt.Sprintf("with TLS: %v until %s", cert.URIs, cert.NotAfter.UTC().Format(time.RFC3339)), "without: "+plain)
	ev.Got = ev.Want
	return ev, nil
}

// Of the protocol: https://www.postgresql.org/docs/15/protocol-message-formats.html
const (
	sslRequest     = "\x00\x00\x00\x08\x04\xd2\x16\x2f"
	startupMessage = "\x00\x00\x00\x15\x00\x03\x00\x00user\x00nobody\x00\x00"
)

// dialFirst connects and says the first words.
func dialFirst(ctx context.Context, addr, first string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, first); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// presented is the certificate that a server of the intent presents, once it is
// verified to be the SVID of its SPIFFE ID.
func (s *Stack) presented(ctx context.Context, w Workload) (*x509.Certificate, error) {
	bundle, err := s.bundle(ctx)
	if err != nil {
		return nil, err
	}
	client, err := s.kube(ctx)
	if err != nil {
		return nil, err
	}
	forward, err := client.Forward(ctx, w.Namespace, w.Name+"-0", w.Ports[0])
	if err != nil {
		return nil, err
	}
	defer forward.Close()
	first := ""
	if w.Runs == Postgres {
		first = sslRequest
	}
	conn, err := dialFirst(ctx, forward.Addr, first)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if first != "" {
		answer := make([]byte, 1)
		if _, err := io.ReadFull(conn, answer); err != nil {
			return nil, fmt.Errorf("asking PostgreSQL for TLS: %w", err)
		}
		if answer[0] != 'S' {
			return nil, phase.Failf("PostgreSQL answers the request for TLS with %q", answer)
		}
	}
	secured := tls.Client(conn, tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(s.cfg.Intent.ID(w))))
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, phase.Failf("the TLS identity of %s: %w", w.Name, err)
	}
	return secured.ConnectionState().PeerCertificates[0], nil
}

// startPlain starts a session without TLS and wants an error for an answer.
func startPlain(ctx context.Context, addr string) (string, error) {
	conn, err := dialFirst(ctx, addr, startupMessage)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	answer := make([]byte, 1024)
	n, err := conn.Read(answer)
	if err != nil {
		return "", fmt.Errorf("starting a session without TLS: %w", err)
	}
	if answer[0] != 'E' {
		return "", phase.Failf("PostgreSQL answers a session without TLS with message %q, not with an error", answer[0])
	}
	// Fields of the error: a letter, a text, a zero. C is the code.
	for _, field := range strings.Split(string(answer[min(5, n):n]), "\x00") {
		if len(field) > 1 && field[0] == 'C' {
			if code := field[1:]; code != "28000" {
				return "", fmt.Errorf("a session without TLS ends with code %s, not 28000 (invalid authorization)", code)
			}
			return "refused with code 28000", nil
		}
	}
	return "", errors.New("the error that a session without TLS ends with has no code")
}

package zerotrust

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// mtlsLife is how long the SVIDs of a check are valid.
const mtlsLife = time.Minute

// checkMTLS talks to the workload's first port through a forwarded port, past the
// network's policies, so that its own mTLS is all that decides.
func (s *Stack) checkMTLS(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{
		Want:   "served as a caller; refused as another identity, as nobody, and in plain text",
		Source: "TLS handshakes through a forwarded port, with SVIDs minted for this check",
	}
	client, pods, err := s.readyPods(ctx, w)
	if err != nil {
		return ev, err
	}
	admin, err := s.spire(ctx)
	if err != nil {
		return ev, err
	}
	bundle, err := s.bundle(ctx)
	if err != nil {
		return ev, err
	}
	server, caller := s.cfg.Intent.ID(w), callers(s.cfg.Intent, w)[0]
	mine := func(id spiffeid.ID) (*tls.Config, error) {
		svid, err := deploy.MintX509(ctx, admin, id, mtlsLife)
		if err != nil {
			return nil, err
		}
		return tlsconfig.MTLSClientConfig(one{svid}, bundle, tlsconfig.AuthorizeID(server)), nil
	}
	as, err := mine(caller)
	if err != nil {
		return ev, err
	}
	// The workload's own SVID is of the right trust domain, and not one of its callers'.
	other, err := mine(server)
	if err != nil {
		return ev, err
	}
	var wrong []error
	for _, try := range []struct {
		who    string
		tls    *tls.Config
		served bool
	}{
		{"caller " + caller.String(), as, true},
		{"another identity, " + server.String(), other, false},
		{"nobody", tlsconfig.TLSClientConfig(bundle, tlsconfig.AuthorizeID(server)), false},
		{"plain text", nil, false},
	} {
		// A forward of its own for each: one connection that ends badly ends them all.
		forward, err := client.Forward(ctx, w.Namespace, pods[0].Name, w.Ports[0])
		if err != nil {
			return ev, err
		}
		said, err := ask(ctx, forward.Addr, try.tls)
		forward.Close()
		if err != nil {
			return ev, fmt.Errorf("as %s: %w", try.who, err)
		}
		ev.Details = append(ev.Details, try.who+": "+said.text)
		if said.served != try.served {
			wrong = append(wrong, fmt.Errorf("%s: %s", try.who, said.text))
		}
	}
	if len(wrong) > 0 {
		return ev, phase.Want(ev.Want, errors.Join(wrong...).Error())
	}
	ev.Got = ev.Want
	return ev, nil
}

// one is the source of a single SVID.
type one struct{ svid *x509svid.SVID }

func (o one) GetX509SVID() (*x509svid.SVID, error) { return o.svid, nil }

// outcome is whether a request was served, and how that is known.
type outcome struct {
	served bool
	text   string
}

// ask sends one HTTP request over TLS, or in plain text if cfg is nil. A refusal is an
// alert of TLS or an answer that says so; a connection that just ends, or never comes to
// be, is an error: it tells nothing of the workload.
func ask(ctx context.Context, addr string, cfg *tls.Config) (outcome, error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return outcome{}, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if cfg != nil {
		secured := tls.Client(conn, cfg)
		if err := secured.HandshakeContext(ctx); err != nil {
			return refusal(err)
		}
		conn = secured
	}
	// In TLS 1.3 the server judges the client's certificate after the client's
	// handshake is done: its alert comes in place of the answer.
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n"); err != nil {
		return refusal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return refusal(err)
	}
	resp.Body.Close()
	if cfg == nil && resp.StatusCode == http.StatusBadRequest {
		return outcome{false, "refused: " + resp.Status}, nil
	}
	return outcome{true, "served: " + resp.Status}, nil
}

func refusal(err error) (outcome, error) {
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return outcome{false, "refused: " + alert.Error()}, nil
	}
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" { // an alert of the server's
		return outcome{false, "refused: " + remote.Error()}, nil
	}
	return outcome{}, err
}

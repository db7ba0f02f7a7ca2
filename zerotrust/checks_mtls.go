package zerotrust

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// mtlsLife is how long the SVIDs of a check are valid.
const mtlsLife = time.Minute

// listener is a port of a pod that speaks mTLS.
type listener struct {
	namespace, pod string
	port           int
	server         spiffeid.ID // who it must be; as a caller it is refused
	caller         spiffeid.ID // who is served
	try            knock
}

// checkMTLS puts a workload's first port to the test.
func (s *Stack) checkMTLS(ctx context.Context, w Workload) (phase.Evidence, error) {
	pods, err := s.readyPods(ctx, w)
	if err != nil {
		return phase.Evidence{}, err
	}
	return s.checkListener(ctx, listener{
		namespace: w.Namespace, pod: pods[0].Name, port: w.Ports[0].Number,
		server: s.cfg.Intent.ID(w), caller: callers(s.cfg.Intent, w)[0], try: knockHTTP("/"),
	})
}

// checkListener talks to the port through a forwarded one, past the network's policies,
// so that its own mTLS is all that decides.
func (s *Stack) checkListener(ctx context.Context, l listener) (phase.Evidence, error) {
	ev := phase.Evidence{
		Want:   "served as a caller; refused as another identity, as nobody, and in plain text",
		Source: "TLS handshakes through a forwarded port, with SVIDs minted for this check",
	}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	as, err := s.clientTLS(ctx, l.caller, l.server)
	if err != nil {
		return ev, err
	}
	// The server's own SVID is of the right trust domain, and not one of its callers'.
	other, err := s.clientTLS(ctx, l.server, l.server)
	if err != nil {
		return ev, err
	}
	nobody := other.Clone()
	nobody.GetClientCertificate = nil
	var wrong []error
	for _, try := range []struct {
		who    string
		tls    *tls.Config
		served bool
	}{
		{"caller " + l.caller.String(), as, true},
		{"another identity, " + l.server.String(), other, false},
		{"nobody", nobody, false},
		{"plain text", nil, false},
	} {
		// A forward of its own for each: one connection that ends badly ends them all.
		forward, err := client.Forward(ctx, l.namespace, l.pod, l.port)
		if err != nil {
			return ev, err
		}
		said, err := ask(ctx, forward.Addr, try.tls, l.try)
		forward.Close()
		if try.tls == nil && ended(err) {
			// Not every server of TLS answers plain text. That it is there, and reached in
			// this way, the caller has shown.
			said, err = outcome{false, "refused: closed without an answer"}, nil
		}
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

// clientTLS is the configuration of a client that has an SVID minted for this, and
// accepts one server.
func (s *Stack) clientTLS(ctx context.Context, id, server spiffeid.ID) (*tls.Config, error) {
	admin, err := s.spire(ctx)
	if err != nil {
		return nil, err
	}
	bundle, err := s.bundle(ctx)
	if err != nil {
		return nil, err
	}
	svid, err := deploy.MintX509(ctx, admin, id, mtlsLife)
	if err != nil {
		return nil, err
	}
	return tlsconfig.MTLSClientConfig(one{svid}, bundle, tlsconfig.AuthorizeID(server)), nil
}

// one is the source of a single SVID.
type one struct{ svid *x509svid.SVID }

func (o one) GetX509SVID() (*x509svid.SVID, error) { return o.svid, nil }

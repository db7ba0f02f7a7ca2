package main

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/examples/precinct/dial"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
)

// errImpostor says that whoever answers is not the backend.
var errImpostor = errors.New("the backend could not prove its identity")

// newTransport talks mTLS to whoever has the SPIFFE ID, and to nobody else.
func newTransport(ctx context.Context, self identity.X509, peer spiffeid.ID) http.RoundTripper {
	config := identity.ClientTLS(self, peer)
	verify := config.VerifyPeerCertificate
	config.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error { //nolint:gosec // no session is resumed: there is no cache for them
		if err := verify(raw, chains); err != nil {
			return errors.Join(errImpostor, err)
		}
		return nil
	}
	dialer := dial.Dialer()
	dialer.Timeout = 2 * time.Second
	t := &http.Transport{
		DialContext:           dialer.DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   2 * time.Second,
		ResponseHeaderTimeout: answerTime,
		// Less than the backend waits, so that it is this side that lets go.
		IdleConnTimeout: 30 * time.Second,
		MaxIdleConns:    64, MaxIdleConnsPerHost: 64, MaxConnsPerHost: 128,
		MaxResponseHeaderBytes: 32 << 10,
	}
	// A connection holds as long as it is used, an SVID for an hour at most: no
	// connection should outlive the SVIDs that opened it by much.
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(5 * time.Minute):
				t.CloseIdleConnections()
			}
		}
	}()
	return patient{next: t, self: self}
}

// patient tries again what failed on the way to the backend, where that is safe: a
// GET that has no answer yet, and anything of which not a byte was sent. That carries
// requests over the end of one backend pod and the start of the next. A request's body
// can be had again (GetBody).
type patient struct {
	next http.RoundTripper
	self identity.X509
}

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for wait := 100 * time.Millisecond; ; wait *= 3 {
		var sent atomic.Bool
		try := r.Clone(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			GotConn: func(httptrace.GotConnInfo) { sent.Store(true) },
		}))
		if r.GetBody != nil {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			try.Body = body
		}
		resp, err := p.next.RoundTrip(try)
		safe := r.Method == http.MethodGet || !sent.Load()
		if err == nil || !safe || wait > time.Second || errors.Is(err, errImpostor) || r.Context().Err() != nil {
			return resp, err
		}
		if _, none := p.self.GetX509SVID(); none != nil {
			return nil, err
		}
		select {
		case <-r.Context().Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// Package identity is who a workload is: its SVIDs from the Workload API. It is there
// at once, and has an identity as soon as the SPIRE agent gives one.
package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Plain words for what may be missing.
var (
	ErrNoAgent  = errors.New("the SPIRE agent does not answer")
	ErrNoEntry  = errors.New("no identity is registered for this workload yet")
	ErrExpired  = errors.New("the SVID has expired and the SPIRE agent gave no new one")
	ErrStarting = errors.New("waiting for the SPIRE agent")
)

// Source is a workload's identity. It is an x509svid.Source and an
// x509bundle.Source, for go-spiffe's tlsconfig.
type Source struct {
	client *workloadapi.Client
	x509   atomic.Pointer[workloadapi.X509Source]
	lack   atomic.Pointer[error] // why there is no X.509-SVID yet
}

// Open starts to fetch the identity from the Workload API at address
// ("unix:///run/…") and does not wait. It tries until the context ends; an identity
// that is there by then stays, and stays fresh, until Close: what is under way when a
// process is asked to end still needs it.
func Open(ctx context.Context, address string, log *slog.Logger) (*Source, error) {
	client, err := workloadapi.New(ctx, workloadapi.WithAddr(address))
	if err != nil {
		return nil, fmt.Errorf("use the Workload API at %q: %w", address, err)
	}
	s, starting := &Source{client: client}, ErrStarting
	s.lack.Store(&starting)
	go s.fetch(ctx, log)
	return s, nil
}

// Close ends the connection to the Workload API.
func (s *Source) Close() {
	if source := s.x509.Load(); source != nil {
		_ = source.Close()
	}
	_ = s.client.Close()
}

func (s *Source) fetch(ctx context.Context, log *slog.Logger) {
	for {
		err := s.first(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		if last := *s.lack.Load(); !errors.Is(err, last) {
			log.Warn("no SVID yet", "reason", err.Error())
		}
		s.lack.Store(&err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
	}
	if info, err := s.Info(); err == nil {
		log.Info("have an SVID", "spiffe_id", info.SPIFFEID, "not_after", info.NotAfter)
	}
}

// first asks once, so that there is a reason where there is no SVID, and then opens
// the source that keeps it fresh.
func (s *Source) first(ctx context.Context) error {
	ctx5, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := s.client.FetchX509SVID(ctx5); err != nil {
		if status.Code(err) == codes.PermissionDenied {
			return ErrNoEntry
		}
		return ErrNoAgent
	}
	// The context bounds the wait for the first update alone.
	source, err := workloadapi.NewX509Source(ctx5, workloadapi.WithClient(s.client))
	if err != nil {
		return ErrNoAgent
	}
	s.x509.Store(source)
	return nil
}

// GetX509SVID is the newest SVID.
func (s *Source) GetX509SVID() (*x509svid.SVID, error) {
	if source := s.x509.Load(); source != nil {
		return source.GetX509SVID()
	}
	return nil, *s.lack.Load()
}

// GetX509BundleForTrustDomain is what the SVIDs of a trust domain are verified with.
func (s *Source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if source := s.x509.Load(); source != nil {
		return source.GetX509BundleForTrustDomain(td)
	}
	return nil, *s.lack.Load()
}

// FetchJWT asks for a JWT-SVID for one audience. It is a secret.
func (s *Source) FetchJWT(ctx context.Context, audience string) (string, error) {
	svid, err := s.client.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if status.Code(err) == codes.PermissionDenied {
		return "", ErrNoEntry
	}
	if err != nil {
		return "", ErrNoAgent
	}
	return svid.Marshal(), nil
}

// Info is what anybody may know of the SVID.
func (s *Source) Info() (Info, error) {
	svid, err := s.GetX509SVID()
	if err != nil {
		return Info{}, err
	}
	return Describe(svid), nil
}

// Check says what is wrong, in plain words.
func (s *Source) Check() error { return Check(s) }

// Check says in plain words why a source has no SVID that would be accepted now.
func Check(source x509svid.Source) error {
	svid, err := source.GetX509SVID()
	if err != nil {
		return err
	}
	if time.Now().After(svid.Certificates[0].NotAfter) {
		return ErrExpired
	}
	return nil
}

// Info is an X.509-SVID without its key.
type Info struct {
	SPIFFEID  string    `json:"spiffe_id"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Serial    string    `json:"serial"` // hexadecimal
	Issuer    string    `json:"issuer"`
	KeyType   string    `json:"key_type"`
}

// Describe tells an SVID's public part.
func Describe(svid *x509svid.SVID) Info {
	leaf := svid.Certificates[0]
	return Info{
		SPIFFEID:  svid.ID.String(),
		NotBefore: leaf.NotBefore.UTC(),
		NotAfter:  leaf.NotAfter.UTC(),
		Serial:    fmt.Sprintf("%x", leaf.SerialNumber),
		Issuer:    leaf.Issuer.String(),
		KeyType:   leaf.PublicKeyAlgorithm.String(),
	}
}

// X509 is what TLS needs: *Source is one.
type X509 interface {
	x509svid.Source
	x509bundle.Source
}

// ServerTLS shows the workload's SVID and lets exactly these callers in.
func ServerTLS(source X509, callers ...spiffeid.ID) *tls.Config {
	c := tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeOneOf(callers...))
	// A resumed session is not verified again: an SVID would outlive its expiry.
	c.SessionTicketsDisabled = true
	return c
}

// ClientTLS shows the workload's SVID and talks to exactly this server.
func ClientTLS(source X509, server spiffeid.ID) *tls.Config {
	return tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(server))
}

// ParseIDs reads SPIFFE IDs separated by commas.
func ParseIDs(text string) ([]spiffeid.ID, error) {
	var ids []spiffeid.ID
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		id, err := spiffeid.FromString(part)
		if err != nil {
			return nil, fmt.Errorf("SPIFFE ID %q: %w", part, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

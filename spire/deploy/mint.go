package deploy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// Bundle asks the server for the X.509 authorities of its trust domain.
func Bundle(ctx context.Context, conn *Conn) (*x509bundle.Bundle, error) {
	fail := func(err error) (*x509bundle.Bundle, error) {
		return nil, fmt.Errorf("ask the SPIRE server for its trust bundle: %w", err)
	}
	b, err := bundlev1.NewBundleClient(conn).GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: &types.BundleMask{X509Authorities: true}})
	if err != nil {
		return fail(err)
	}
	td, err := spiffeid.TrustDomainFromString(b.TrustDomain)
	if err != nil {
		return fail(err)
	}
	bundle := x509bundle.New(td)
	for _, a := range b.X509Authorities {
		cert, err := x509.ParseCertificate(a.Asn1)
		if err != nil {
			return fail(err)
		}
		bundle.AddX509Authority(cert)
	}
	if bundle.Empty() {
		return fail(fmt.Errorf("it has no X.509 authority of %s", td))
	}
	return bundle, nil
}

// MintX509 has the server make an X.509-SVID, for a handshake from outside the cluster.
// Only an admin may. It is valid for ttl; its key is made here and stays in memory.
func MintX509(ctx context.Context, conn *Conn, id spiffeid.ID, ttl time.Duration) (*x509svid.SVID, error) {
	fail := func(err error) (*x509svid.SVID, error) {
		return nil, fmt.Errorf("mint an X.509-SVID for %s: %w", id, err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{id.URL()}}, key)
	if err != nil {
		return fail(err)
	}
	made, err := svidv1.NewSVIDClient(conn).MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr, Ttl: int32(ttl.Seconds())})
	if err != nil {
		return fail(err)
	}
	svid := &x509svid.SVID{ID: id, PrivateKey: key}
	for _, der := range made.GetSvid().GetCertChain() {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fail(err)
		}
		svid.Certificates = append(svid.Certificates, cert)
	}
	if len(svid.Certificates) == 0 {
		return fail(errors.New("the answer holds no certificate"))
	}
	return svid, nil
}

// MintJWT has the server make a JWT-SVID, for a login from outside the cluster. Only an
// admin may. It is valid for ttl.
func MintJWT(ctx context.Context, conn *Conn, id spiffeid.ID, audience string, ttl time.Duration) (string, error) {
	answer, err := svidv1.NewSVIDClient(conn).MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{
		Id:       &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()},
		Audience: []string{audience}, Ttl: int32(ttl.Seconds()),
	})
	if err != nil {
		return "", fmt.Errorf("mint a JWT-SVID for %s: %w", id, err)
	}
	return answer.GetSvid().GetToken(), nil
}

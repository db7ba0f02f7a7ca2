package deploy

import (
	"context"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
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

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/org/spire-vault-99-action/examples/precinct/identity"
)

var domain = spiffeid.RequireTrustDomainFromString("demo.local")

func idOf(namespace, name string) spiffeid.ID {
	return spiffeid.RequireFromSegments(domain, "ns", namespace, "sa", name)
}

var (
	backendID  = idOf("99-apps", "backend")
	frontendID = idOf("99-apps", "frontend")
	vaultID    = idOf("99-vault", "vault")
	postgresID = idOf("99-data", "postgres")
	githubID   = idOf("99-apps", "githubstub")
)

// authority issues SVIDs as SPIRE does.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		URIs: []*url.URL{domain.ID().URL()}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, key: key}
}

// svid is valid from an hour ago until so long from now.
func (a *authority) svid(id spiffeid.ID, life time.Duration) *x509svid.SVID {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{id.URL()},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{cert}, PrivateKey: key}
}

// source is a workload's identity, which may be changed.
type source struct {
	bundle  *x509bundle.Bundle
	current atomic.Pointer[x509svid.SVID] // nil: the agent gives none
}

func (a *authority) source(id spiffeid.ID, life time.Duration) *source {
	s := &source{bundle: x509bundle.FromX509Authorities(domain, []*x509.Certificate{a.cert})}
	s.current.Store(a.svid(id, life))
	return s
}

func (s *source) GetX509SVID() (*x509svid.SVID, error) {
	if svid := s.current.Load(); svid != nil {
		return svid, nil
	}
	return nil, identity.ErrNoAgent
}

func (s *source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return s.bundle.GetX509BundleForTrustDomain(td)
}

// pems is an SVID for a program that reads files.
func pems(t *testing.T, svid *x509svid.SVID) (cert, key []byte) {
	t.Helper()
	cert, key, err := svid.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

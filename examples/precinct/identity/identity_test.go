package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	domain  = spiffeid.RequireTrustDomainFromString("demo.local")
	backend = spiffeid.RequireFromSegments(domain, "ns", "99-apps", "sa", "backend")
	other   = spiffeid.RequireFromSegments(domain, "ns", "99-apps", "sa", "frontend")
)

// agent is the Workload API at the wire.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	t          *testing.T
	socket     string
	registered atomic.Bool
	caCert     *x509.Certificate
	caKey      *ecdsa.PrivateKey
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	a := &agent{t: t, socket: filepath.Join(t.TempDir(), "s")}
	a.caKey = newKey(t)
	a.caCert = a.certificate(domain.ID(), time.Hour, nil, a.caKey)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *agent) certificate(id spiffeid.ID, life time.Duration, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(255), URIs: []*url.URL{id.URL()}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(life), KeyUsage: x509.KeyUsageDigitalSignature}
	if parent == nil {
		parent = template
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.caKey)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a *agent) svid(id spiffeid.ID, life time.Duration) *x509svid.SVID {
	key := newKey(a.t)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{a.certificate(id, life, a.caCert, key)}, PrivateKey: key}
}

func (a *agent) serve() {
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	s := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(s, a)
	go s.Serve(l)
	a.t.Cleanup(s.Stop)
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, stream workload.SpiffeWorkloadAPI_FetchX509SVIDServer) error {
	if !a.registered.Load() {
		return status.Error(codes.PermissionDenied, "no identity issued")
	}
	svid := a.svid(backend, time.Hour)
	key, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	if err != nil {
		return err
	}
	if err := stream.Send(&workload.X509SVIDResponse{Svids: []*workload.X509SVID{{SpiffeId: backend.String(),
		X509Svid: svid.Certificates[0].Raw, X509SvidKey: key, Bundle: a.caCert.Raw}}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

func (a *agent) FetchJWTSVID(context.Context, *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	return nil, status.Error(codes.PermissionDenied, "no identity issued")
}

func wait(t *testing.T, s *Source, want error) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if last = s.Check(); errors.Is(last, want) {
			return
		}
	}
	t.Fatalf("waited for %v, and last saw %v", want, last)
}

// Everything may come late, and the reason for waiting is known all the time.
func TestOpen(t *testing.T) {
	a := newAgent(t)
	ctx, end := context.WithCancel(t.Context())
	start := time.Now()
	s, err := Open(ctx, "unix://"+a.socket, slog.New(slog.DiscardHandler))
	if err != nil || time.Since(start) > time.Second {
		t.Fatalf("%v after %s", err, time.Since(start))
	}
	defer s.Close()
	wait(t, s, ErrNoAgent)
	if _, err := s.FetchJWT(ctx, "vault"); !errors.Is(err, ErrNoAgent) {
		t.Errorf("a JWT without an agent: %v", err)
	}
	a.serve()
	wait(t, s, ErrNoEntry)
	if _, err := s.FetchJWT(ctx, "vault"); !errors.Is(err, ErrNoEntry) {
		t.Errorf("a JWT without an entry: %v", err)
	}
	a.registered.Store(true)
	wait(t, s, nil)
	info, err := s.Info()
	if err != nil || info.SPIFFEID != backend.String() || info.Serial != "ff" || info.KeyType != "ECDSA" || time.Until(info.NotAfter) < 59*time.Minute {
		t.Errorf("%+v, %v", info, err)
	}
	if _, err := s.GetX509BundleForTrustDomain(domain); err != nil {
		t.Error(err)
	}
	end()
	time.Sleep(50 * time.Millisecond)
	if err := s.Check(); err != nil {
		t.Errorf("after the context: %v, but what is under way needs it", err)
	}
}

func TestOpenAtNoAddress(t *testing.T) {
	if _, err := Open(t.Context(), "carrier-pigeon://x", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no error")
	}
}

// fixed is an identity that does not change.
type fixed struct {
	svid *x509svid.SVID
	*x509bundle.Bundle
}

func (f fixed) GetX509SVID() (*x509svid.SVID, error) { return f.svid, nil }

// Who gets in is decided by SPIFFE ID and by the time, at each connection: a resumed
// session would be let in without a look.
func TestTLS(t *testing.T) {
	a := newAgent(t)
	bundle := x509bundle.FromX509Authorities(domain, []*x509.Certificate{a.caCert})
	as := func(id spiffeid.ID, life time.Duration) fixed { return fixed{a.svid(id, life), bundle} }
	l, err := tls.Listen("tcp", "127.0.0.1:0", ServerTLS(as(backend, time.Hour), other))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go server.Serve(l)
	defer server.Close()
	for _, tc := range []struct {
		name   string
		client fixed
		server spiffeid.ID
		want   bool
	}{
		{"allowed", as(other, time.Hour), backend, true},
		{"another workload", as(backend, time.Hour), backend, false},
		{"expired", as(other, -time.Minute), backend, false},
		{"a server that is somebody else", as(other, time.Hour), other, false},
	} {
		config := ClientTLS(tc.client, tc.server)
		config.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		for range 2 {
			transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
			resp, err := (&http.Client{Transport: transport}).Get("https://" + l.Addr().String())
			if (err == nil) != tc.want {
				t.Errorf("%s: %v", tc.name, err)
			}
			if err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.TLS.DidResume {
					t.Errorf("%s: the session was resumed", tc.name)
				}
			}
		}
	}
}

func TestCheckExpired(t *testing.T) {
	a := newAgent(t)
	if err := Check(fixed{a.svid(backend, -time.Minute), nil}); !errors.Is(err, ErrExpired) {
		t.Errorf("got %v", err)
	}
}

func TestParseIDs(t *testing.T) {
	got, err := ParseIDs(" " + backend.String() + " ,, " + other.String())
	if err != nil || len(got) != 2 || got[0] != backend || got[1] != other {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := ParseIDs(""); err != nil || len(got) != 0 {
		t.Errorf("of nothing: %v, %v", got, err)
	}
	if _, err := ParseIDs("spiffe://demo.local/a,frontend"); err == nil || !strings.Contains(err.Error(), `"frontend"`) {
		t.Errorf("got %v", err)
	}
}

func ExampleParseIDs() {
	ids, _ := ParseIDs("spiffe://demo.local/ns/99-apps/sa/frontend")
	fmt.Println(ids[0].Path())
	// Output: /ns/99-apps/sa/frontend
}

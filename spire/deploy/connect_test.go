package deploy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/org/spire-vault-99-action/spire"
)

// authority signs SVIDs as a SPIRE server does.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"test"}}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{td.ID().URL()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// mint is the output of spire-server x509 mint.
func (a authority) mint(t *testing.T, id spiffeid.ID, ttl time.Duration) []byte {
	t.Helper()
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore:   time.Now().Add(-time.Minute), NotAfter: time.Now().Add(ttl),
	}, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, part := range []struct {
		title, typ string
		der        []byte
	}{{"X509-SVID", "CERTIFICATE", der}, {"Private key", "PRIVATE KEY", pkcs8}, {"Root CAs", "CERTIFICATE", a.cert.Raw}} {
		fmt.Fprintf(&out, "%s:\n%s\n", part.title, pem.EncodeToMemory(&pem.Block{Type: part.typ, Bytes: part.der}))
	}
	return out.Bytes()
}

// fakePod is a pod with a server in this process, which can be replaced.
type fakePod struct {
	t *testing.T

	mu       sync.Mutex
	uid      string
	ca       authority
	addr     string
	stop     func()
	ttl      time.Duration
	mints    int
	forwards int // open ones
	findErr  error
}

func (p *fakePod) start(uid string, serverID spiffeid.ID) {
	p.t.Helper()
	ca := newAuthority(p.t)
	svid, bundle, err := parseMinted(td, ca.mint(p.t, serverID, time.Hour))
	if err != nil {
		p.t.Fatal(err)
	}
	tls := tlsconfig.MTLSServerConfig(svid, bundle, tlsconfig.AuthorizeID(AdminID(td)))
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(tls)))
	entryv1.RegisterEntryServer(server, counter{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		p.t.Fatal(err)
	}
	go func() { _ = server.Serve(l) }()
	p.t.Cleanup(server.Stop)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uid, p.ca, p.addr, p.stop = uid, ca, l.Addr().String(), server.Stop
}

type counter struct {
	entryv1.UnimplementedEntryServer
}

func (counter) CountEntries(context.Context, *entryv1.CountEntriesRequest) (*entryv1.CountEntriesResponse, error) {
	return &entryv1.CountEntriesResponse{Count: 7}, nil
}

func (p *fakePod) find(context.Context) (string, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return "spire-server-0", p.uid, p.findErr
}

func (p *fakePod) mint(_ context.Context, _ string, id spiffeid.ID, ttl time.Duration) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mints++
	return p.ca.mint(p.t, id, min(ttl, p.ttl)), nil
}

func (p *fakePod) forward(context.Context, string) (string, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forwards++
	return p.addr, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.forwards--
	}, nil
}

func (p *fakePod) seen() (mints, forwards int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mints, p.forwards
}

var serverID = spiffeid.RequireFromPath(td, "/spire/server")

// count calls as package spire does: it may meet the dying connection first.
func count(t *testing.T, conn *Conn) {
	t.Helper()
	if n, err := spire.Count(t.Context(), conn); err != nil || n != 7 {
		t.Fatalf("Count = %v, %v", n, err)
	}
}

func TestConnectHealsAfterTheServerIsReplaced(t *testing.T) {
	pod := &fakePod{t: t, ttl: time.Hour}
	pod.start("first", serverID)
	conn, err := connect(t.Context(), td, pod)
	if err != nil {
		t.Fatal(err)
	}
	count(t, conn)
	if mints, forwards := pod.seen(); mints != 1 || forwards != 1 {
		t.Errorf("%d mints and %d forwards, want one of each", mints, forwards)
	}

	old := pod.stop
	pod.start("second", serverID) // with a new authority, as after a loss of data
	old()
	count(t, conn)
	if mints, _ := pod.seen(); mints != 2 {
		t.Errorf("%d mints, want a second for the second pod", mints)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	waitForwards(t, pod)
}

// waitForwards: gRPC closes its connections just after Close returns.
func waitForwards(t *testing.T, pod *fakePod) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		_, forwards := pod.seen()
		if forwards == 0 {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d forwards are still open after Close", forwards)
		case <-tick.C:
		}
	}
}

func TestConnectMintsAgainBeforeTheEnd(t *testing.T) {
	pod := &fakePod{t: t, ttl: renewBefore - time.Second}
	pod.start("first", serverID)
	conn, err := connect(t.Context(), td, pod)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	old := pod.stop
	pod.start("first", serverID)
	old()
	count(t, conn)
	if mints, _ := pod.seen(); mints != 2 {
		t.Errorf("%d mints, want one for each connection: the SVID is about to end", mints)
	}
}

func TestConnectAcceptsTheServerAlone(t *testing.T) {
	pod := &fakePod{t: t, ttl: time.Hour}
	pod.start("first", spiffeid.RequireFromPath(td, "/somebody"))
	_, err := connect(t.Context(), td, pod)
	if err == nil || !strings.Contains(err.Error(), "spiffe://demo.local/somebody") {
		t.Errorf("error = %v, want one that names who answered", err)
	}
}

func TestConnectSaysWhy(t *testing.T) {
	pod := &fakePod{t: t, findErr: errors.New("no ready pod")}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := connect(ctx, td, pod); err == nil || strings.Count(err.Error(), "no ready pod") != 1 {
		t.Errorf("error = %v, want the dialling's, once", err)
	}
}

func TestParseMinted(t *testing.T) {
	good := newAuthority(t).mint(t, AdminID(td), time.Hour)
	svid, bundle, err := parseMinted(td, good)
	if err != nil {
		t.Fatal(err)
	}
	var _ x509svid.Source = svid
	var _ x509bundle.Source = bundle
	if svid.ID != AdminID(td) || len(bundle.X509Authorities()) != 1 {
		t.Errorf("SVID %s, %d roots", svid.ID, len(bundle.X509Authorities()))
	}
	secret := good[bytes.Index(good, []byte("BEGIN PRIVATE KEY")):]
	secret = secret[30:60]
	for name, out := range map[string][]byte{
		"nothing":  nil,
		"no roots": good[:bytes.Index(good, []byte("Root CAs"))],
		"bad key":  bytes.Replace(good, secret, bytes.Repeat([]byte("A"), len(secret)), 1),
	} {
		_, _, err := parseMinted(td, out)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if strings.Contains(err.Error(), string(secret)) || strings.Contains(err.Error(), "BEGIN") {
			t.Errorf("%s: the error quotes the output", name)
		}
	}
}

func TestSessionHasNothingBeforeTheFirstDial(t *testing.T) {
	s := &session{td: td}
	if _, err := s.GetX509SVID(); err == nil {
		t.Error("an SVID from nowhere")
	}
	if _, err := s.GetX509BundleForTrustDomain(td); err == nil {
		t.Error("a bundle from nowhere")
	}
}

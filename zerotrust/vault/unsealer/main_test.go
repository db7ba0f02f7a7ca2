package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// fakeVault is as much of Vault as is asked here, with an SVID for its identity.
type fakeVault struct {
	mu                  sync.Mutex
	initialized, sealed bool
	keys                []string
}

func (f *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Method == http.MethodPut && r.URL.Path == "/v1/sys/unseal" {
		var body struct{ Key string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.keys = append(f.keys, body.Key)
		f.sealed = body.Key != "right"
	}
	_ = json.NewEncoder(w).Encode(map[string]bool{"initialized": f.initialized, "sealed": f.sealed})
}

// start serves f under the SPIFFE ID and returns the unsealer for it.
func start(t *testing.T, f *fakeVault, serverID string) unsealer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{{Scheme: "spiffe", Host: "d"}},
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	id := spiffeid.RequireFromString(serverID)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: ca.NotBefore, NotAfter: ca.NotAfter, URIs: []*url.URL{id.URL()},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(new(bytes.Buffer), nil), slog.LevelInfo)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leafDER}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	dir := t.TempDir()
	bundle := filepath.Join(dir, "bundle.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	return unsealer{address: server.URL, bundle: bundle, key: filepath.Join(dir, "key"), id: spiffeid.RequireFromString("spiffe://d/vault")}
}

func TestLook(t *testing.T) {
	for name, tc := range map[string]struct {
		vault    *fakeVault
		serverID string
		key      string
		want     string // said, or in the error
		sent     string
	}{
		"new":                   {&fakeVault{}, "spiffe://d/vault", "right", "not initialised", ""},
		"unsealed":              {&fakeVault{initialized: true}, "spiffe://d/vault", "right", "the server is unsealed", ""},
		"sealed":                {&fakeVault{initialized: true, sealed: true}, "spiffe://d/vault", "right\n", "unsealed the server", "right"},
		"sealed, no key":        {&fakeVault{initialized: true, sealed: true}, "spiffe://d/vault", "", "there is no key yet", ""},
		"sealed, wrong key":     {&fakeVault{initialized: true, sealed: true}, "spiffe://d/vault", "wrong", "still sealed", "wrong"},
		"somebody else listens": {&fakeVault{initialized: true, sealed: true}, "spiffe://d/thief", "right", "unexpected ID", ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := start(t, tc.vault, tc.serverID)
			if tc.key != "" {
				if err := os.WriteFile(u.key, []byte(tc.key), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			said, err := u.look(t.Context())
			if err != nil {
				said = err.Error()
			}
			if !strings.Contains(said, tc.want) {
				t.Errorf("said %q, want %q", said, tc.want)
			}
			if sent := strings.Join(tc.vault.keys, " "); sent != tc.sent {
				t.Errorf("sent %q, want %q", sent, tc.sent)
			}
			if strings.Contains(said, "right") || strings.Contains(said, "wrong") {
				t.Errorf("it tells the key: %q", said)
			}
		})
	}
}

// It goes on until it is stopped, and unseals again what was sealed again.
func TestRun(t *testing.T) {
	f := &fakeVault{initialized: true, sealed: true}
	u := start(t, f, "spiffe://d/vault")
	if err := os.WriteFile(u.key, []byte("right"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- run(ctx, []string{"-address", u.address, "-spiffe-id", u.id.String(), "-bundle", u.bundle, "-key", u.key, "-every", "10ms"}, slog.New(slog.DiscardHandler))
	}()
	for round := 1; round <= 2; round++ {
		for {
			f.mu.Lock()
			unsealed, tries := !f.sealed, len(f.keys)
			if unsealed && tries == round {
				f.sealed = true // once more
				f.mu.Unlock()
				break
			}
			f.mu.Unlock()
			if ctx.Err() != nil {
				t.Fatalf("round %d: not unsealed", round)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBadFlags(t *testing.T) {
	for _, args := range [][]string{{}, {"-spiffe-id", "x"}, {"-spiffe-id", "spiffe://d/v"}, {"-spiffe-id", "spiffe://d/v", "-bundle", "b", "-key", "k", "-every", "-1s"}, {"-nope"}} {
		if err := run(t.Context(), args, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q: accepted", args)
		}
	}
}

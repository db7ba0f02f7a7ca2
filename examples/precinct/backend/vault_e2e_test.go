//go:build e2e

package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/internal/loopback"
)

// fakeVault speaks Vault's protocol as far as the backend uses it. The database users
// it leases are real.
type fakeVault struct {
	t        *testing.T
	database *database
	ca       *authority
	address  string
	server   *http.Server
	ttl      time.Duration

	mu      sync.Mutex
	sealed  bool
	refuse  bool                // logins
	jwts    map[string]bool     // that were used
	tokens  map[string][]string // with the users that are leased under them
	kv      map[string]json.RawMessage
	logins  int
	dropped sync.WaitGroup
}

func newFakeVault(t *testing.T, ca *authority, d *database) *fakeVault {
	t.Helper()
	v := &fakeVault{t: t, database: d, ca: ca, ttl: time.Hour, jwts: map[string]bool{}, tokens: map[string][]string{},
		kv: map[string]json.RawMessage{}, address: fmt.Sprintf("127.0.0.1:%d", loopback.FreePort(t))}
	t.Cleanup(func() { v.stop(); v.dropped.Wait() })
	return v
}

func (v *fakeVault) start() {
	v.t.Helper()
	l, err := net.Listen("tcp", v.address)
	if err != nil {
		v.t.Fatal(err)
	}
	v.server = &http.Server{Handler: v, TLSConfig: identity.ServerTLS(v.ca.source(vaultID, time.Hour), backendID)}
	go v.server.ServeTLS(l, "", "")
}

func (v *fakeVault) stop() {
	if v.server != nil {
		v.server.Close()
		v.server = nil
	}
}

// set changes how it behaves.
func (v *fakeVault) set(f func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f()
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	answer := func(status int, value any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(value)
	}
	refuse := func(status int, why string) { answer(status, map[string]any{"errors": []string{why}}) }
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	if path == "sys/health" {
		answer(200, map[string]any{"initialized": true, "sealed": v.sealed})
		return
	}
	if v.sealed {
		refuse(503, "Vault is sealed")
		return
	}
	if path == "auth/jwt/login" {
		var in struct{ Role, JWT string }
		_ = json.NewDecoder(r.Body).Decode(&in)
		if v.refuse || in.Role != "backend" || !strings.HasPrefix(in.JWT, "jwt-for-vault-") || v.jwts[in.JWT] {
			refuse(400, "error validating token: this JWT is not accepted")
			return
		}
		token := "hvs." + rand.Text()
		v.jwts[in.JWT], v.tokens[token] = true, nil
		v.logins++
		answer(200, map[string]any{"auth": map[string]any{"client_token": token, "lease_duration": int(v.ttl / time.Second)}})
		return
	}
	token := r.Header.Get("X-Vault-Token")
	leases, ok := v.tokens[token]
	if !ok {
		refuse(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")
		return
	}
	kind, rest, _ := strings.Cut(path, "/")
	switch {
	case strings.HasPrefix(path, "database/creds/"):
		role := strings.TrimPrefix(path, "database/creds/")
		group, ok := map[string]string{"backend": "precinct_app", "backend-schema": "precinct_owner"}[role]
		if !ok {
			refuse(400, "unknown role")
			return
		}
		name, password := "v-jwt-"+role+"-"+strings.ToLower(rand.Text()[:8]), rand.Text()
		err := v.database.tryExec(fmt.Sprintf(`CREATE ROLE "%s" LOGIN PASSWORD '%s' IN ROLE %s`, name, password, group))
		if err == nil && role == "backend-schema" {
			err = v.database.tryExec(fmt.Sprintf(`ALTER ROLE "%s" SET role = '%s'`, name, group))
		}
		if err != nil {
			refuse(500, "error creating database object")
			return
		}
		v.tokens[token] = append(leases, name)
		answer(200, map[string]any{"lease_id": path + "/" + name, "lease_duration": int(v.ttl / time.Second),
			"data": map[string]string{"username": name, "password": password}})
	case path == "auth/token/revoke-self":
		v.revoke(token)
		w.WriteHeader(204)
	case kind == "secret" && strings.HasPrefix(rest, "data/backend/") && r.Method == http.MethodGet:
		data, ok := v.kv[rest]
		if !ok {
			refuse(404, "")
			return
		}
		answer(200, map[string]any{"data": map[string]any{"data": data, "metadata": map[string]any{"version": 1, "created_time": time.Now()}}})
	case kind == "secret" && strings.HasPrefix(rest, "data/backend/"):
		var in struct{ Data json.RawMessage }
		_ = json.NewDecoder(r.Body).Decode(&in)
		v.kv[rest] = in.Data
		answer(200, map[string]any{"data": map[string]any{"version": 1, "created_time": time.Now()}})
	default:
		refuse(403, "permission denied")
	}
}

// revoke ends a token now and what is leased under it a moment later, as Vault does.
func (v *fakeVault) revoke(token string) {
	users := v.tokens[token]
	delete(v.tokens, token)
	v.dropped.Go(func() {
		time.Sleep(100 * time.Millisecond) // Vault's queue
		for _, name := range users {
			v.drop(name)
		}
	})
}

func (v *fakeVault) drop(name string) {
	err := v.database.tryExec(fmt.Sprintf(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '%s'`, name))
	if err == nil {
		err = v.database.tryExec(fmt.Sprintf(`DROP ROLE IF EXISTS "%s"`, name))
	}
	if err != nil {
		v.t.Logf("drop %s: %v", name, err)
	}
}

// revokeAll is an operator who revokes behind the backend's back; the users are gone
// when it returns.
func (v *fakeVault) revokeAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for token, users := range v.tokens {
		delete(v.tokens, token)
		for _, name := range users {
			v.drop(name)
		}
	}
}

//go:build e2e

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/githubstub/api"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
	"github.com/org/spire-vault-99-action/internal/loopback"
)

// world is the backend with a real PostgreSQL, and Vault and GitHub at the wire.
type world struct {
	t        *testing.T
	ca       *authority
	database *database
	vault    *fakeVault
	source   *source // the backend's
	backend  *backend
	github   atomic.Pointer[http.Handler] // may be exchanged
	address  string                       // of the API
	log      *safeBuffer
	stop     func() error // ends the backend and waits for it
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// newWorld starts nothing but PostgreSQL.
func newWorld(t *testing.T) *world {
	t.Helper()
	ca := newAuthority(t)
	w := &world{t: t, ca: ca, database: newDatabase(t, ca), source: ca.source(backendID, time.Hour), log: &safeBuffer{}}
	w.vault = newFakeVault(t, ca, w.database)
	w.setGitHub(api.Handler(time.Now))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the backend's log:\n%s", w.log)
		}
	})
	return w
}

// started is a world in which everything runs.
func started(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.vault.start()
	w.start()
	w.waitReady()
	return w
}

func (w *world) setGitHub(h http.Handler) { w.github.Store(&h) }

func (w *world) start() {
	w.t.Helper()
	github := w.listen()
	stub := &http.Server{TLSConfig: identity.ServerTLS(w.ca.source(githubID, time.Hour), backendID),
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { (*w.github.Load()).ServeHTTP(rw, r) })}
	go stub.ServeTLS(github, "", "")
	w.t.Cleanup(func() { stub.Close() })

	var jwts atomic.Int64
	app := w.listen()
	w.address = app.Addr().String()
	log := slog.New(slog.NewJSONHandler(w.log, nil))
	b, err := newBackend(Config{
		Log: log, Source: w.source,
		Edges: edge.List{From: "backend", Edges: []edge.Edge{
			{To: "vault", Address: w.vault.address, Allowed: true},
			{To: "githubstub", Address: "127.0.0.1:1"},
		}},
		Vault: vault.Config{
			Address: "https://" + w.vault.address, HTTP: client(w.source, vaultID), AuthPath: "jwt", Role: "backend", Audience: "vault",
			KVMount: "secret", KVPrefix: "backend",
			FetchJWT: func(_ context.Context, audience string) (string, error) {
				return fmt.Sprintf("jwt-for-%s-%d", audience, jwts.Add(1)), nil
			},
		},
		DatabaseRole: "backend", SchemaRole: "backend-schema",
		Postgres:  Postgres{Host: "127.0.0.1", Port: uint16(w.database.Port), Database: "precinct", ID: postgresID},
		GitHubURL: "https://" + github.Addr().String(), GitHub: client(w.source, githubID),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.backend = b
	ctx, cancel := context.WithCancel(context.Background())
	work, finish := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { b.work(work) })
	var served error
	wait.Go(func() {
		served = service.Run(ctx, service.Config{Log: log, Handler: b.handler(), TLS: identity.ServerTLS(w.source, frontendID),
			Listener: app, HealthListener: w.listen(), Ready: b.readyForCallers, Linger: time.Millisecond})
		finish()
	})
	w.stop = sync.OnceValue(func() error {
		cancel()
		wait.Wait()
		last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		b.sessions.Close(last)
		return served
	})
	w.t.Cleanup(func() { _ = w.stop() })
}

func (w *world) listen() net.Listener {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) waitReady() {
	w.t.Helper()
	b := w.browser()
	loopback.Eventually(w.t, 20*time.Second, "the backend to be ready", func() error {
		if got := b.get("/api/health/ready"); got.status != 200 {
			return fmt.Errorf("%s", got.body)
		}
		return nil
	})
}

// browser is somebody at the site, as the frontend passes them on.
type browser struct {
	w      *world
	client *http.Client
	cookie string
}

func (w *world) browser() *browser { return w.browserAs(w.ca.source(frontendID, time.Hour), backendID) }

func (w *world) browserAs(as identity.X509, server spiffeid.ID) *browser {
	c := client(as, server)
	c.Timeout = 30 * time.Second
	w.t.Cleanup(c.CloseIdleConnections)
	return &browser{w: w, client: c}
}

// answer is what came back.
type answer struct {
	status int
	body   string
	header http.Header
}

// field is a value of the JSON body.
func (a answer) field(name string) any {
	var m map[string]any
	_ = json.Unmarshal([]byte(a.body), &m)
	return m[name]
}

func (b *browser) try(method, path, contentType string, body io.Reader) (answer, error) {
	r, err := http.NewRequest(method, "https://"+b.w.address+path, body)
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if b.cookie != "" {
		r.Header.Set("Cookie", cookieName+"="+b.cookie)
	}
	got, err := b.client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		return answer{}, err
	}
	for _, c := range got.Cookies() {
		if c.Name == cookieName {
			b.cookie = c.Value
		}
	}
	return answer{got.StatusCode, strings.TrimSpace(string(text)), got.Header}, nil
}

func (b *browser) do(method, path, contentType string, body io.Reader) answer {
	b.w.t.Helper()
	a, err := b.try(method, path, contentType, body)
	if err != nil {
		b.w.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status >= 400 && (a.field("error") == nil || a.field("request_id") == nil) && path != "/api/health/ready" {
		b.w.t.Errorf("%s %s: %d without an error and a request ID: %s", method, path, a.status, a.body)
	}
	return a
}

func (b *browser) get(path string) answer { b.w.t.Helper(); return b.do("GET", path, "", nil) }

// post sends names and values.
func (b *browser) post(path string, pairs ...string) answer {
	b.w.t.Helper()
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	text, err := json.Marshal(m)
	if err != nil {
		b.w.t.Fatal(err)
	}
	return b.do("POST", path, "application/json", bytes.NewReader(text))
}

func (b *browser) login(name string) *browser {
	b.w.t.Helper()
	if got := b.post("/api/auth/login", "username", name, "password", name+"-precinct99"); got.status != 200 {
		b.w.t.Fatalf("login of %s: %d %s", name, got.status, got.body)
	}
	return b
}

// expect checks a status and that the body tells something.
func expect(t *testing.T, what string, got answer, status int, tells string) {
	t.Helper()
	if got.status != status || !strings.Contains(got.body, tells) {
		t.Errorf("%s: %d %s, want %d with %q", what, got.status, got.body, status, tells)
	}
}

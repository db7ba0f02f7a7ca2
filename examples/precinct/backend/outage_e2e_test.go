//go:build e2e

package main

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/internal/loopback"
)

// waitFor waits until readiness says this of one.
func (w *world) waitFor(name string, ok bool, detail string) {
	w.t.Helper()
	b := w.browser()
	loopback.Eventually(w.t, 20*time.Second, fmt.Sprintf("%s to be %v %q", name, ok, detail), func() error {
		got := b.get("/api/health/ready")
		var in struct {
			Status       string
			Dependencies map[string]struct {
				OK     bool
				Detail string
			}
		}
		if err := json.Unmarshal([]byte(got.body), &in); err != nil {
			return err
		}
		if (got.status == 200) != (in.Status == "ready") {
			w.t.Errorf("%d with %s", got.status, got.body)
		}
		if d := in.Dependencies[name]; d.OK != ok || d.Detail != detail {
			return fmt.Errorf("%s", got.body)
		}
		return nil
	})
}

// absent is a 503 that says what is missing and nothing else.
func absent(t *testing.T, what string, got answer, sentence string) {
	t.Helper()
	if got.status != 503 || got.field("error") != sentence || got.header.Get("Retry-After") == "" {
		t.Errorf("%s: %d %s (Retry-After %q), want 503 with %q", what, got.status, got.body, got.header.Get("Retry-After"), sentence)
	}
	for _, leak := range []string{"SQLSTATE", "dial", "127.0.0.1", "hvs.", "v-jwt", "goroutine"} {
		if strings.Contains(got.body, leak) {
			t.Errorf("%s: %s holds %q", what, got.body, leak)
		}
	}
}

func TestE2EEverythingIsMissingAtStart(t *testing.T) {
	w := newWorld(t)
	w.database.Stop()
	svid := w.source.current.Load()
	w.start()
	w.source.current.Store(nil)
	if got := w.backend.readyForCallers(t.Context()); got.Ready || got.Dependencies["svid"].Detail != identity.ErrNoAgent.Error() {
		t.Errorf("without an agent: %+v", got)
	}
	w.source.current.Store(svid)
	w.waitFor("vault", false, "not reachable")
	w.waitFor("database", false, "no credentials: not reachable")
	b := w.browser()
	absent(t, "login without Vault", b.post("/api/auth/login", "username", "jake", "password", "jake-precinct99"), "the secret store is not available")

	w.vault.set(func() { w.vault.sealed = true })
	w.vault.start()
	w.waitFor("vault", false, "sealed")
	w.waitFor("database", false, "no credentials: sealed")

	w.vault.set(func() { w.vault.sealed, w.vault.refuse = false, true })
	w.waitFor("vault", false, "login refused")

	w.vault.set(func() { w.vault.refuse = false })
	w.waitFor("database", false, "no credentials: Vault could not make database credentials")
	w.waitFor("vault", true, "")
	absent(t, "login without PostgreSQL", b.post("/api/auth/login", "username", "jake", "password", "jake-precinct99"), "the database is not available")

	w.database.Start()
	w.waitReady()
	b.login("jake")
	if got := w.backend.readyForCallers(t.Context()); !got.Ready {
		t.Errorf("at last: %+v", got)
	}
}

func TestE2EVaultSealedLater(t *testing.T) {
	w := started(t)
	b := w.browser().login("amy")
	b.post("/api/github/configure", "token", "ghp_demo_amy")
	w.vault.set(func() { w.vault.sealed = true })
	w.waitFor("vault", false, "sealed")
	expect(t, "what needs no Vault", b.get("/api/auth/me"), 200, "amy")
	w.browser().login("jake")
	absent(t, "a token", b.get("/api/github/user"), "the secret store is not available")
	absent(t, "storing one", b.post("/api/github/configure", "token", "ghp_demo_x"), "the secret store is not available")
	absent(t, "a rotation", b.do("POST", "/api/demo/rotate", "", nil), "the secret store is not available")
	if got := w.backend.readyForCallers(t.Context()); !got.Ready {
		t.Errorf("it still answers, so callers should reach it: %+v", got)
	}
	w.vault.stop()
	w.waitFor("vault", false, "not reachable")
	absent(t, "a token", b.get("/api/github/user"), "the secret store is not available")
	w.vault.set(func() { w.vault.sealed = false })
	w.vault.start()
	w.waitReady()
	expect(t, "nothing is lost", b.get("/api/github/user"), 200, "amy-santiago")
	expect(t, "a rotation again", b.do("POST", "/api/demo/rotate", "", nil), 200, `"old_gone":true`)
}

func TestE2EPostgresKilledAndBack(t *testing.T) {
	w := started(t)
	b := w.browser().login("charles")
	// Requests go on while it is killed: each is answered, well or with a 503.
	l := w.load(50, func(b *browser) error {
		got, err := b.try("GET", "/api/auth/me", "", nil)
		if err != nil {
			return err
		}
		if got.status != 200 && (got.status != 503 || got.field("error") != "the database is not available") {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
	w.database.Kill()
	w.waitFor("database", false, "not reachable")
	absent(t, "me", b.get("/api/auth/me"), "the database is not available")
	absent(t, "login", b.post("/api/auth/login", "username", "jake", "password", "jake-precinct99"), "the database is not available")
	absent(t, "a rotation", b.do("POST", "/api/demo/rotate", "", nil), "the database is not available")
	w.database.Start()
	start := time.Now()
	loopback.Eventually(t, 10*time.Second, "the session to be good again", func() error {
		if got := b.get("/api/auth/me"); got.status != 200 {
			return fmt.Errorf("%d %s", got.status, got.body)
		}
		return nil
	})
	t.Logf("recovered %s after PostgreSQL answered", time.Since(start).Round(time.Millisecond))
	if time.Since(start) > 3*time.Second {
		t.Error("that is too long")
	}
	w.waitReady()
	l.check(t, 20)
}

func TestE2EASlowDatabase(t *testing.T) {
	w := started(t)
	b := w.browser().login("amy")
	lock, err := w.database.connect("precinct")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close(t.Context())
	if _, err := lock.Exec(t.Context(), "BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	absent(t, "a table that is locked", b.get("/api/auth/me"), "the database is not available")
	if time.Since(start) > 8*time.Second {
		t.Errorf("that took %s", time.Since(start))
	}
}

func TestE2EGitHub(t *testing.T) {
	w := started(t)
	b := w.browser().login("jake")
	expect(t, "a bad token", b.post("/api/github/configure", "token", "ghp_wrong"), 422, "GitHub refused the token")
	expect(t, "and it is not stored", b.get("/api/github/user"), 404, "no GitHub token stored")
	limited := b.post("/api/github/configure", "token", "ghp_demo_limited")
	expect(t, "a limited token", limited, 429, "GitHub limits the requests")
	if limited.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	expect(t, "a good token after a limited one", b.post("/api/github/configure", "token", "ghp_demo_jake"), 200, "jake-peralta")
	for _, q := range []string{"page=0", "page=-1", "page=x", "per_page=101", "page=1%27%20OR%201=1"} {
		expect(t, q, b.get("/api/github/repos?"+q), 400, "has to be a number")
	}

	w.setGitHub(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
	expect(t, "GitHub is broken", b.get("/api/github/repos"), 502, "GitHub gave an unexpected answer")
	w.setGitHub(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	if got := b.get("/api/github/repos"); got.status < 502 || got.status > 503 {
		t.Errorf("GitHub answers something else: %d %s", got.status, got.body)
	}
	w.setGitHub(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	absent(t, "GitHub is down", b.get("/api/github/user"), "GitHub is not reachable")
	w.setGitHub(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(401)
		fmt.Fprint(w, `{"message":"Bad credentials"}`)
	}))
	expect(t, "a token that was revoked at GitHub", b.get("/api/github/user"), 422, "GitHub refused the token")
	for _, secret := range []string{"ghp_wrong", "ghp_demo"} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestE2EWhoMayCall(t *testing.T) {
	w := started(t)
	other := newAuthority(t)
	if _, err := w.browser().try("GET", "/api/health/ready", "", nil); err != nil {
		t.Fatalf("the frontend: %v", err)
	}
	for name, as := range map[string]identity.X509{
		"another workload":                w.ca.source(githubID, time.Hour),
		"the frontend's name elsewhere":   w.ca.source(idOf("default", "frontend"), time.Hour),
		"the frontend, expired":           w.ca.source(frontendID, -time.Minute),
		"the frontend, by another issuer": other.source(frontendID, time.Hour),
	} {
		b := w.browserAs(as, backendID)
		// The foreign one has to trust the server to come as far as being refused.
		if s := as.(*source); name == "the frontend, by another issuer" {
			s.bundle = w.source.bundle
		}
		if got, err := b.try("GET", "/api/health/ready", "", nil); err == nil {
			t.Errorf("%s was answered: %d %s", name, got.status, got.body)
		}
	}
	none := &browser{w: w, client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}}
	if got, err := none.try("GET", "/api/health/ready", "", nil); err == nil {
		t.Errorf("nobody was answered: %d %s", got.status, got.body)
	}
	if _, err := w.browserAs(w.ca.source(frontendID, time.Hour), vaultID).try("GET", "/api/health/ready", "", nil); err == nil {
		t.Error("the backend passed for Vault")
	}
}

// Whose SVID has expired gets no session, and says so.
func TestE2EOwnSVIDExpired(t *testing.T) {
	w := newWorld(t)
	w.vault.start()
	w.source.current.Store(w.ca.svid(backendID, -time.Minute))
	w.start()
	loopback.Eventually(t, 5*time.Second, "a reason", func() error {
		got := w.backend.readyForCallers(t.Context())
		if got.Ready || got.Dependencies["svid"].Detail != identity.ErrExpired.Error() || got.Dependencies["vault"].OK {
			return fmt.Errorf("%+v", got)
		}
		return nil
	})
	w.source.current.Store(w.ca.svid(backendID, time.Hour))
	w.waitReady()
}

// A server that is not who it should be gets no credentials.
func TestE2EAnotherServerInPostgresPlace(t *testing.T) {
	w := newWorld(t)
	w.vault.start()
	postgres := postgresID
	postgresID = idOf("99-data", "impostor")
	defer func() { postgresID = postgres }()
	w.start()
	w.waitFor("database", false, "not reachable")
	w.waitFor("vault", true, "")
}

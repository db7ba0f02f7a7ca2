package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-github/v84/github"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/crypto/bcrypt"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/rotation"
	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// The same work is done whether there is such a user or not. Medians of real hashes,
// interleaved so that a busy machine slows all alike.
func TestMatchTakesAsLongForNobody(t *testing.T) {
	p, err := newPasswords(seedCost)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := p.hash(t.Context(), "jake-precinct99")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name     string
		hash     []byte
		password string
	}{
		{"wrong password", hash, "amy-precinct99"},
		{"nobody", nil, "amy-precinct99"},
		{"overlong", hash, strings.Repeat("x", 73)},
		{"nobody, overlong", nil, strings.Repeat("x", 1000)},
	}
	took := map[string][]time.Duration{}
	for range 9 {
		for _, c := range cases {
			start := time.Now()
			if ok, err := p.match(t.Context(), c.hash, c.password); ok || err != nil {
				t.Fatalf("%s: %v, %v", c.name, ok, err)
			}
			took[c.name] = append(took[c.name], time.Since(start))
		}
	}
	// The fastest of each: whatever else the machine does only adds to it.
	fastest := func(name string) time.Duration { return slices.Min(took[name]) }
	wrong := fastest("wrong password")
	if wrong < 10*time.Millisecond {
		t.Errorf("a wrong password takes %s: that is no bcrypt", wrong)
	}
	for _, c := range cases[1:] {
		if got := fastest(c.name); got < wrong*6/10 || got > wrong*14/10 {
			t.Errorf("%s takes %s, a wrong password %s", c.name, got, wrong)
		}
	}
}

func TestMatch(t *testing.T) {
	p, err := newPasswords(bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	longest72 := strings.Repeat("x", longest)
	hash, err := p.hash(t.Context(), longest72)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		hash     []byte
		password string
		want     bool
	}{
		{"right", hash, longest72, true},
		{"right, and more that bcrypt would not see", hash, longest72 + "y", false},
		{"the dummy's password for nobody", nil, "nobody's password", false},
		{"the dummy's hash", p.dummy, "another password", false},
	} {
		if got, err := p.match(t.Context(), tc.hash, tc.password); got != tc.want || err != nil {
			t.Errorf("%s: %v, %v", tc.name, got, err)
		}
	}
	full := &passwords{cost: bcrypt.MinCost, dummy: p.dummy, slots: make(chan struct{})}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := full.match(ctx, hash, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while all cores are busy: %v", err)
	}
}

// The documented passwords are the seeded ones, as hashes alone.
func TestSeededUsers(t *testing.T) {
	text, err := fs.ReadFile(migrations, "migrations/00002_demo_users.sql")
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`\('(\w+)', '\w+@precinct99\.example', '[\w ]+', '(\$2a\$[^']+)'\)`).FindAllStringSubmatch(string(text), -1)
	if len(found) != 6 {
		t.Fatalf("%d users", len(found))
	}
	for _, u := range found {
		if err := bcrypt.CompareHashAndPassword([]byte(u[2]), []byte(u[1]+"-precinct99")); err != nil {
			t.Errorf("%s: %v", u[1], err)
		}
		if cost, _ := bcrypt.Cost([]byte(u[2])); cost != seedCost {
			t.Errorf("%s has cost %d: the time would tell them from nobody", u[1], cost)
		}
		if bytes.Contains(text, []byte(u[1]+"-precinct99")) {
			t.Errorf("the password of %s is in the migration", u[1])
		}
	}
}

func TestTell(t *testing.T) {
	pg := func(code string) error { return databaseError(&pgconn.PgError{Code: code, Message: "secret SQL"}) }
	of := func(r vault.Reason) error {
		return fmt.Errorf("rotate: %w", &vault.Error{Op: "x", Reason: r, Err: errors.New("10.0.0.1")})
	}
	for _, tc := range []struct {
		err  error
		want *problem
	}{
		{errLogin, errLogin},
		{databaseError(io.ErrUnexpectedEOF), errNoDatabase},
		{databaseError(context.DeadlineExceeded), errNoDatabase},
		{pg("57P01"), errNoDatabase},
		{pg("57P03"), errNoDatabase},
		{pg("57014"), errNoDatabase},
		{pg("55P03"), errNoDatabase},
		{pg("53300"), errNoDatabase},
		{pg("40001"), errNoDatabase},
		{pg("28P01"), errNoDatabase},
		{pg("42601"), errUnknown},
		{fmt.Errorf("%w: %w", errSchema, pg("42601")), errNoDatabase},
		{of(vault.Sealed), errNoVault},
		{of(vault.Denied), errNoVault},
		{of(vault.NoDatabase), errNoDatabase},
		{rotation.ErrNothing, errStarting},
		{identity.ErrNoEntry, errStarting},
		{context.DeadlineExceeded, errSlow},
		{errors.New("who knows"), errUnknown},
	} {
		if got := tell(tc.err); got != tc.want {
			t.Errorf("%v is told as %q, want %q", tc.err, got, tc.want)
		}
	}
}

func TestStaleEndedLost(t *testing.T) {
	for _, tc := range []struct {
		name               string
		err                error
		stale, ended, lost bool
	}{
		{"none", nil, false, false, false},
		{"dropped user", &pgconn.PgError{Code: "42501"}, true, false, false},
		{"login refused", databaseError(&pgconn.PgError{Code: "28P01"}), true, false, false},
		{"terminated", &pgconn.PgError{Code: "57P01"}, false, true, true},
		{"cut off", io.ErrUnexpectedEOF, false, false, true},
		{"too slow", context.DeadlineExceeded, false, false, false},
		{"duplicate", &pgconn.PgError{Code: "23505"}, false, false, false},
		{"Vault's no", &vault.Error{Reason: vault.Denied}, true, false, true},
		{"Vault sealed", &vault.Error{Reason: vault.Sealed}, false, false, true},
	} {
		if got := stale(tc.err); got != tc.stale {
			t.Errorf("%s: stale %v", tc.name, got)
		}
		if got := ended(tc.err); got != tc.ended {
			t.Errorf("%s: ended %v", tc.name, got)
		}
		if got := lost(tc.err); got != tc.lost {
			t.Errorf("%s: lost %v", tc.name, got)
		}
	}
}

func TestGitHubErrors(t *testing.T) {
	answer := func(status int) error {
		return &github.ErrorResponse{Response: &http.Response{StatusCode: status, Request: &http.Request{URL: &url.URL{}}}}
	}
	for _, tc := range []struct {
		err    error
		status int
		after  time.Duration
	}{
		{answer(401), 422, 0},
		{answer(403), 422, 0},
		{answer(404), 502, 10 * time.Second},
		{answer(500), 502, 10 * time.Second},
		{answer(503), 503, 10 * time.Second},
		{io.ErrUnexpectedEOF, 503, 10 * time.Second},
		{&github.AbuseRateLimitError{RetryAfter: github.Ptr(90 * time.Second)}, 429, 90 * time.Second},
		{&github.AbuseRateLimitError{}, 429, time.Second},
		{&github.RateLimitError{Rate: github.Rate{Reset: github.Timestamp{Time: time.Now().Add(48 * time.Hour)}}}, 429, time.Hour},
		{&github.RateLimitError{Rate: github.Rate{Reset: github.Timestamp{Time: time.Now().Add(-time.Hour)}}}, 429, time.Second},
	} {
		// Their Error methods want a whole response.
		got := func() *problem {
			defer func() { _ = recover() }()
			p, _ := errors.AsType[*problem](githubError(tc.err))
			return p
		}()
		if got == nil || got.status != tc.status || got.after != tc.after {
			t.Errorf("%T: %+v, want %d after %s", tc.err, got, tc.status, tc.after)
		}
	}
}

func TestFields(t *testing.T) {
	for _, tc := range []struct {
		check func(string) bool
		yes   []string
		no    []string
	}{
		{isUsername, []string{"jake", "a.b", "o-k_9"}, []string{"j", "Jake", "jake peralta", "jäke", "a'b", "a/b"}},
		{isEmail, []string{"a@b.example", "a+b@c.example"}, []string{"", "a", "a@", "A <a@b.example>", "a@b.example ", `"a b"@c.example`, "a@b.example, c@d.example"}},
		{isToken, []string{"ghp_x", "a-b.c"}, []string{"a b", "a\tb", "é"}},
	} {
		for _, s := range tc.yes {
			if !tc.check(s) {
				t.Errorf("%q is refused", s)
			}
		}
		for _, s := range tc.no {
			if tc.check(s) {
				t.Errorf("%q is taken", s)
			}
		}
	}
}

func TestSessionHash(t *testing.T) {
	good := strings.Repeat("A", 43)
	if hash, ok := sessionHash(good); !ok || len(hash) != 32 {
		t.Errorf("%x, %v", hash, ok)
	}
	// Each value has one form: the last character's spare bits count.
	for _, bad := range []string{"", good[1:], good + "A", good + "=", good[:42] + "B", good[:42] + "\n"} {
		if _, ok := sessionHash(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestReadEnv(t *testing.T) {
	whole := map[string]string{
		"SPIFFE_ENDPOINT_SOCKET": "unix:///s", "ALLOWED_CALLERS": frontendID.String(), "VAULT_ADDR": "https://v:8200", "VAULT_SPIFFE_ID": vaultID.String(),
		"VAULT_AUTH_PATH": "jwt", "VAULT_ROLE": "backend", "VAULT_AUDIENCE": "vault", "VAULT_KV_MOUNT": "secret", "VAULT_KV_PREFIX": "backend",
		"VAULT_DB_ROLE": "backend", "VAULT_DB_SCHEMA_ROLE": "backend-schema", "PGHOST": "p", "PGPORT": "5432", "PGDATABASE": "precinct",
		"POSTGRES_SPIFFE_ID": postgresID.String(),
	}
	e, err := readEnv(func(name string) string { return whole[name] })
	if err != nil || e.config.Postgres.Port != 5432 || e.callers[0] != frontendID || e.vaultID != vaultID || !e.githubID.IsZero() {
		t.Errorf("got %+v, %v", e, err)
	}
	for name := range whole {
		_, err := readEnv(func(n string) string {
			if n == name {
				return ""
			}
			return whole[n]
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for name, value := range map[string]string{"PGPORT": "many", "ALLOWED_CALLERS": "frontend", "EDGES": "{", "GITHUB_SPIFFE_ID": "https://x", "POSTGRES_SPIFFE_ID": "x"} {
		_, err := readEnv(func(n string) string {
			if n == name {
				return value
			}
			return whole[n]
		})
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
}

// Before there is an identity, a session or anything else, health answers and says so.
func TestABackendWithNothing(t *testing.T) {
	none := newAuthority(t).source(backendID, time.Hour)
	none.current.Store(nil)
	b, err := newBackend(Config{Log: slog.New(slog.DiscardHandler), Source: none, BcryptCost: bcrypt.MinCost,
		Vault: vault.Config{Address: "https://127.0.0.1:1", HTTP: client(none, vaultID)}, GitHub: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go b.work(ctx)
	get := func(h http.Handler, path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	health := service.Health(b.readyForCallers)
	if status, _ := get(health, "/health/live"); status != 200 {
		t.Errorf("live: %d", status)
	}
	for h, path := range map[http.Handler]string{health: "/health/ready", b.handler(): "/api/health/ready"} {
		status, body := get(h, path)
		if status != 503 || !strings.Contains(body, identity.ErrNoAgent.Error()) || !strings.Contains(body, "not reachable") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

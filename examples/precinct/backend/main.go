// Command backend is the API of the precinct-99 demo: users and their sessions in
// PostgreSQL, GitHub tokens in Vault. It has no secret of its own: its SVIDs get it a
// login at Vault, and that login gets it a user of the database for some minutes.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	// The roots by which GitHub's own API is known: the image holds nothing but the program.
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, log); err != nil {
		log.Error("backend", "error", err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	env, err := readEnv(os.Getenv)
	if err != nil {
		return err
	}
	source, err := identity.Open(ctx, env.workloadAPI, log)
	if err != nil {
		return err
	}
	defer source.Close()
	config := env.config
	config.Log, config.Source = log, source
	config.Vault.HTTP = client(source, env.vaultID)
	config.Vault.FetchJWT = source.FetchJWT
	config.GitHub = &http.Client{Timeout: 8 * time.Second}
	if env.githubID.IsZero() {
		config.GitHub.Transport = http.DefaultTransport
	} else {
		config.GitHub = client(source, env.githubID)
	}
	b, err := newBackend(config)
	if err != nil {
		return err
	}
	// Requests are served, and need the database, for a while after the end was asked for.
	life := context.WithoutCancel(ctx)
	work, finish := context.WithCancel(life)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.work(work)
	}()
	err = service.Run(ctx, service.Config{
		Log:     log,
		Address: ":8000",
		Handler: b.handler(),
		TLS:     identity.ServerTLS(source, env.callers...),
		Ready:   b.readyForCallers,
	})
	finish()
	<-done
	last, cancel := context.WithTimeout(life, 2*time.Second)
	defer cancel()
	b.sessions.Close(last)
	return err
}

// client talks to one server by mutual TLS.
func client(source identity.X509, server spiffeid.ID) *http.Client {
	return &http.Client{
		Timeout: 8 * time.Second,
		Transport: &http.Transport{
			TLSClientConfig:     identity.ClientTLS(source, server),
			TLSHandshakeTimeout: 3 * time.Second,
			IdleConnTimeout:     30 * time.Second,
			MaxIdleConnsPerHost: 8,
			DialContext:         dialer.DialContext,
		},
	}
}

// env is what the pod's environment says.
type env struct {
	config            Config
	workloadAPI       string
	callers           []spiffeid.ID
	vaultID, githubID spiffeid.ID
}

func readEnv(get func(string) string) (env, error) {
	var wrong []string
	need := func(name string) string {
		v := get(name)
		if v == "" {
			wrong = append(wrong, name+" is not set")
		}
		return v
	}
	check := func(name string, err error) {
		if err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", name, err))
		}
	}
	id := func(name, text string) spiffeid.ID {
		if text == "" {
			return spiffeid.ID{}
		}
		id, err := spiffeid.FromString(text)
		check(name, err)
		return id
	}
	e := env{
		workloadAPI: need("SPIFFE_ENDPOINT_SOCKET"),
		vaultID:     id("VAULT_SPIFFE_ID", need("VAULT_SPIFFE_ID")),
		githubID:    id("GITHUB_SPIFFE_ID", get("GITHUB_SPIFFE_ID")),
		config: Config{
			Vault: vault.Config{
				Address:  need("VAULT_ADDR"),
				AuthPath: need("VAULT_AUTH_PATH"),
				Role:     need("VAULT_ROLE"),
				Audience: need("VAULT_AUDIENCE"),
				KVMount:  need("VAULT_KV_MOUNT"),
				KVPrefix: need("VAULT_KV_PREFIX"),
			},
			DatabaseRole: need("VAULT_DB_ROLE"),
			SchemaRole:   need("VAULT_DB_SCHEMA_ROLE"),
			Postgres: Postgres{
				Host:     need("PGHOST"),
				Database: need("PGDATABASE"),
				ID:       id("POSTGRES_SPIFFE_ID", need("POSTGRES_SPIFFE_ID")),
			},
			GitHubURL: get("GITHUB_API_URL"),
		},
	}
	var err error
	e.callers, err = identity.ParseIDs(need("ALLOWED_CALLERS"))
	check("ALLOWED_CALLERS", err)
	e.config.Edges, err = edge.Parse("backend", get("EDGES"))
	check("EDGES", err)
	if text := need("PGPORT"); text != "" {
		port, err := strconv.ParseUint(text, 10, 16)
		check("PGPORT", err)
		e.config.Postgres.Port = uint16(port)
	}
	if wrong != nil {
		return env{}, fmt.Errorf("environment: %s", strings.Join(wrong, "; "))
	}
	return e, nil
}

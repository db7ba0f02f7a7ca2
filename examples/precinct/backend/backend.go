package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/rotation"
	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/dial"
	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
)

// Config is what the backend needs. Everything is required but where it says so.
type Config struct {
	Log    *slog.Logger
	Source identity.X509
	Edges  edge.List // none: the security page has nothing to try

	Vault                    vault.Config
	DatabaseRole, SchemaRole string // of Vault's database engine
	Postgres                 Postgres

	GitHubURL string // GitHub's own by default
	GitHub    *http.Client

	BcryptCost int // 10 by default, as the seeded users have
}

var dialer = dial.Dialer()

// backend is the API and what it works with.
type backend struct {
	Config
	github    *url.URL
	vault     *vault.Vault
	sessions  *rotation.Holder[*session]
	passwords *passwords
	readiness readiness
	migrated  bool // only open, which never runs twice at once, uses it
}

func newBackend(c Config) (*backend, error) {
	if c.BcryptCost == 0 {
		c.BcryptCost = seedCost
	}
	if c.GitHubURL == "" {
		c.GitHubURL = "https://api.github.com/"
	}
	github, err := url.Parse(strings.TrimSuffix(c.GitHubURL, "/") + "/")
	if err != nil || github.Host == "" {
		return nil, fmt.Errorf("GitHub's address %q is not a URL", c.GitHubURL)
	}
	v, err := vault.New(c.Vault)
	if err != nil {
		return nil, err
	}
	passwords, err := newPasswords(c.BcryptCost)
	if err != nil {
		return nil, err
	}
	b := &backend{Config: c, github: github, vault: v, passwords: passwords}
	b.sessions = rotation.New(rotation.Config[*session]{Open: b.open, Close: b.end, Stale: stale, Log: c.Log})
	return b, nil
}

// work is what goes on beside requests, until the context ends.
func (b *backend) work(ctx context.Context) {
	go b.sweep(ctx)
	b.sessions.Run(ctx)
}

// sweep deletes expired sessions now and then.
func (b *backend) sweep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Minute):
		}
		if err := b.deleteExpired(ctx); err != nil {
			b.Log.Warn("expired sessions were not deleted", "error", err.Error())
		}
	}
}

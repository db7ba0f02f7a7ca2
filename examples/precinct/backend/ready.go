package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/rotation"
	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// readiness remembers the newest answer for a moment: anybody may ask for it, and it
// costs the dependencies a request each.
type readiness struct {
	mu   sync.Mutex
	at   time.Time
	last service.Readiness
	once bool // everything was there at some time
}

// ready says what is missing now, and why.
func (b *backend) ready(ctx context.Context) service.Readiness {
	b.readiness.mu.Lock()
	defer b.readiness.mu.Unlock()
	if time.Since(b.readiness.at) < 500*time.Millisecond {
		return b.readiness.last
	}
	// Whoever asked first may go away; the answer is for others as well.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 1500*time.Millisecond)
	defer cancel()
	var ofVault, ofDatabase service.Dependency
	var wait sync.WaitGroup
	wait.Go(func() { ofVault = b.checkVault(ctx) })
	wait.Go(func() { ofDatabase = b.checkDatabase(ctx) })
	wait.Wait()
	got := service.All(map[string]service.Dependency{
		"svid":     service.Check(identity.Check(b.Source)),
		"vault":    ofVault,
		"database": ofDatabase,
	})
	b.readiness.last, b.readiness.at = got, time.Now()
	b.readiness.once = b.readiness.once || got.Ready
	return got
}

// readyForCallers is what the kubelet decides by. A new backend gets no requests
// before everything is there. Later, one that lacks Vault still has a session, and one
// that lacks the database says so clearly: without it callers would see nothing at all.
func (b *backend) readyForCallers(ctx context.Context) service.Readiness {
	got := b.ready(ctx)
	b.readiness.mu.Lock()
	defer b.readiness.mu.Unlock()
	got.Ready = got.Ready || b.readiness.once && got.Dependencies["svid"].OK
	return got
}

func (b *backend) checkVault(ctx context.Context) service.Dependency {
	if err := b.vault.Check(ctx); err != nil {
		return service.Dependency{Detail: reason(err)}
	}
	// It answers, but may not let us in.
	if v, ok := errors.AsType[*vault.Error](b.sessions.State().Err); ok && v.Reason != vault.NoDatabase {
		return service.Dependency{Detail: reason(v)}
	}
	return service.Dependency{OK: true}
}

func (b *backend) checkDatabase(ctx context.Context) service.Dependency {
	state := b.sessions.State()
	if state.Since.IsZero() {
		if _, ok := errors.AsType[*vault.Error](state.Err); ok {
			return service.Dependency{Detail: "no credentials: " + reason(state.Err)}
		}
		return service.Dependency{Detail: reason(state.Err)}
	}
	if _, err := b.currentUser(ctx); err != nil {
		return service.Dependency{Detail: reason(err)}
	}
	return service.Dependency{OK: true}
}

// notStarted says whether an error tells of an identity or a session that is not there
// yet.
func notStarted(err error) bool {
	return slices.ContainsFunc([]error{rotation.ErrNothing, identity.ErrNoAgent, identity.ErrNoEntry, identity.ErrExpired, identity.ErrStarting},
		func(e error) bool { return errors.Is(err, e) })
}

// reason is an error in plain words.
func reason(err error) string {
	if v, ok := errors.AsType[*vault.Error](err); ok {
		return string(v.Reason)
	}
	if errors.Is(err, errSchema) {
		return errSchema.Error()
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case slices.Contains(refused, pg.Code):
			return "login refused"
		case pg.Code == "57P03":
			return "starting up or shutting down"
		}
	}
	switch {
	case errors.Is(err, errDatabase):
		return "not reachable"
	case err != nil && notStarted(err):
		return err.Error()
	}
	return "not available"
}

package precinct

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Marks says what Carry carries: the marker, as a name that somebody signs in by and as
// part of a GitHub token; and the name of the backend's database user, which Vault tells
// PostgreSQL to drop and the site's users are shown. See zerotrust.Marked.
func (s *Site) Marks(ctx context.Context, marker string) (map[string][]string, error) {
	if err := s.signInAnew(ctx); err != nil {
		return nil, err
	}
	a, err := s.call(ctx, http.MethodGet, "/api/demo/database", nil)
	if err != nil {
		return nil, err
	}
	if len(a.ServerUser) < len("v-backend-1234567890") {
		return nil, fmt.Errorf("the database user %q has not a name that Vault gives", a.ServerUser)
	}
	const site = "outside → frontend:3000"
	return map[string][]string{
		marker:       {site, "frontend → backend:8000", "backend → postgres:5432", "backend → vault:8200", "backend → githubstub:8443"},
		a.ServerUser: {site, "frontend → backend:8000", "backend → postgres:5432", "vault → postgres:5433"},
	}, nil
}

// Carry makes them cross. At the end the demo user has the token that drills give them.
func (s *Site) Carry(ctx context.Context, marker string) (err error) {
	// PostgreSQL is asked for a user of that name.
	_, err = s.call(ctx, http.MethodPost, "/api/auth/login", map[string]string{"username": marker, "password": marker})
	if refused, ok := errors.AsType[*refusedError](err); !ok || refused.status != http.StatusUnauthorized {
		return fmt.Errorf("signing in as nobody: want 401, got %w", cmp.Or(err, errors.New("a session")))
	}
	if err := s.signInAnew(ctx); err != nil {
		return err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if _, e := s.call(clean, http.MethodPost, "/api/github/configure", map[string]string{"token": demoToken}); e != nil {
			err = errors.Join(err, fmt.Errorf("putting the token back: %w", e))
		}
	}()
	// GitHub is asked whose it is, and Vault keeps it; then the other way round.
	if _, err := s.call(ctx, http.MethodPost, "/api/github/configure", map[string]string{"token": "ghp_demo_" + marker}); err != nil {
		return err
	}
	if _, err := s.call(ctx, http.MethodGet, "/api/github/repos", nil); err != nil {
		return err
	}
	a, err := s.call(ctx, http.MethodPost, "/api/demo/rotate", struct{}{})
	if err == nil && !a.OldGone {
		err = fmt.Errorf("the database user %s is still there", a.OldUser)
	}
	return err
}

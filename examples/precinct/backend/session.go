package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
)

// Postgres says which database, and who its server is.
type Postgres struct {
	Host     string
	Port     uint16
	Database string
	ID       spiffeid.ID
}

// session is one login at Vault and the pool of connections as the database user that
// is leased under it: they are made, and end, together.
type session struct {
	login *vault.Login
	pool  *pgxpool.Pool
	user  string
	gone  atomic.Bool // after its end: the database knows the user no more
}

// open makes a session that works: its pool has reached the database.
func (b *backend) open(ctx context.Context) (*session, time.Time, error) {
	if err := identity.Check(b.Source); err != nil {
		return nil, time.Time{}, err
	}
	if !b.migrated {
		if err := b.migrate(ctx); err != nil {
			return nil, time.Time{}, err
		}
		b.migrated = true
	}
	login, err := b.vault.Login(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	s, expires, err := b.connect(ctx, login)
	if err != nil {
		b.revoke(ctx, login)
		return nil, time.Time{}, err
	}
	b.Log.Info("new database user", "user", s.user, "expires", expires)
	return s, expires, nil
}

func (b *backend) connect(ctx context.Context, login *vault.Login) (*session, time.Time, error) {
	credentials, err := login.Database(ctx, b.DatabaseRole)
	if err != nil {
		return nil, time.Time{}, err
	}
	config, err := pgxpool.ParseConfig("sslmode=disable") // ours is set below
	if err != nil {
		return nil, time.Time{}, err
	}
	b.connection(config.ConnConfig, credentials)
	config.MaxConns = 8
	config.MinIdleConns = 1
	config.HealthCheckPeriod = 5 * time.Second
	config.PingTimeout = 2 * time.Second
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, time.Time{}, databaseError(err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, time.Time{}, databaseError(err)
	}
	expires := credentials.Expires
	if login.Expires.Before(expires) {
		expires = login.Expires
	}
	return &session{login: login, pool: pool, user: credentials.User}, expires, nil
}

// connection is how the database is reached: by mutual TLS, as the given user.
func (b *backend) connection(c *pgx.ConnConfig, as vault.Credentials) {
	c.Host, c.Port, c.Database = b.Postgres.Host, b.Postgres.Port, b.Postgres.Database
	c.User, c.Password = as.User, as.Password
	c.TLSConfig = identity.ClientTLS(b.Source, b.Postgres.ID)
	c.Fallbacks = nil
	c.ConnectTimeout = 3 * time.Second
	c.DialFunc = dialer.DialContext
	c.RuntimeParams = map[string]string{
		"application_name":                    "precinct-backend",
		"statement_timeout":                   "5s",
		"lock_timeout":                        "3s",
		"idle_in_transaction_session_timeout": "10s",
	}
}

// end closes a session that nobody uses any more, and makes sure that the database
// knows its user no more.
func (b *backend) end(ctx context.Context, old, next *session) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		old.pool.Close()
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
	b.revoke(ctx, old.login)
	if next == nil {
		return
	}
	// Vault drops the user in the background, after its answer.
	for {
		gone, err := userGone(ctx, next.pool, old.user)
		if gone {
			old.gone.Store(true)
			b.Log.Info("database user is gone", "user", old.user)
			return
		}
		select {
		case <-ctx.Done():
			b.Log.Warn("database user is still there", "user", old.user, "error", fmt.Sprint(err))
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// revoke ends a login also when the context is over: what was leased must not stay.
func (b *backend) revoke(ctx context.Context, login *vault.Login) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := login.Revoke(ctx); err != nil {
		b.Log.Warn("a login was not revoked and lives until it expires", "error", err.Error())
	}
}

// errDatabase says that the database cannot be used now.
var errDatabase = errors.New("the database is not available")

// states of PostgreSQL's answers. https://www.postgresql.org/docs/15/errcodes-appendix.html
var (
	// How a user that was dropped fails: at the login, or with what it did own.
	refused = []string{"28000", "28P01", "42501", "42704"}
	// The server, the network or others' work, and not the statement.
	unavailable = []string{"08", "40", "53", "55P03", "57", "58"}
)

// stale says whether an error means that a session is over: somebody revoked it.
func stale(err error) bool {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		return slices.Contains(refused, pg.Code)
	}
	v, ok := errors.AsType[*vault.Error](err)
	return ok && v.Reason == vault.Denied
}

// databaseError marks what is the database's absence and not a statement's error.
func databaseError(err error) error {
	if err == nil {
		return nil
	}
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && !slices.Contains(refused, pg.Code) &&
		!slices.ContainsFunc(unavailable, func(class string) bool { return strings.HasPrefix(pg.Code, class) }) {
		return err
	}
	return fmt.Errorf("%w: %w", errDatabase, err)
}

// ended is how a connection fails that the server closed before the statement was
// done.
func ended(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "57P01" || pgconn.SafeToRetry(err)
}

// lost says whether a connection ended under a statement, whatever became of it.
func lost(err error) bool {
	if _, ok := errors.AsType[*pgconn.PgError](err); ok || err == nil {
		return ended(err)
	}
	return !pgconn.Timeout(err) && !errors.Is(err, context.DeadlineExceeded)
}

// read runs what may be repeated: it is, once, where the connection was lost.
func (b *backend) read(ctx context.Context, f func(*pgxpool.Pool) error) error {
	return b.use(ctx, lost, f)
}

// write runs what must not be done twice: it is repeated only where it was certainly
// not done.
func (b *backend) write(ctx context.Context, f func(*pgxpool.Pool) error) error {
	return b.use(ctx, ended, f)
}

func (b *backend) use(ctx context.Context, again func(error) bool, f func(*pgxpool.Pool) error) error {
	return b.sessions.Use(ctx, func(s *session) error {
		err := f(s.pool)
		if again(err) && ctx.Err() == nil {
			s.pool.Reset() // what else is idle is dead as well
			err = f(s.pool)
		}
		return databaseError(err)
	})
}

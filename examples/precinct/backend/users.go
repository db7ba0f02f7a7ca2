package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// user is what everybody may know of a user who is themselves.
type user struct {
	ID        int64     `json:"id"`
	Username  string    `json:"username"`
	Email     string    `json:"email"`
	FullName  string    `json:"full_name"`
	CreatedAt time.Time `json:"created_at"`
}

const userColumns = "users.id, users.username, users.email, users.full_name, users.created_at"

func (u *user) fields() []any { return []any{&u.ID, &u.Username, &u.Email, &u.FullName, &u.CreatedAt} }

// findUser is a user and the password's hash; nil for both where there is none.
func (b *backend) findUser(ctx context.Context, username string) (u *user, hash []byte, err error) {
	err = b.read(ctx, func(pool *pgxpool.Pool) error {
		found := new(user)
		err := pool.QueryRow(ctx, "SELECT password_hash, "+userColumns+" FROM users WHERE username = $1", username).
			Scan(append([]any{&hash}, found.fields()...)...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		u = found
		return err
	})
	return u, hash, err
}

// errTaken says that a name or an address is somebody's already.
type errTaken string

func (e errTaken) Error() string { return "this " + string(e) + " is taken" }

func (b *backend) addUser(ctx context.Context, u user, hash []byte) (user, error) {
	err := b.write(ctx, func(pool *pgxpool.Pool) error {
		return pool.QueryRow(ctx, "INSERT INTO users (username, email, full_name, password_hash) VALUES ($1, $2, $3, $4) RETURNING id, created_at",
			u.Username, u.Email, u.FullName, string(hash)).Scan(&u.ID, &u.CreatedAt)
	})
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "23505" {
		if pg.ConstraintName == "users_email" {
			return user{}, errTaken("e-mail address")
		}
		return user{}, errTaken("username")
	}
	return u, err
}

// sessionLife is how long a signed-in user stays so.
const sessionLife = 8 * time.Hour

// addSession signs a user in and returns the cookie's value, which the database does
// not know: it holds a hash.
func (b *backend) addSession(ctx context.Context, userID int64) (string, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it cannot fail
	hash := sha256.Sum256(secret)
	return base64.RawURLEncoding.EncodeToString(secret), b.write(ctx, func(pool *pgxpool.Pool) error {
		_, err := pool.Exec(ctx, "INSERT INTO sessions (token_hash, user_id, expires_at) VALUES ($1, $2, now() + $3)", hash[:], userID, sessionLife)
		return err
	})
}

// sessionHash is what the database knows a cookie's value by; false for what is none.
func sessionHash(value string) ([]byte, bool) {
	secret, err := base64.RawURLEncoding.Strict().DecodeString(value)
	if err != nil || len(secret) != 32 {
		return nil, false
	}
	hash := sha256.Sum256(secret)
	return hash[:], true
}

// sessionUser is who a session belongs to; nil for none.
func (b *backend) sessionUser(ctx context.Context, hash []byte) (u *user, err error) {
	err = b.read(ctx, func(pool *pgxpool.Pool) error {
		found := new(user)
		err := pool.QueryRow(ctx, "SELECT "+userColumns+" FROM sessions JOIN users ON users.id = sessions.user_id WHERE token_hash = $1 AND expires_at > now()", hash).
			Scan(found.fields()...)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		u = found
		return err
	})
	if err != nil {
		return nil, err
	}
	return u, nil
}

func (b *backend) deleteSession(ctx context.Context, hash []byte) error {
	return b.read(ctx, func(pool *pgxpool.Pool) error {
		_, err := pool.Exec(ctx, "DELETE FROM sessions WHERE token_hash = $1", hash)
		return err
	})
}

func (b *backend) deleteExpired(ctx context.Context) error {
	return b.read(ctx, func(pool *pgxpool.Pool) error {
		_, err := pool.Exec(ctx, "DELETE FROM sessions WHERE expires_at <= now()")
		return err
	})
}

// currentUser is the database's own word for who we are.
func (b *backend) currentUser(ctx context.Context) (name string, err error) {
	err = b.read(ctx, func(pool *pgxpool.Pool) error {
		return pool.QueryRow(ctx, "SELECT current_user").Scan(&name)
	})
	return name, err
}

func userGone(ctx context.Context, pool *pgxpool.Pool, name string) (gone bool, err error) {
	err = pool.QueryRow(ctx, "SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name).Scan(&gone)
	return gone && err == nil, err
}

package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

var errSchema = errors.New("the schema could not be brought up to date")

// migrate brings the schema up to date as a database user of its own, which may do
// that and ends with it. Of several backends that start together one does the work.
func (b *backend) migrate(ctx context.Context) error {
	login, err := b.vault.Login(ctx)
	if err != nil {
		return err
	}
	defer b.revoke(ctx, login)
	credentials, err := login.Database(ctx, b.SchemaRole)
	if err != nil {
		return err
	}
	config, err := pgx.ParseConfig("sslmode=disable") // ours is set below
	if err != nil {
		return err
	}
	b.connection(config, credentials)
	db := stdlib.OpenDB(*config)
	defer func() { _ = db.Close() }()
	if err := db.PingContext(ctx); err != nil {
		return databaseError(err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 10))
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("%w: %w", errSchema, err)
	}
	done, err := provider.Up(ctx)
	if err != nil {
		return databaseError(fmt.Errorf("%w: %w", errSchema, err))
	}
	for _, m := range done {
		b.Log.Info("migrated", "version", m.Source.Version, "seconds", m.Duration.Seconds())
	}
	return nil
}

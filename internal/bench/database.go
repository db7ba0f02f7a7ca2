package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	_ "github.com/mattn/go-sqlite3"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// database is what a SPIRE server keeps its entries in.
type database struct {
	name string
	// short is for file names.
	short string
	// lookup is the column by whose index SQLite looks for entries that are similar to a new
	// one; "" is PostgreSQL, which knows by its statistics.
	lookup string
}

// SQLite has no statistics in a SPIRE server's file, and takes of two indexes that fit the one
// that was made last. SPIRE's schema library makes them in the order of a Go map, so that
// it is chance, once for each new file, whether a creation looks at the entries of the same
// SPIFFE ID, of which there are few, or at those of the same parent, which may be all.
// Here it is said. Source: autoIndex in github.com/jinzhu/gorm v1.9.16 scope.go;
// lookupSimilarEntry in github.com/spiffe/spire v1.13.3 sqlstore.go.
var (
	sqliteBySPIFFEID = database{"SQLite, lookup by SPIFFE ID", "sqlite", "spiffe_id"}
	sqliteByParent   = database{"SQLite, lookup by parent", "sqlite-parent", "parent_id"}
	postgreSQL       = database{"PostgreSQL 15", "postgresql", ""}
)

// server runs a SPIRE server with an empty database for as long as f does.
func (b entriesBench) server(ctx context.Context, d database, f func(testing.TB, *spiretest.Real) error) error {
	return within(ctx, b.log, func(t testing.TB) error {
		cfg := spiretest.RealConfig{
			BinDir: b.bin, TrustDomain: td, ServerOnly: true,
			// No agents are served here; at the default the server would spend its time reading
			// the table anew.
			CacheReload: time.Hour,
		}
		if d.lookup == "" {
			const name = "spire"
			b.postgres.CreateDatabase(name)
			t.Cleanup(func() { b.postgres.DropDatabase(name) })
			cfg.Postgres = b.postgres.DSN(name)
		}
		real := spiretest.StartReal(t, cfg)
		if d.lookup != "" {
			if err := lookupBy(ctx, real.Datastore, d.lookup); err != nil {
				return err
			}
		}
		return f(t, real)
	})
}

func openSQLite(file string) (*sql.DB, error) {
	return sql.Open("sqlite3", "file:"+file+"?_busy_timeout=10000")
}

// lookupBy makes the column's index anew, so that it is the last one, and sees that SQLite
// uses it.
func lookupBy(ctx context.Context, file, column string) (err error) {
	db, err := openSQLite(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	index := "idx_registered_entries_" + column
	for _, do := range []string{"drop index " + index, "create index " + index + " on registered_entries (" + column + ")"} {
		if _, err := db.ExecContext(ctx, do); err != nil {
			return fmt.Errorf("%s: %w", do, err)
		}
	}
	var id, parent, unused int
	var plan string
	if err := db.QueryRowContext(ctx, "explain query plan select id from registered_entries where parent_id = '' and spiffe_id = ''").
		Scan(&id, &parent, &unused, &plan); err != nil {
		return err
	}
	if !strings.Contains(plan, index) {
		return fmt.Errorf("SQLite does not use the index that was made last, %s: %s", index, plan)
	}
	return nil
}

// seed puts entries into the database of a running server.
func seed(ctx context.Context, d database, datastore string, entries []spire.Entry) error {
	now := time.Now().UTC()
	rows := make([][]any, len(entries))
	var selectors [][]any
	for i, e := range entries {
		rows[i] = []any{i + 1, now, now, spire.EntryID(owner, e), e.SPIFFEID.String(), e.ParentID.String(), 0, false, false, 0, 0, false, "", 0}
		for _, s := range e.Selectors {
			selectors = append(selectors, []any{now, now, i + 1, s.Type, s.Value})
		}
	}
	insert := insertPostgres
	if d.lookup != "" {
		insert = insertSQLite
	}
	err := insert(ctx, datastore,
		rowsOf{"registered_entries", []string{"id", "created_at", "updated_at", "entry_id", "spiffe_id", "parent_id",
			"ttl", "admin", "downstream", "expiry", "revision_number", "store_svid", "hint", "jwt_svid_ttl"}, rows},
		rowsOf{"selectors", []string{"created_at", "updated_at", "registered_entry_id", "type", "value"}, selectors})
	if err != nil {
		return fmt.Errorf("seed the server's database: %w", err)
	}
	return nil
}

// rowsOf a table.
type rowsOf struct {
	table   string
	columns []string
	rows    [][]any
}

func insertSQLite(ctx context.Context, file string, tables ...rowsOf) (err error) {
	db, err := openSQLite(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
		}
	}()
	for _, t := range tables {
		row, err := tx.PrepareContext(ctx, fmt.Sprintf("insert into %s (%s) values (?%s)",
			t.table, strings.Join(t.columns, ", "), strings.Repeat(", ?", len(t.columns)-1)))
		if err != nil {
			return err
		}
		for _, values := range t.rows {
			if _, err := row.ExecContext(ctx, values...); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
}

// insertPostgres also has the statistics made that PostgreSQL itself makes within a minute.
func insertPostgres(ctx context.Context, dsn string, tables ...rowsOf) (err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close(ctx)) }()
	for _, t := range tables {
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{t.table}, t.columns, pgx.CopyFromRows(t.rows)); err != nil {
			return err
		}
	}
	_, err = conn.Exec(ctx, "analyze")
	return err
}

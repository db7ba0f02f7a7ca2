//go:build e2e

package main

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/org/spire-vault-99-action/internal/pgtest"
)

// database is a real PostgreSQL with TLS on the loopback, and the roles that the
// engine makes there.
type database struct {
	*pgtest.Server
	t *testing.T
}

func newDatabase(t *testing.T, ca *authority) *database {
	t.Helper()
	cert, key := pems(t, ca.svid(postgresID, time.Hour))
	d := &database{t: t, Server: pgtest.Start(t, pgtest.Config{
		Files: map[string][]byte{
			"server.crt": cert, "server.key": key, "ca.crt": certPEM(ca.cert),
			"pg_hba.conf": []byte("local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"),
		},
		Settings: "ssl=on\nssl_ca_file='ca.crt'\nfsync=off\nmax_connections=40\n",
	})}
	d.CreateDatabase("precinct")
	d.exec("CREATE ROLE precinct_owner NOLOGIN")
	d.exec("CREATE ROLE precinct_app NOLOGIN")
	d.exec("GRANT USAGE, CREATE ON SCHEMA public TO precinct_owner")
	d.exec("ALTER DEFAULT PRIVILEGES FOR ROLE precinct_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO precinct_app")
	d.exec("ALTER DEFAULT PRIVILEGES FOR ROLE precinct_owner GRANT USAGE ON SEQUENCES TO precinct_app")
	return d
}

func (d *database) connect(name string) (*pgx.Conn, error) {
	return pgx.Connect(context.Background(), d.DSN(name))
}

var admin sync.Mutex // CREATE ROLE and DROP ROLE at the same time disturb each other

// exec does a thing as the superuser.
func (d *database) exec(sql string) {
	d.t.Helper()
	if err := d.tryExec(sql); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
}

func (d *database) tryExec(sql string) error {
	admin.Lock()
	defer admin.Unlock()
	conn, err := d.connect("precinct")
	if err != nil {
		if conn, err = d.connect("postgres"); err != nil {
			return err
		}
	}
	defer conn.Close(context.Background())
	_, err = conn.Exec(context.Background(), sql)
	return err
}

// count is of a query that counts.
func (d *database) count(sql string) (n int) {
	d.t.Helper()
	conn, err := d.connect("precinct")
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(context.Background(), sql).Scan(&n); err != nil {
		d.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

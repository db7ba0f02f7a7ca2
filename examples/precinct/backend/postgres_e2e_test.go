//go:build e2e

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	osuser "os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

const postgresBin = "/usr/lib/postgresql/15/bin"

// database is a real PostgreSQL with TLS on the loopback, and the roles that the
// engine makes there.
type database struct {
	t       *testing.T
	dir     string
	port    int
	id      *syscall.Credential // who it runs as: it refuses to run as root
	process *exec.Cmd
	log     bytes.Buffer
}

func newDatabase(t *testing.T, ca *authority) *database {
	t.Helper()
	if _, err := os.Stat(filepath.Join(postgresBin, "initdb")); err != nil {
		t.Fatalf("PostgreSQL's programs are not in %s: install Debian's package postgresql-15", postgresBin)
	}
	d := &database{t: t, port: freePort(t)}
	// Not t.TempDir: its parent is closed to other users.
	dir, err := os.MkdirTemp("", "precinct-postgres-")
	if err != nil {
		t.Fatal(err)
	}
	d.dir = dir
	t.Cleanup(func() { os.RemoveAll(dir) })
	if os.Getuid() == 0 {
		d.id = &syscall.Credential{Uid: 65534, Gid: 65534}
		if u, err := osuser.Lookup("postgres"); err == nil {
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			d.id = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
		if err := os.Chown(dir, int(d.id.Uid), int(d.id.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	if out, err := d.command("initdb", "--no-sync", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	cert, key := pems(t, ca.svid(postgresID, time.Hour))
	for name, text := range map[string][]byte{
		"server.crt": cert, "server.key": key, "ca.crt": certPEM(ca.cert),
		"pg_hba.conf": []byte("local all postgres trust\nhostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\n"),
		"postgresql.auto.conf": fmt.Appendf(nil, "listen_addresses='127.0.0.1'\nport=%d\nunix_socket_directories='%s'\nssl=on\nssl_ca_file='ca.crt'\nfsync=off\nmax_connections=40\n",
			d.port, dir),
	} {
		file := filepath.Join(data, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if d.id != nil {
			if err := os.Chown(file, int(d.id.Uid), int(d.id.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	d.start()
	t.Cleanup(d.stop)
	d.exec("CREATE DATABASE precinct")
	d.exec("CREATE ROLE precinct_owner NOLOGIN")
	d.exec("CREATE ROLE precinct_app NOLOGIN")
	d.exec("GRANT USAGE, CREATE ON SCHEMA public TO precinct_owner")
	d.exec("ALTER DEFAULT PRIVILEGES FOR ROLE precinct_owner GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO precinct_app")
	d.exec("ALTER DEFAULT PRIVILEGES FOR ROLE precinct_owner GRANT USAGE ON SEQUENCES TO precinct_app")
	return d
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (d *database) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(postgresBin, name), args...)
	c.Dir = d.dir
	// A server that outlived its test would stay for ever.
	c.SysProcAttr = &syscall.SysProcAttr{Credential: d.id, Pdeathsig: syscall.SIGINT}
	return c
}

func (d *database) start() {
	d.t.Helper()
	d.process = d.command("postgres", "-D", filepath.Join(d.dir, "data"))
	d.process.Stdout, d.process.Stderr = &d.log, &d.log
	if err := d.process.Start(); err != nil {
		d.t.Fatal(err)
	}
	eventually(d.t, 20*time.Second, "PostgreSQL to answer", func() error {
		conn, err := d.connect("postgres")
		if err == nil {
			conn.Close(context.Background())
		}
		return err
	})
}

// stop is at once: connections are cut off.
func (d *database) stop() {
	if d.process == nil {
		return
	}
	_ = d.process.Process.Signal(syscall.SIGINT)
	_ = d.process.Wait()
	d.process = nil
}

// kill is without a chance to say goodbye to anyone.
func (d *database) kill() {
	d.t.Helper()
	// Only the first process: the others see it go and end by themselves.
	_ = d.process.Process.Kill()
	_ = d.process.Wait()
	d.process = nil
	eventually(d.t, 20*time.Second, "PostgreSQL's other processes to end", func() error {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(d.port)))
		if err != nil {
			return nil
		}
		conn.Close()
		return fmt.Errorf("port %d still answers", d.port)
	})
}

func (d *database) connect(name string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("sslmode=disable")
	if err != nil {
		return nil, err
	}
	config.Host, config.Port, config.User, config.Database = d.dir, uint16(d.port), "postgres", name
	config.Fallbacks = nil
	return pgx.ConnectConfig(context.Background(), config)
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

// eventually waits for something and tells what it last saw.
func eventually(t *testing.T, limit time.Duration, what string, try func() error) {
	t.Helper()
	var last error
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if last = try(); last == nil {
			return
		}
	}
	t.Fatalf("waited %s for %s, and last saw: %v", limit, what, last)
}

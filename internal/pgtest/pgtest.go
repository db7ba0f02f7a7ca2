// Package pgtest runs a real PostgreSQL for tests: the programs of Debian's package
// postgresql-15, on the loopback, in a folder of its own.
package pgtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/internal/loopback"
)

const (
	bin      = "/usr/lib/postgresql/15/bin"
	patience = 20 * time.Second
)

// Config tunes Start.
type Config struct {
	// Files are put into the data folder, over those that initdb makes. Without a pg_hba.conf
	// among them, the unix socket lets everybody in and the loopback nobody.
	Files map[string][]byte
	// Settings are lines of postgresql.conf.
	Settings string
}

// Server is a PostgreSQL whose superuser is postgres.
type Server struct {
	// Dir has the unix socket; Port is that of the loopback and part of the socket's name.
	Dir  string
	Port int

	t       testing.TB
	id      *syscall.Credential // who it runs as: it refuses to run as root
	process *exec.Cmd
	log     bytes.Buffer
}

// Start makes a database cluster and runs it until the test ends.
func Start(t testing.TB, cfg Config) *Server {
	t.Helper()
	if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
		t.Fatalf("PostgreSQL's programs are not in %s: install Debian's package postgresql-15, as make packages does", bin)
	}
	// Not t.TempDir: its parent is closed to other users.
	dir, err := os.MkdirTemp("", "postgres-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{Dir: dir, Port: loopback.FreePort(t), t: t}
	if os.Getuid() == 0 {
		s.id = account()
		s.own(dir)
	}
	if out, err := s.command("initdb", "--no-sync", "-D", s.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	files := map[string][]byte{
		"pg_hba.conf": []byte("local all all trust\n"),
		"postgresql.auto.conf": fmt.Appendf(nil, "listen_addresses='127.0.0.1'\nport=%d\nunix_socket_directories='%s'\n%s",
			s.Port, dir, cfg.Settings),
	}
	for name, text := range cfg.Files {
		files[name] = text
	}
	for name, text := range files {
		file := filepath.Join(s.data(), name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s.own(file)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("output of PostgreSQL:\n%s", s.log.Bytes())
		}
	})
	s.Start()
	return s
}

// account is postgres's, or nobody's where there is none.
func account() *syscall.Credential {
	id := &syscall.Credential{Uid: 65534, Gid: 65534}
	if u, err := user.Lookup("postgres"); err == nil {
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			id.Uid, id.Gid = uint32(uid), uint32(gid)
		}
	}
	return id
}

func (s *Server) own(file string) {
	s.t.Helper()
	if s.id == nil {
		return
	}
	if err := os.Chown(file, int(s.id.Uid), int(s.id.Gid)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) data() string { return filepath.Join(s.Dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(bin, name), args...)
	c.Dir = s.Dir
	// A server that outlived its test would stay for ever.
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.id, Pdeathsig: syscall.SIGINT}
	return c
}

// Start runs it again after Stop or Kill, and returns when it takes connections.
func (s *Server) Start() {
	s.t.Helper()
	s.process = s.command("postgres", "-D", s.data())
	s.process.Stdout, s.process.Stderr = &s.log, &s.log
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	loopback.Eventually(s.t, patience, "PostgreSQL to answer", func() error {
		out, err := s.command("pg_isready", "-h", s.Dir, "-p", strconv.Itoa(s.Port), "-U", "postgres").CombinedOutput()
		if err != nil {
			return fmt.Errorf("pg_isready: %w: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
}

// Stop is at once: connections are cut off.
func (s *Server) Stop() {
	if s.process == nil {
		return
	}
	_ = s.process.Process.Signal(syscall.SIGINT)
	_ = s.process.Wait()
	s.process = nil
}

// Kill is without a chance to say goodbye to anyone.
func (s *Server) Kill() {
	s.t.Helper()
	// Only the first process: the others see it go and end by themselves.
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	s.process = nil
	loopback.Eventually(s.t, patience, "PostgreSQL's other processes to end", func() error {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
		if err != nil {
			return nil
		}
		_ = conn.Close()
		return fmt.Errorf("port %d still answers", s.Port)
	})
}

// DSN is how the superuser gets into a database, by the unix socket: key=value words.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s sslmode=disable", s.Dir, s.Port, database)
}

// CreateDatabase makes an empty one.
func (s *Server) CreateDatabase(name string) {
	s.t.Helper()
	if out, err := s.command("createdb", "-h", s.Dir, "-p", strconv.Itoa(s.Port), "-U", "postgres", name).CombinedOutput(); err != nil {
		s.t.Fatalf("createdb %s: %v\n%s", name, err, out)
	}
}

// DropDatabase cuts off whoever uses it.
func (s *Server) DropDatabase(name string) {
	s.t.Helper()
	if out, err := s.command("dropdb", "--force", "-h", s.Dir, "-p", strconv.Itoa(s.Port), "-U", "postgres", name).CombinedOutput(); err != nil {
		s.t.Fatalf("dropdb %s: %v\n%s", name, err, out)
	}
}

package spiretest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/org/spire-vault-99-action/internal/loopback"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// RealConfig says how to run SPIRE's own programs.
type RealConfig struct {
	// BinDir is the folder of spire-server and spire-agent. It must be there: the
	// test fails, it is never skipped.
	BinDir      string
	TrustDomain spiffeid.TrustDomain
	// AdminIDs go into the server's admin_ids.
	AdminIDs []spiffeid.ID
	// CacheReload is how often the server reads all its entries anew, for its agents. Zero is
	// a second; with a large table more leaves the server time for other things.
	CacheReload time.Duration
	// ServerOnly leaves out the agent.
	ServerOnly bool
	// Postgres is the connection string of an empty PostgreSQL database for the server to use;
	// "" is a SQLite file.
	Postgres string
}

// Real is a server and an agent as processes of this machine. The agent has
// attested by join token and tells workloads apart by selectors of type unix.
type Real struct {
	// Conn has admin rights, over the server's unix socket.
	Conn grpc.ClientConnInterface
	// Bundle is the trust domain's at the start.
	Bundle *x509bundle.Bundle
	// AgentID is the parent for entries to be delivered.
	AgentID spiffeid.ID
	// Datastore is the server's SQLite file, or RealConfig.Postgres. Others may write to it, too.
	Datastore string

	// ServerAddr is the API over TCP, with mTLS; ServerSocket the API's and AgentSocket
	// the Workload API's unix socket, as paths.
	ServerAddr, ServerSocket, AgentSocket string

	config realConfig
	server *process
}

// KillServer ends the server as SIGKILL does, at whatever it is doing. What it had
// committed is in Datastore.
func (r *Real) KillServer() { r.server.kill() }

// RestartServer starts the killed server again, at the same addresses and with what it had
// on disk, and returns when it is ready.
func (r *Real) RestartServer(t testing.TB) {
	t.Helper()
	r.server = start(t, r.config, "spire-server", serverConf, r.config.ServerHealth)
}

// realConfig is what the config files see.
type realConfig struct {
	RealConfig
	Dir, JoinToken                            string
	ServerPort, ServerHealth, AgentHealth     int
	ServerSocket, AgentSocket, TrustBundlePEM string
	Datastore, DatabaseType                   string
}

const serverConf = `
server {
  bind_address = "127.0.0.1"
  bind_port = "{{.ServerPort}}"
  trust_domain = "{{.TrustDomain.Name}}"
  data_dir = "{{.Dir}}/server"
  socket_path = "{{.ServerSocket}}"
  log_level = "WARN"
  admin_ids = [{{range $i, $id := .AdminIDs}}{{if $i}}, {{end}}"{{$id}}"{{end}}]
  experimental { cache_reload_interval = "{{.CacheReload}}" }
}
plugins {
  DataStore "sql" { plugin_data { database_type = "{{.DatabaseType}}" connection_string = "{{.Datastore}}" } }
  KeyManager "disk" { plugin_data { keys_path = "{{.Dir}}/server/keys.json" } }
  NodeAttestor "join_token" { plugin_data {} }
}
health_checks { listener_enabled = true bind_address = "127.0.0.1" bind_port = "{{.ServerHealth}}" }
`

const agentConf = `
agent {
  server_address = "127.0.0.1"
  server_port = "{{.ServerPort}}"
  trust_domain = "{{.TrustDomain.Name}}"
  trust_bundle_path = "{{.TrustBundlePEM}}"
  data_dir = "{{.Dir}}/agent"
  socket_path = "{{.AgentSocket}}"
  join_token = "{{.JoinToken}}"
  log_level = "WARN"
  experimental { sync_interval = "1s" }
}
plugins {
  KeyManager "memory" { plugin_data {} }
  NodeAttestor "join_token" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
health_checks { listener_enabled = true bind_address = "127.0.0.1" bind_port = "{{.AgentHealth}}" }
`

// StartReal runs a server and an agent until the test ends. What they print is
// shown if the test fails.
func StartReal(t testing.TB, cfg RealConfig) *Real {
	t.Helper()
	dir := t.TempDir()
	// The path of a unix socket has at most 107 bytes: a test's own folder can be too deep.
	sockets, err := os.MkdirTemp("/tmp", "spire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	for _, sub := range []string{"server", "agent"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cfg.CacheReload = cmp.Or(cfg.CacheReload, time.Second)
	c := realConfig{
		RealConfig: cfg, Dir: dir, Datastore: filepath.Join(dir, "server", "datastore.sqlite3"), DatabaseType: "sqlite3",
		ServerPort: loopback.FreePort(t), ServerHealth: loopback.FreePort(t), AgentHealth: loopback.FreePort(t),
		ServerSocket: filepath.Join(sockets, "server.sock"), AgentSocket: filepath.Join(sockets, "agent.sock"),
		TrustBundlePEM: filepath.Join(dir, "bundle.pem"),
	}
	if cfg.Postgres != "" {
		c.Datastore, c.DatabaseType = cfg.Postgres, "postgres"
	}
	server := start(t, c, "spire-server", serverConf, c.ServerHealth)

	conn, err := grpc.NewClient("unix://"+c.ServerSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	roots := trustBundle(t, conn)
	if err := os.WriteFile(c.TrustBundlePEM, roots, 0o600); err != nil {
		t.Fatal(err)
	}
	bundle, err := x509bundle.Parse(cfg.TrustDomain, roots)
	if err != nil {
		t.Fatal(err)
	}
	real := &Real{
		Conn: conn, Bundle: bundle, Datastore: c.Datastore,
		ServerAddr: fmt.Sprintf("127.0.0.1:%d", c.ServerPort), ServerSocket: c.ServerSocket, AgentSocket: c.AgentSocket,
		config: c, server: server,
	}
	if cfg.ServerOnly {
		return real
	}
	agents := agentv1.NewAgentClient(conn)
	token, err := agents.CreateJoinToken(t.Context(), &agentv1.CreateJoinTokenRequest{Ttl: 600})
	if err != nil {
		t.Fatal(err)
	}
	c.JoinToken = token.Value
	start(t, c, "spire-agent", agentConf, c.AgentHealth)

	list, err := agents.ListAgents(t.Context(), &agentv1.ListAgentsRequest{})
	if err != nil || len(list.Agents) != 1 {
		t.Fatalf("agents of the server: %v, %v; want one", list, err)
	}
	real.AgentID = spiffeid.RequireFromPath(cfg.TrustDomain, list.Agents[0].Id.Path)
	return real
}

// trustBundle is the trust domain's roots as PEM.
func trustBundle(t testing.TB, conn grpc.ClientConnInterface) []byte {
	t.Helper()
	bundle, err := bundlev1.NewBundleClient(conn).GetBundle(t.Context(), &bundlev1.GetBundleRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var roots bytes.Buffer
	for _, a := range bundle.X509Authorities {
		if err := pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: a.Asn1}); err != nil {
			t.Fatal(err)
		}
	}
	return roots.Bytes()
}

// start runs a program with its config and returns when it says that it is ready.
func start(t testing.TB, c realConfig, program, conf string, health int) *process {
	t.Helper()
	path := filepath.Join(c.Dir, program+".conf")
	var rendered bytes.Buffer
	if err := template.Must(template.New(program).Parse(conf)).Execute(&rendered, c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, rendered.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return runUntilReady(t, fmt.Sprintf("http://127.0.0.1:%d/ready", health), filepath.Join(c.BinDir, program), "run", "-config", path)
}

// Run starts a program, waits until a GET of ready answers 200, and ends it with the
// test.
func Run(t testing.TB, ready string, argv ...string) {
	t.Helper()
	runUntilReady(t, ready, argv...)
}

type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// kill returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only where it has ended
	<-p.exited
}

func runUntilReady(t testing.TB, ready string, argv ...string) *process {
	t.Helper()
	name := filepath.Base(argv[0])
	var output bytes.Buffer
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p := &process{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(10 * time.Second):
			p.kill()
		}
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, output.Bytes())
		}
	})

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		saw := get(ctx, ready)
		if saw == nil {
			return p
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended before it was ready: %s", name, cmd.ProcessState)
		case <-ctx.Done():
			t.Fatalf("%s is not ready after a minute; last seen: %v", name, saw)
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}

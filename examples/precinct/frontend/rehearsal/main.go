// Command rehearsal runs the frontend on this machine, without a cluster: it is the
// Workload API and a backend that keeps all in memory, and starts a command with the
// frontend's environment.
//
//	go build -o /tmp/frontend ./examples/precinct/frontend
//	go run ./examples/precinct/frontend/rehearsal -- /tmp/frontend
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/frontend/backendtest"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
)

var (
	domain   = spiffeid.RequireTrustDomainFromString("demo.local")
	frontend = spiffeid.RequireFromPath(domain, "/ns/99-apps/sa/frontend")
	backend  = spiffeid.RequireFromPath(domain, "/ns/99-apps/sa/backend")
)

func main() {
	listen := flag.String("listen", "127.0.0.1:3000", "where the site is to be")
	health := flag.String("health", "127.0.0.1:0", "where its health is to be")
	delay := flag.Duration("delay", 1500*time.Millisecond, "how long a denied edge takes")
	denied := flag.Int("denied", 3, "how many denied edges the frontend has, at 3 s each")
	broken := flag.String("broken", "", "DEPENDENCY=DETAIL of the backend")
	wrong := flag.String("wrong", "", "ADDRESS=OUTCOME of one of the backend's edges")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	fake := backendtest.New()
	fake.Delay = *delay
	if name, detail, ok := strings.Cut(*broken, "="); ok {
		fake.Break(name, detail)
	}
	if address, outcome, ok := strings.Cut(*wrong, "="); ok {
		fake.Outcomes = map[string]edge.Outcome{address: edge.Outcome(outcome)}
	}
	if err := run(ctx, fake, *listen, *health, *denied, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "rehearsal:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, fake *backendtest.Fake, listen, health string, denied int, command []string) error {
	if len(command) == 0 {
		return errors.New("usage: rehearsal [flags] -- FRONTEND")
	}
	ca, err := backendtest.NewCA(domain)
	if err != nil {
		return err
	}
	svid, err := ca.SVID(backend, time.Hour)
	if err != nil {
		return err
	}
	self := backendtest.Self{SVID: svid, Bundle: ca.Bundle()}
	fake.SVID = func() identity.Info { return identity.Describe(svid) }
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: fake, ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: tlsconfig.MTLSServerConfig(self, self, tlsconfig.AuthorizeID(frontend)),
	}
	go server.ServeTLS(api, "", "") //nolint:errcheck // ends with the process
	defer func() { _ = server.Close() }()

	dir, err := os.MkdirTemp("", "rehearsal-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "agent.sock")
	go backendtest.ServeAgent(ctx, socket, ca, frontend, 10*time.Minute) //nolint:errcheck // the frontend says what it lacks

	edges, closeEdges, err := frontendEdges(api.Addr().String(), denied)
	if err != nil {
		return err
	}
	defer closeEdges()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(),
		"SPIFFE_ENDPOINT_SOCKET=unix://"+socket,
		"BACKEND_URL=https://"+api.Addr().String(),
		"BACKEND_SPIFFE_ID="+backend.String(),
		"EDGES="+edges,
		"LISTEN="+listen, "HEALTH_LISTEN="+health,
	)
	fmt.Printf("rehearsal: http://%s (jake / jake-precinct99)\n", listen)
	if err := cmd.Run(); ctx.Err() == nil {
		return err
	}
	return nil
}

// frontendEdges are tried for real: the allowed one is this program's backend, the
// denied ones are listeners that never take a connection in.
func frontendEdges(api string, denied int) (text string, closeAll func(), err error) {
	edges := []edge.Edge{{To: "backend", Address: api, Allowed: true}}
	var open []func()
	closeAll = func() {
		for _, c := range open {
			c()
		}
	}
	for _, to := range []string{"githubstub", "postgres", "vault"}[:denied] {
		address, done, err := silent()
		if err != nil {
			closeAll()
			return "", nil, err
		}
		open = append(open, done)
		edges = append(edges, edge.Edge{To: to, Address: address})
	}
	all, err := json.Marshal(edges)
	return string(all), closeAll, err
}

// Command frontend is the site of the precinct-99 demo: pages for a browser, and an
// API on the same origin that goes on to the backend over mTLS. The browser never
// talks to the backend, and the backend to nobody but this program's SPIFFE ID.
//
// It is configured by the environment:
//
//	SPIFFE_ENDPOINT_SOCKET  the Workload API: unix:///run/spire/sockets/agent.sock
//	BACKEND_URL             https://backend.99-apps.svc.cluster.local:8000
//	BACKEND_SPIFFE_ID       who must answer there
//	EDGES                   a JSON array of {"to","address","allowed"}: what the intent says of this pod
//	LISTEN, HEALTH_LISTEN   the site and the plain health port; :3000 and :8080 by default
package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, log); err != nil {
		log.Error("frontend ends", "error", err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	backend, err := url.Parse(os.Getenv("BACKEND_URL"))
	if err != nil || backend.Scheme != "https" || backend.Host == "" {
		return fmt.Errorf("BACKEND_URL must be https://HOST:PORT")
	}
	backendID, err := spiffeid.FromString(os.Getenv("BACKEND_SPIFFE_ID"))
	if err != nil {
		return fmt.Errorf("BACKEND_SPIFFE_ID: %w", err)
	}
	edges, err := edge.Parse("frontend", os.Getenv("EDGES"))
	if err != nil {
		return fmt.Errorf("EDGES: %w", err)
	}
	self, err := identity.Open(ctx, os.Getenv("SPIFFE_ENDPOINT_SOCKET"), log)
	if err != nil {
		return err
	}
	site, err := New(ctx, Config{Backend: backend, BackendID: backendID, Identity: self, Edges: edges, Log: log})
	if err != nil {
		return err
	}
	return service.Run(ctx, service.Config{
		Log:           log,
		Address:       cmp.Or(os.Getenv("LISTEN"), ":3000"),
		HealthAddress: os.Getenv("HEALTH_LISTEN"),
		Handler:       site,
		// The backend is no part of it: without it the pages still say what is wrong.
		Ready: func(context.Context) service.Readiness {
			return service.All(map[string]service.Dependency{"svid": service.Check(self.Check())})
		},
	})
}

// Command githubstub stands in for GitHub's API where there is none to reach.
package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/githubstub/api"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewJSONHandler(os.Stdout, nil))
	if err := run(ctx, log, os.Getenv("SPIFFE_ENDPOINT_SOCKET"), os.Getenv("ALLOWED_CALLERS")); err != nil {
		log.Error("githubstub", "error", err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, workloadAPI, allowed string) error {
	callers, err := identity.ParseIDs(allowed)
	if err != nil {
		return err
	}
	if len(callers) == 0 {
		return errors.New("ALLOWED_CALLERS is not set")
	}
	source, err := identity.Open(ctx, workloadAPI, log)
	if err != nil {
		return err
	}
	defer source.Close()
	return service.Run(ctx, service.Config{
		Log:     log,
		Address: ":8443",
		Handler: api.Handler(time.Now),
		TLS:     identity.ServerTLS(source, callers...),
		Ready: func(context.Context) service.Readiness {
			return service.All(map[string]service.Dependency{"svid": service.Check(source.Check())})
		},
	})
}

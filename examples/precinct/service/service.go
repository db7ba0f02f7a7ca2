// Package service is what every application of the demo needs to run: an HTTP
// server that ends without losing a request, health on a port of its own, a log
// line for each request, and answers in JSON.
package service

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Config says what to serve.
type Config struct {
	Log     *slog.Logger // required
	Address string       // of the application: ":8000"; required unless Listener is set
	Handler http.Handler // required
	TLS     *tls.Config  // nil: plain HTTP

	HealthAddress string                          // ":8080" by default
	Ready         func(context.Context) Readiness // nil: always ready

	// Linger is for how long everything is still served after the end was asked
	// for, while readiness says no already; 2 s by default. Grace is how long
	// requests may take after that; 5 s by default.
	Linger, Grace time.Duration

	// Listeners, instead of addresses. Run closes them.
	Listener, HealthListener net.Listener
}

// Run serves until the context ends, and then ends in good order: readiness turns
// to no, requests are still taken for a while so that whoever has not heard yet
// loses none, and those under way are finished.
func Run(ctx context.Context, c Config) error {
	if c.Log == nil || c.Handler == nil {
		return errors.New("serve: a log and a handler are required")
	}
	if c.HealthAddress == "" {
		c.HealthAddress = ":8080"
	}
	if c.Linger == 0 {
		c.Linger = 2 * time.Second
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	var stopping atomic.Bool
	health := server(Health(func(ctx context.Context) Readiness {
		if stopping.Load() {
			return Readiness{Dependencies: map[string]Dependency{"process": {Detail: "shutting down"}}}
		}
		if c.Ready == nil {
			return Readiness{Ready: true}
		}
		return c.Ready(ctx)
	}), c.Log)
	app := server(Log(c.Log, lastRequest(&stopping, c.Handler)), c.Log)
	app.TLSConfig = c.TLS

	failed := make(chan error, 2)
	start := func(l net.Listener, address string, serve func(net.Listener) error) error {
		if l == nil {
			var err error
			if l, err = net.Listen("tcp", address); err != nil {
				return fmt.Errorf("serve: %w", err)
			}
		}
		go func() { failed <- serve(l) }()
		return nil
	}
	// Health first: whoever starts the process asks it why nothing works yet.
	if err := start(c.HealthListener, c.HealthAddress, health.Serve); err != nil {
		return err
	}
	defer func() { _ = health.Close() }()
	serve := app.Serve
	if c.TLS != nil {
		serve = func(l net.Listener) error { return app.ServeTLS(l, "", "") }
	}
	if err := start(c.Listener, c.Address, serve); err != nil {
		return err
	}
	defer func() { _ = app.Close() }()

	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	stopping.Store(true)
	c.Log.Info("shutting down", "linger", c.Linger.String())
	time.Sleep(c.Linger)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace)
	defer cancel()
	if err := app.Shutdown(grace); err != nil {
		return fmt.Errorf("requests were still under way after %s: %w", c.Grace, err)
	}
	return nil
}

func server(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// lastRequest asks clients, once the end has come, to make their next request on a
// new connection. Closing idle connections instead would race with requests on them.
func lastRequest(stopping *atomic.Bool, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/frontend/backendtest"
)

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// The whole program, started before there is a SPIRE agent.
func TestRun(t *testing.T) {
	w := newWorld(t, backendID)
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listen, health := freeAddress(t), freeAddress(t)
	for name, value := range map[string]string{
		"SPIFFE_ENDPOINT_SOCKET": "unix://" + socket, "BACKEND_URL": w.address(), "BACKEND_SPIFFE_ID": backendID.String(),
		"EDGES": `[{"to":"vault","address":"vault.invalid:8200"}]`, "LISTEN": listen, "HEALTH_LISTEN": health,
	} {
		t.Setenv(name, value)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var ended error
	var running sync.WaitGroup
	running.Go(func() { ended = run(ctx, slog.New(slog.DiscardHandler)) })

	get := func(url string) (int, string) {
		resp, err := http.Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	until := func(url string, status int, text string) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for {
			code, got := get(url)
			if code == status && strings.Contains(got, text) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d %s", url, code, got)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	until("http://"+health+"/health/live", 200, "live")
	until("http://"+health+"/health/ready", 503, `"svid":{"ok":false`)
	until("http://"+listen+"/login", 200, "Sign in")
	until("http://"+listen+"/api/health/ready", 503, "no identity (SVID)")

	go func() {
		if err := backendtest.ServeAgent(ctx, socket, w.ca, frontendID, time.Hour); ctx.Err() == nil {
			t.Error(err)
		}
	}()
	until("http://"+health+"/health/ready", 200, `"svid":{"ok":true}`)
	until("http://"+listen+"/api/health/ready", 200, `"status":"ready"`)

	cancel()
	running.Wait()
	if ended != nil {
		t.Error(ended)
	}
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	good := map[string]string{"BACKEND_URL": "https://backend:8000", "BACKEND_SPIFFE_ID": backendID.String(), "SPIFFE_ENDPOINT_SOCKET": "unix:///none", "EDGES": ""}
	for name, bad := range map[string]string{"BACKEND_URL": "http://backend:8000", "BACKEND_SPIFFE_ID": "backend", "EDGES": "{", "SPIFFE_ENDPOINT_SOCKET": "none"} {
		for other, value := range good {
			t.Setenv(other, value)
		}
		t.Setenv(name, bad)
		err := run(t.Context(), slog.New(slog.DiscardHandler))
		if name == "SPIFFE_ENDPOINT_SOCKET" {
			if err == nil || !strings.Contains(err.Error(), "Workload API") {
				t.Errorf("%s=%s: %v", name, bad, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s=%s: %v", name, bad, err)
		}
	}
}

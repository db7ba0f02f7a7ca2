package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// What is tried again, and what must not be.
func TestPatience(t *testing.T) {
	t.Parallel()
	refused := errors.New("dialling failed")
	for _, tc := range []struct {
		name, method  string
		dials, closes int64 // that fail, and answers that are a closed connection
		reused        bool  // the connection was in use before
		want          string
		seen          int64 // requests that the server read
	}{
		{"GET", "GET", 0, 0, false, "200", 1},
		{"POST", "POST", 0, 0, false, "200 body", 1},
		{"GET, nobody listens at first", "GET", 2, 0, false, "200", 1},
		{"POST, nobody listens at first", "POST", 2, 0, false, "200 body", 1},
		{"GET, nobody listens", "GET", 99, 0, false, refused.Error(), 0},
		{"POST, nobody listens", "POST", 99, 0, false, refused.Error(), 0},
		{"GET, closed instead of an answer", "GET", 0, 2, false, "200", 3},
		{"POST, closed instead of an answer", "POST", 0, 1, false, "EOF", 1},
		{"GET, closed on a used connection", "GET", 0, 1, true, "200", 3},
		{"POST, closed on a used connection", "POST", 0, 1, true, "EOF", 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var dials, closes, seen atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				seen.Add(1)
				text, _ := io.ReadAll(r.Body)
				if r.URL.Path != "/first" && closes.Add(1) <= tc.closes {
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(text)
			}))
			defer server.Close()
			base := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if dials.Add(1) <= tc.dials {
					return nil, refused
				}
				return new(net.Dialer).DialContext(ctx, network, address)
			}}
			defer base.CloseIdleConnections()
			ca := newWorld(t, backendID)
			p := patient{next: base, self: ca.self(frontendID)}
			ask := func(method, path string) string {
				var body io.Reader
				if method == http.MethodPost {
					body = strings.NewReader("body")
				}
				req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := p.RoundTrip(req)
				if err != nil {
					return err.Error()
				}
				defer resp.Body.Close()
				text, _ := io.ReadAll(resp.Body)
				return strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", string(text)))
			}
			if tc.reused {
				if got := ask("GET", "/first"); got != "200" {
					t.Fatal(got)
				}
			}
			if got := ask(tc.method, "/"); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if seen.Load() != tc.seen {
				t.Errorf("the server saw %d requests, want %d", seen.Load(), tc.seen)
			}
		})
	}
}

func TestPatienceEndsWithTheRequest(t *testing.T) {
	w := newWorld(t, backendID)
	w.back.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", w.site.URL+"/api/health/ready", nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err == nil {
		resp.Body.Close()
		t.Fatal("answered")
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %s", took)
	}
}

// gate is the address of a service: each new connection goes to whichever pod stands
// behind it now, and one that is there stays with its pod.
type gate struct {
	net.Listener
	pod atomic.Pointer[string]
}

func openGate(t *testing.T) *gate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Listener: l}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", *g.pod.Load())
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					_, _ = io.Copy(out, in)
					_ = out.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(in, out)
			}()
		}
	}()
	return g
}

// A rollout of the backend under load loses no request, whatever its method.
func TestBackendsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, backendID)
	g := openGate(t)
	pod := func() (stop func()) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		health, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() {
			if err := service.Run(ctx, service.Config{
				Log: slog.New(slog.DiscardHandler), Handler: w.fake, TLS: identity.ServerTLS(w.self(backendID), frontendID),
				Listener: l, HealthListener: health, Linger: 300 * time.Millisecond,
			}); err != nil {
				t.Error(err)
			}
		})
		g.pod.Store(&address)
		return func() { cancel(); done.Wait() }
	}
	stop := pod()
	w.open(w.self(frontendID), "https://"+g.Addr().String())
	session := w.signIn()

	ctx, cancel := context.WithCancel(t.Context())
	var asked atomic.Int64
	var load sync.WaitGroup
	for i := range 8 {
		load.Go(func() {
			for ctx.Err() == nil {
				var got answer
				if i%2 == 0 {
					got = w.ask("GET", "/dashboard", "", session)
				} else {
					got = w.ask("POST", "/api/demo/rotate", "{}", session)
				}
				if asked.Add(1); got.StatusCode != http.StatusOK {
					t.Errorf("%s %s: %s", got.Request.Method, got.Status, got.text)
				}
			}
		})
	}
	for range 4 {
		before := asked.Load()
		next := pod()
		stop()
		stop = next
		for asked.Load() < before+50 {
			time.Sleep(time.Millisecond)
		}
	}
	cancel()
	load.Wait()
	stop()
	t.Logf("%d requests over 4 rollouts", asked.Load())
}

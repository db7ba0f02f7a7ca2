package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *buffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *buffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// running is a service under test.
type running struct {
	app, health string
	end         context.CancelFunc
	ended       chan error
}

func run(t *testing.T, c Config) *running {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	c.Listener, c.HealthListener = listen(), listen()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{app: "http://" + c.Listener.Addr().String(), health: "http://" + c.HealthListener.Addr().String(), end: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- Run(ctx, c) }()
	return r
}

func get(t *testing.T, url string) (int, string, http.Header) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body), resp.Header
}

// When the end is asked for, readiness says no first, requests are still taken, and
// what is under way is finished.
func TestTheEndLosesNothing(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/quick", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "quick") })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-finish
		fmt.Fprint(w, "slow")
	})
	s := run(t, Config{Handler: mux, Linger: 500 * time.Millisecond})
	if status, _, _ := get(t, s.health+"/health/ready"); status != 200 {
		t.Fatalf("ready: %d", status)
	}
	slow := make(chan string, 1)
	go func() {
		_, body, _ := get(t, s.app+"/slow")
		slow <- body
	}()
	<-begun
	s.end()
	for {
		status, body, _ := get(t, s.health+"/health/ready")
		if status == 503 {
			if !strings.Contains(body, "shutting down") {
				t.Errorf("not ready: %s", body)
			}
			break
		}
	}
	if status, _, _ := get(t, s.health+"/health/live"); status != 200 {
		t.Errorf("live: %d", status)
	}
	if status, body, _ := get(t, s.app+"/quick"); status != 200 || body != "quick" {
		t.Errorf("a late request: %d %s", status, body)
	}
	time.Sleep(600 * time.Millisecond)
	close(finish)
	if got := <-slow; got != "slow" {
		t.Errorf("what was under way: %q", got)
	}
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	if resp, err := http.Get(s.app + "/quick"); err == nil {
		resp.Body.Close()
		t.Error("it is served for ever")
	}
}

func TestARequestThatNeverEnds(t *testing.T) {
	begun := make(chan struct{})
	s := run(t, Config{Linger: time.Millisecond, Grace: 50 * time.Millisecond, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
	})})
	go http.Get(s.app)
	<-begun
	s.end()
	if err := <-s.ended; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestWhatCannotBeServed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]Config{
		"nothing":                {},
		"the port is taken":      {Log: log, Handler: http.NotFoundHandler(), HealthAddress: "127.0.0.1:0", Address: taken.Addr().String()},
		"health's port is taken": {Log: log, Handler: http.NotFoundHandler(), HealthAddress: taken.Addr().String(), Address: "127.0.0.1:0"},
	} {
		if err := Run(t.Context(), c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestReady(t *testing.T) {
	h := Health(func(context.Context) Readiness {
		return All(map[string]Dependency{"vault": Check(errors.New("sealed")), "svid": Check(nil)})
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/health/ready", nil))
	want := `{"dependencies":{"svid":{"ok":true},"vault":{"ok":false,"detail":"sealed"}},"status":"not ready"}`
	if got := strings.TrimSpace(w.Body.String()); w.Code != 503 || got != want {
		t.Errorf("%d %s", w.Code, got)
	}
}

// The log line tells what was asked and nothing that could be a secret.
func TestLog(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /users/{id}", func(w http.ResponseWriter, r *http.Request) {
		Error(w, r, http.StatusTeapot, "no")
	})
	var out buffer
	h := Log(slog.New(slog.NewJSONHandler(&out, nil)), mux)
	r := httptest.NewRequest("POST", "/users/path-secret?token=query-secret", strings.NewReader("body-secret"))
	r.Header.Set("Cookie", "s=cookie-secret")
	r.Header.Set("Authorization", "Bearer header-secret")
	r.Header.Set("X-Request-Id", "chosen-by-anybody")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	var line struct {
		Msg, Method, Pattern string
		Status               int
		Seconds              float64
		ID                   string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil {
		t.Fatal(err)
	}
	if line.Msg != "request" || line.Method != "POST" || line.Pattern != "POST /users/{id}" || line.Status != 418 || line.Seconds <= 0 {
		t.Errorf("line %s", out.String())
	}
	if strings.Contains(out.String(), "secret") || line.ID == "chosen-by-anybody" {
		t.Errorf("line %s", out.String())
	}
	if w.Header().Get("X-Request-Id") != line.ID || !strings.Contains(w.Body.String(), line.ID) {
		t.Errorf("the answer %s does not name request %s", w.Body, line.ID)
	}
}

func TestPanic(t *testing.T) {
	var out buffer
	s := run(t, Config{Log: slog.New(slog.NewJSONHandler(&out, nil)), Linger: time.Millisecond, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			fmt.Fprint(w, "begun")
		}
		panic("at the disco")
	})})
	defer s.end()
	// The answer is whole, or visibly not.
	if resp, err := http.Get(s.app + "/early"); err == nil {
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 500 || strings.Contains(string(body), "disco") || strings.Contains(string(body), "goroutine") {
			t.Errorf("early: %d %s", resp.StatusCode, body)
		}
	} else {
		t.Errorf("early: %v", err)
	}
	resp, err := http.Post(s.app+"/late", "", nil) // a GET would be repeated
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("half an answer looks whole")
	}
	if n := strings.Count(out.String(), `"msg":"panic"`); n != 2 {
		t.Errorf("%d panics in the log:\n%s", n, out.String())
	}
}

func TestPlain(t *testing.T) {
	for id, want := range map[string]bool{"": false, "A1-b": true, "a b": false, "a\nb": false, strings.Repeat("a", 65): false} {
		if plain(id) != want {
			t.Errorf("%q: %v", id, !want)
		}
	}
}

func ExampleHealth() {
	w := httptest.NewRecorder()
	Health(func(context.Context) Readiness {
		return All(map[string]Dependency{"database": {Detail: "not reachable"}})
	}).ServeHTTP(w, httptest.NewRequest("GET", "/health/ready", nil))
	fmt.Print(w.Code, " ", w.Body)
	// Output: 503 {"dependencies":{"database":{"ok":false,"detail":"not reachable"}},"status":"not ready"}
}

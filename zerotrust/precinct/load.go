package precinct

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"sync"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// The demo login, and a token that the GitHub stand-in takes.
const (
	demoUser     = "jake"
	demoPassword = "jake-precinct99"
	demoToken    = "ghp_demo_drill" // #nosec: the stand-in takes any ghp_demo_…
)

// Site uses the running site through its API, as its users' browsers do. It is for
// drills: see zerotrust.Site. It is safe for concurrent use.
type Site struct {
	url    string
	client *http.Client

	mu       sync.Mutex
	signedIn bool
}

// NewSite is for the site at url, "http://127.0.0.1:3000".
func NewSite(url string) *Site {
	jar, _ := cookiejar.New(nil) // fails never
	return &Site{url: url, client: &http.Client{Jar: jar, Timeout: 5 * time.Second}}
}

// answer is what all of the API's answers have in common.
type answer struct {
	Error   string `json:"error"`
	OldUser string `json:"old_user"`
	NewUser string `json:"new_user"`
	OldGone bool   `json:"old_gone"`

	ServerUser string `json:"server_user"` // whom the database takes the backend for
}

// refusedError is an answer other than 2xx.
type refusedError struct {
	method, path, said string
	status             int
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("%s %s: %d %s %s", e.method, e.path, e.status, http.StatusText(e.status), e.said)
}

// call sends one request and wants status 2xx.
func (s *Site) call(ctx context.Context, method, path string, body any) (answer, error) {
	var a answer
	var payload io.Reader
	if body != nil {
		doc, err := json.Marshal(body)
		if err != nil {
			return a, err
		}
		payload = bytes.NewReader(doc)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, payload)
	if err != nil {
		return a, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return a, fmt.Errorf("%s %s: %w", method, path, err)
	}
	// An error page of somebody between is told by its status alone.
	_ = json.Unmarshal(data, &a)
	if resp.StatusCode/100 != 2 {
		return a, &refusedError{method: method, path: path, said: a.Error, status: resp.StatusCode}
	}
	return a, nil
}

// signIn signs in as the demo user, once.
func (s *Site) signIn(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.signedIn {
		return nil
	}
	err := s.signInAnew(ctx)
	s.signedIn = err == nil
	return err
}

func (s *Site) signInAnew(ctx context.Context) error {
	_, err := s.call(ctx, http.MethodPost, "/api/auth/login", map[string]string{"username": demoUser, "password": demoPassword})
	return err
}

// Round signs in anew (PostgreSQL, Vault's user of it), asks who that is, stores a GitHub
// token (Vault's KV store), and reads repositories with it (the GitHub stand-in).
func (s *Site) Round(ctx context.Context) error {
	for _, step := range []struct {
		method, path string
		body         any
	}{
		{http.MethodPost, "/api/auth/login", map[string]string{"username": demoUser, "password": demoPassword}},
		{http.MethodGet, "/api/auth/me", nil},
		{http.MethodPost, "/api/github/configure", map[string]string{"token": demoToken}},
		{http.MethodGet, "/api/github/repos", nil},
		{http.MethodGet, "/api/health/ready", nil},
	} {
		if _, err := s.call(ctx, step.method, step.path, step.body); err != nil {
			return err
		}
	}
	return nil
}

// loadInterval is the time between two requests of a load: 20 a second.
const loadInterval = 50 * time.Millisecond

// Load asks who is signed in, 20 times a second, each time through frontend, backend and
// PostgreSQL, until stop is called. Requests do not wait for each other.
func (s *Site) Load(ctx context.Context) (stop func() (requests, failed int, first error)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var mu sync.Mutex
	var requests, failed int
	var first error
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		requests++
		if err == nil {
			return
		}
		failed++
		if first == nil {
			first = err
		}
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.signIn(ctx); err != nil {
			note(err)
			return
		}
		ticker := time.NewTicker(loadInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				running.Go(func() {
					// What was begun is ended, also after the stop.
					_, err := s.call(context.WithoutCancel(ctx), http.MethodGet, "/api/auth/me", nil)
					note(err)
				})
			}
		}
	})
	return func() (int, int, error) {
		cancel()
		running.Wait()
		mu.Lock()
		defer mu.Unlock()
		return requests, failed, first
	}
}

// RotationCheck changes the backend's database user many times in a row under load:
// each time another user, the old one gone, and no request fails.
func RotationCheck(site *Site, times int) phase.Check {
	return phase.Check{
		Name: fmt.Sprintf("%d rotations under load", times),
		Doc:  "The backend's database user is changed again and again while users are at work: no request fails, and each old user is gone.",
		Hint: "kubectl -n 99-apps logs deploy/backend; kubectl -n 99-vault logs vault-0 -c vault",
		Run: func(ctx context.Context) (phase.Evidence, error) {
			ev := phase.Evidence{Want: fmt.Sprintf("%d changes, no failed request", times), Source: "the site's own API"}
			if err := site.signIn(ctx); err != nil {
				return ev, err
			}
			stop := site.Load(ctx)
			users := map[string]bool{}
			var wrong []error
			began := time.Now()
			for range times {
				a, err := site.call(ctx, http.MethodPost, "/api/demo/rotate", struct{}{})
				switch {
				case err != nil:
					wrong = append(wrong, err)
				case a.NewUser == "" || a.NewUser == a.OldUser || users[a.NewUser]:
					wrong = append(wrong, fmt.Errorf("%q became %q", a.OldUser, a.NewUser))
				case !a.OldGone:
					wrong = append(wrong, fmt.Errorf("%s is still there", a.OldUser))
				}
				users[a.NewUser] = true
			}
			took := time.Since(began)
			requests, failed, first := stop()
			ev.Got = fmt.Sprintf("%d changes in %.1f s, %d requests, %d failed", times-len(wrong), took.Seconds(), requests, failed)
			if failed > 0 {
				wrong = append(wrong, fmt.Errorf("the first failed request: %w", first))
			}
			if requests < times {
				wrong = append(wrong, fmt.Errorf("%d requests are no load", requests))
			}
			if len(wrong) > 0 {
				return ev, phase.Failf("%s: %w", ev.Got, errors.Join(wrong...))
			}
			return ev, nil
		},
	}
}

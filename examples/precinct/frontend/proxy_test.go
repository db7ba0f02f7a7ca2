package main

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

func TestTheEightRoutes(t *testing.T) {
	w := newWorld(t, backendID)
	w.want(w.ask("GET", "/api/auth/me", ""), 401, "not signed in")
	w.want(w.ask("POST", "/api/auth/login", `{"username":"jake","password":"no"}`), 401, "invalid username or password")
	in := w.ask("POST", "/api/auth/login", `{"username":"jake","password":"jake-precinct99"}`)
	w.want(in, 200, "Login successful")
	cookies := in.Header["Set-Cookie"]
	if len(cookies) != 1 || !strings.Contains(cookies[0], "HttpOnly; SameSite=Lax") {
		t.Fatalf("cookies %q", cookies)
	}
	session := "Cookie: " + strings.Split(cookies[0], ";")[0]
	w.want(w.ask("GET", "/api/auth/me", "", session), 200, `"username":"jake"`)
	w.want(w.ask("GET", "/api/github/user", "", session), 404, "no GitHub token stored")
	w.want(w.ask("POST", "/api/github/configure", `{"token":"ghp_demo_1"}`, session), 200, "GitHub token stored")
	w.want(w.ask("GET", "/api/github/user", "", session), 200, `"login":"jake"`)
	w.want(w.ask("GET", "/api/github/repos?page=2&per_page=10", "", session), 200, `"next_page":0`, "die-hard-quotes-3")
	w.want(w.ask("GET", "/api/health/ready", ""), 200, `"status":"ready"`)
	w.want(w.ask("POST", "/api/auth/logout", "", session), 200, "Logged out")
	w.want(w.ask("GET", "/api/auth/me", "", session), 401, "not signed in")
	w.want(w.ask("POST", "/api/auth/register", `{"username":"amy","email":"amy@precinct99.example","password":"binders-binders"}`), 201, `"username":"amy"`)
	w.fake.Break("vault", "sealed")
	w.want(w.ask("GET", "/api/health/ready", ""), 503, `"sealed"`)
}

func TestOnlyWhatIsNeededTravels(t *testing.T) {
	w := newWorld(t, backendID)
	session := w.signIn()
	got := w.ask("GET", "/api/github/repos?page=1&admin=1&per_page=2&page=7", "",
		session+"; tracking=1", "Authorization: Bearer x", "X-Forwarded-For: 10.0.0.1", "X-Forwarded-Host: evil.example", "Forwarded: for=10.0.0.1",
		"X-Request-Id: chosen-outside", "Connection: keep-alive, X-Evil", "X-Evil: 1", "Te: trailers", "Upgrade: websocket", "Accept: application/json", "User-Agent: browser")
	seen := w.fake.Seen()
	last := seen[len(seen)-1]
	id := last.Header.Get("X-Request-Id")
	last.Header.Del("X-Request-Id")
	want := http.Header{"Accept": {"application/json"}, "Cookie": {strings.TrimPrefix(session, "Cookie: ")}, "User-Agent": {"precinct-frontend"}, "Accept-Encoding": {"gzip"}}
	if len(last.Header) != len(want) {
		t.Errorf("the backend saw %v", last.Header)
	}
	for name := range want {
		if last.Header.Get(name) != want.Get(name) {
			t.Errorf("the backend saw %s %q, want %q", name, last.Header[name], want[name])
		}
	}
	if last.URL.RawQuery != "page=1&per_page=2" {
		t.Errorf("the backend saw the query %q", last.URL.RawQuery)
	}
	if id == "" || id == "chosen-outside" || id != got.Header.Get("X-Request-Id") {
		t.Errorf("request ID %q there, %q here", id, got.Header.Get("X-Request-Id"))
	}
	if got.Header.Get("Server") != "" || len(got.Cookies()) != 0 {
		t.Errorf("the browser saw %v", got.Header)
	}
}

func TestOnlyTheRoutesAreProxied(t *testing.T) {
	w := newWorld(t, backendID)
	before := len(w.fake.Seen())
	for _, tc := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/api/auth/login", 405, "POST"},
		{"DELETE", "/api/demo/edges", 405, "GET, POST"},
		{"GET", "/api/", 404, ""},
		{"GET", "/api/admin", 404, ""},
		{"GET", "/api/auth/me/", 404, ""},
		{"GET", "/health/ready", 404, ""},
		{"POST", "/dashboard", 405, "GET"},
		{"PUT", "/login", 405, "GET, POST"},
		{"GET", "/logout", 405, "POST"},
	} {
		got := w.ask(tc.method, tc.path, "")
		w.want(got, tc.status)
		if got.Header.Get("Allow") != tc.allow {
			t.Errorf("%s %s: allow %q, want %q", tc.method, tc.path, got.Header.Get("Allow"), tc.allow)
		}
		if api := strings.HasPrefix(tc.path, "/api/"); api != (got.json("error") != nil) {
			t.Errorf("%s %s: %s", tc.method, tc.path, got.text)
		}
	}
	if after := len(w.fake.Seen()); after != before {
		t.Errorf("%d requests went on to the backend", after-before)
	}
}

func TestABodyThatIsTooLarge(t *testing.T) {
	w := newWorld(t, backendID)
	session := w.signIn()
	big := strings.Repeat("x", 64<<10)
	before := len(w.fake.Seen())
	w.want(w.ask("POST", "/api/auth/login", `{"username":"`+big+`"}`), 413, "larger than 64 KiB", "request_id")
	w.want(w.ask("POST", "/api/demo/frontend/edges", `{"address":"`+big+`"}`, session), 413, "larger than 64 KiB")
	w.want(w.ask("POST", "/login", "username="+big), 413, "Too large", "<h1")
	if after := len(w.fake.Seen()); after != before {
		t.Errorf("%d requests went on to the backend", after-before)
	}
}

// nobody has no identity.
type nobody struct{}

var errNobody = errors.New("no identity is registered for this workload yet")

func (nobody) GetX509SVID() (*x509svid.SVID, error) { return nil, errNobody }
func (nobody) GetX509BundleForTrustDomain(spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return nil, errNobody
}

// Whatever is wrong behind it, the site says so in plain words, to scripts and to
// people, and tells nothing of addresses.
func TestNoBackend(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		spoil  func(*world)
		status int
		says   string
	}{
		{"gone", func(w *world) { w.back.Close() }, 503, "does not answer"},
		{"an impostor", func(w *world) {}, 502, "could not prove to be the backend"},
		{"no identity here", func(w *world) { w.open(nobody{}, w.address()) }, 503, errNobody.Error()},
		{"another trust root here", func(w *world) {
			other := newWorld(w.t, backendID)
			w.open(other.self(frontendID), w.address())
		}, 502, "could not prove to be the backend"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			as := backendID
			if tc.name == "an impostor" {
				as = spiffeid.RequireFromPath(testDomain, "/ns/99-apps/sa/githubstub")
			}
			w := newWorld(t, as)
			tc.spoil(w)
			host := w.back.Listener.Addr().String()
			for _, got := range []answer{
				w.ask("POST", "/api/auth/login", `{"username":"jake","password":"jake-precinct99"}`),
				w.ask("GET", "/api/health/ready", ""),
				w.ask("GET", "/api/demo/frontend/svid", "", "Cookie: precinct_session=x"),
				w.ask("GET", "/dashboard", "", "Cookie: precinct_session=x"),
				w.ask("POST", "/github", "token=x", "Cookie: precinct_session=x"),
				w.ask("POST", "/logout", "x=y", "Cookie: precinct_session=x"),
				w.ask("POST", "/login", "username=jake&password=jake-precinct99"),
			} {
				w.want(got, tc.status, tc.says)
				if api := strings.HasPrefix(got.Request.URL.Path, "/api/"); api != (got.json("request_id") != nil) {
					t.Errorf("%s: %s", got.Request.URL.Path, got.text)
				}
				if strings.Contains(got.text, host) || strings.Contains(got.text, "dial tcp") || strings.Contains(got.text, "x509") {
					t.Errorf("%s tells too much: %s", got.Request.URL.Path, got.text)
				}
				if tc.status == 503 && got.Header.Get("Retry-After") == "" {
					t.Errorf("%s: no Retry-After", got.Request.URL.Path)
				}
			}
			if tc.name != "gone" && len(w.fake.Seen()) != 0 {
				t.Error("a request got through")
			}
			// Signing in can still be looked at.
			w.want(w.ask("GET", "/login", ""), 200, "Sign in")
		})
	}
}

// The backend lets nobody in but the frontend, and that does not look like success.
func TestTheBackendRefusesOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, backendID)
	w.open(w.self(spiffeid.RequireFromPath(testDomain, "/ns/99-apps/sa/githubstub")), w.address())
	w.want(w.ask("GET", "/api/health/ready", ""), 503, "does not answer")
	if len(w.fake.Seen()) != 0 {
		t.Error("a request got through")
	}
}

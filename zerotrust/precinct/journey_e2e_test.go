//go:build e2e

package precinct

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// built are the frontend and its rehearsal, as programs.
var built = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "precinct-e2e-"); err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir, "../../examples/precinct/frontend", "../../examples/precinct/frontend/rehearsal").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := built(); err == nil {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// rehearse runs the frontend against its fake backend and tells where the site is.
func rehearse(t *testing.T, flags ...string) *url.URL {
	t.Helper()
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	args := append(flags, "-listen", address, "-delay", "50ms", "--", filepath.Join(dir, "frontend"))
	cmd := exec.Command(filepath.Join(dir, "rehearsal"), args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	site := &url.URL{Scheme: "http", Host: address}
	deadline := time.Now().Add(20 * time.Second)
	for {
		resp, err := http.Get(site.String() + "/api/health/ready")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return site
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("the site does not come up: %v\n%s", err, said.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// change is what becomes of an answer's header and body; it knows the path.
type change func(h http.Header, path, body string) string

// spoiled stands in front of the site and changes what it answers.
func spoiled(t *testing.T, site *url.URL, instead func(http.ResponseWriter, *http.Request) bool, change change) string {
	t.Helper()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(site)
			r.Out.Host = r.In.Host // the site compares it with the origin
			r.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(resp *http.Response) error {
			if change == nil {
				return nil
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			text := change(resp.Header, resp.Request.URL.Path, string(body))
			resp.Body, resp.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
			resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
			return nil
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if instead != nil && instead(w, r) {
			return
		}
		// Read whole before it is sent on: net/http closes the body of a request once it is
		// being answered, and the proxy would break off what it is still sending.
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// outcomes runs the checks as a phase does, all at once.
func outcomes(t *testing.T, b Browser) map[string]phase.CheckResult {
	t.Helper()
	r, _ := phase.Run(t.Context(), []*phase.Phase{FrontendProxy(b, nil)}, nil)
	all := map[string]phase.CheckResult{}
	for _, c := range r.Phases[0].Checks {
		all[c.Name] = c
	}
	return all
}

func TestE2EJourney(t *testing.T) {
	site := rehearse(t)
	shots := t.TempDir()
	before, _ := filepath.Glob(filepath.Join(os.TempDir(), "chromedp-runner*"))
	f := FrontendProxy(Browser{URL: site.String() + "/", ScreenshotDir: filepath.Join(shots, "made")}, nil)
	// The second run makes a journey of its own.
	for range 2 {
		r, err := phase.Run(t.Context(), []*phase.Phase{f}, nil)
		for _, c := range r.Phases[0].Checks {
			t.Logf("%s: %s: %s\n\t%s", c.Name, c.Status, c.Evidence.Got, strings.Join(c.Evidence.Details, "\n\t"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, page := range []string{"login", "register", "dashboard", "github-no-token", "github", "security"} {
		for _, l := range looks {
			file, err := os.Open(filepath.Join(shots, "made", page+"-"+l.name+".png"))
			if err != nil {
				t.Error(err)
				continue
			}
			image, err := png.Decode(file)
			file.Close()
			if err != nil || image.Bounds().Dx() != int(l.width) || image.Bounds().Dy() < 500 {
				t.Errorf("%s: %v, %v", file.Name(), err, image.Bounds())
			}
		}
	}
	after, _ := filepath.Glob(filepath.Join(os.TempDir(), "chromedp-runner*"))
	if len(after) > len(before) {
		t.Errorf("the browser left %v", after)
	}
}

func TestE2ENoBrowser(t *testing.T) {
	installs := 0
	f := FrontendProxy(Browser{URL: "http://127.0.0.1:1", Exec: "no-such-browser"}, func(context.Context) error { installs++; return nil })
	r, err := phase.Run(t.Context(), []*phase.Phase{f}, nil)
	for _, c := range r.Phases[0].Checks {
		if c.Status != phase.Unknown || !strings.Contains(c.Err.Error(), "apt-get install chromium") {
			t.Errorf("%s: %s, %v", c.Name, c.Status, c.Err)
		}
	}
	if err == nil || installs != 1 {
		t.Errorf("%v, %d installs", err, installs)
	}
}

// Each check goes red for what it is there for, and for nothing else.
func TestE2EChecksCanFail(t *testing.T) {
	elsewhere := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(elsewhere.Close)
	// inject puts something at the end of a page.
	inject := func(page, text string, policy bool) change {
		return func(h http.Header, path, body string) string {
			if path != page {
				return body
			}
			if !policy {
				h.Del("Content-Security-Policy")
			}
			return strings.Replace(body, "</body>", text+"</body>", 1)
		}
	}
	// replace changes a page, or an asset by its beginning.
	replace := func(at, old, text string) change {
		return func(_ http.Header, path, body string) string {
			if path != at && !(strings.HasPrefix(at, "/assets/") && strings.HasPrefix(path, at)) {
				return body
			}
			return strings.ReplaceAll(body, old, text)
		}
	}
	setCookie := func(old, text string) change {
		return func(h http.Header, _, body string) string {
			for i, c := range h["Set-Cookie"] {
				h["Set-Cookie"][i] = strings.Replace(c, old, text, 1)
			}
			return body
		}
	}
	// answers gives a path another answer.
	answers := func(method, path string, status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != method || r.URL.Path != path {
				return false
			}
			kind := "text/html"
			if strings.HasPrefix(body, "{") {
				kind = "application/json"
			}
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	for _, tc := range []struct {
		name    string
		flags   []string
		instead func(http.ResponseWriter, *http.Request) bool
		change  change
		red     map[string]string // by check: what its error says
	}{
		{"nothing", nil, nil, nil, nil},
		{"cookie without HttpOnly", nil, nil, setCookie("; HttpOnly", ""), map[string]string{"login cookie": "is not HttpOnly"}},
		{"cookie without SameSite", nil, nil, setCookie("; SameSite=Lax", ""), map[string]string{"login cookie": `SameSite ""`}},
		{"cookie for one page", nil, nil, setCookie("Path=/", "Path=/dashboard"), map[string]string{
			"login cookie": "no cookie was set", "security page": "", "API routes": "", "GitHub page": "", "signed out": "", "console clean": "", "same origin": "", "phone and labels": ""}},
		{"image from elsewhere", nil, nil, inject("/dashboard", `<img src="`+elsewhere.URL+`/x" alt="">`, false), map[string]string{
			"same origin": "to another origin: GET " + elsewhere.URL, "console clean": ""}},
		{"preflight", nil, nil, inject("/dashboard", `<script>fetch("`+elsewhere.URL+`/y", {method: "PUT"}).catch(() => {})</script>`, false), map[string]string{
			"same origin": "OPTIONS " + elsewhere.URL, "console clean": ""}},
		{"error on the console", nil, nil, replace("/assets/site.", `"use strict";`, `console.error("oops");`), map[string]string{"console clean": "oops"}},
		{"uncaught error", nil, nil, replace("/assets/site.", `"use strict";`, `setTimeout(() => { throw new Error("dropped") });`), map[string]string{"console clean": "dropped"}},
		{"inline script", nil, nil, inject("/login", `<script>document.title = "x"</script>`, true), map[string]string{"console clean": "Content Security Policy"}},
		{"missing file", nil, nil, inject("/register", `<script src="/assets/none.js"></script>`, true), map[string]string{"console clean": "404"}},
		{"page without a guard", nil, func(w http.ResponseWriter, r *http.Request) bool {
			_, err := r.Cookie("precinct_session")
			return err != nil && answers("GET", "/security", 200, "<title>x</title>welcome")(w, r)
		}, nil, map[string]string{"signed out": "/security led to /security"}},
		{"no word on a wrong password", nil, nil, replace("/login", `role="alert"`, ``), map[string]string{"signed out": "a wrong password"}},
		{"route that fails", nil, answers("GET", "/api/github/user", 404, `{"error":"x"}`), nil, map[string]string{
			"API routes": "user: GET /api/github/user answered 404, want 200", "console clean": "404"}},
		{"route that is a page", nil, answers("GET", "/api/health/ready", 200, `<p>"status":"ready"`), nil, map[string]string{"API routes": "text/html"}},
		{"one page of repositories", nil, nil, replace("/github", `rel="next"`, ``), map[string]string{"GitHub page": "1 pages"}},
		{"a denied edge that connects", []string{"-wrong", "frontend.99-apps.svc.cluster.local:3000=connected"}, nil, nil, map[string]string{"security page": "backend → frontend"}},
		{"an allowed edge that does not", []string{"-wrong", "postgres.99-data.svc.cluster.local:5432=timeout"}, nil, nil, map[string]string{"security page": "backend → postgres"}},
		{"a denied edge by a name that is unknown", []string{"-wrong", "frontend.99-apps.svc.cluster.local:3000=name"}, nil, nil, map[string]string{"security page": "backend → frontend"}},
		{"a verdict that is painted on", nil, nil, replace("/assets/security.", `case "timeout": return ["match"`, `case "timeout": return ["mismatch"`), map[string]string{"security page": "vault.99-vault"}},
		{"rotation of nothing", nil, answers("POST", "/api/demo/rotate", 200, `{"old_user":"a","new_user":"b","old_gone":true,"seconds":0.1}`), nil, map[string]string{"security page": "the database user was"}},
		{"clocks that stand still", nil, nil, replace("/assets/security.", `setInterval(tick, 1000);`, ``), map[string]string{
			"security page": "remaining life", "API routes": "", "GitHub page": "", "signed out": "", "console clean": "", "same origin": "", "phone and labels": ""}},
		{"too wide for a phone", nil, nil, replace("/assets/site.", `main:focus {`, `main { min-width: 700px } main:focus {`), map[string]string{"phone and labels": "needs 700 px"}},
		{"field without a label", nil, nil, replace("/register", `<label for="email">Email</label>`, ``), map[string]string{"phone and labels": "register: no name for"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			site := rehearse(t, append(tc.flags, "-denied", "1")...)
			got := outcomes(t, Browser{URL: spoiled(t, site, tc.instead, tc.change)})
			for name, c := range got {
				says, red := tc.red[name]
				switch {
				case !red && c.Status != phase.Passed:
					t.Errorf("%s: %s: %v", name, c.Status, c.Err)
				case red && c.Status == phase.Passed:
					t.Errorf("%s passed", name)
				case red && says != "" && (c.Status != phase.Failed || !strings.Contains(c.Err.Error(), says)):
					t.Errorf("%s: %s: %v, want a failure with %q", name, c.Status, c.Err, says)
				}
			}
			if len(got) != 8 {
				t.Errorf("%d checks", len(got))
			}
		})
	}
}

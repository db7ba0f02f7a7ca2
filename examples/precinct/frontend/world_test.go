package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/frontend/backendtest"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

var (
	testDomain = spiffeid.RequireTrustDomainFromString("demo.local")
	frontendID = spiffeid.RequireFromPath(testDomain, "/ns/99-apps/sa/frontend")
	backendID  = spiffeid.RequireFromPath(testDomain, "/ns/99-apps/sa/backend")
)

// world is the site in front of a fake backend, with real mTLS in between.
type world struct {
	t    *testing.T
	ca   *backendtest.CA
	fake *backendtest.Fake
	back *httptest.Server
	site *httptest.Server
	log  *bytes.Buffer
}

// newWorld has a backend that shows the ID as.
func newWorld(t *testing.T, as spiffeid.ID) *world {
	t.Helper()
	ca, err := backendtest.NewCA(testDomain)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ca: ca, fake: backendtest.New(), log: new(bytes.Buffer)}
	w.back = httptest.NewUnstartedServer(w.fake)
	w.back.Listener = tls.NewListener(w.back.Listener, identity.ServerTLS(w.self(as), frontendID))
	w.back.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	w.back.Start()
	t.Cleanup(w.back.Close)
	w.open(w.self(frontendID), w.address())
	return w
}

// address is the backend's.
func (w *world) address() string { return "https://" + w.back.Listener.Addr().String() }

func (w *world) self(id spiffeid.ID) backendtest.Self {
	w.t.Helper()
	svid, err := w.ca.SVID(id, time.Hour)
	if err != nil {
		w.t.Fatal(err)
	}
	return backendtest.Self{SVID: svid, Bundle: w.ca.Bundle()}
}

// open starts the site with an identity and an address of the backend.
func (w *world) open(self identity.X509, backend string) {
	w.t.Helper()
	u, err := url.Parse(backend)
	if err != nil {
		w.t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	h, err := New(w.t.Context(), Config{Backend: u, BackendID: backendID, Identity: self, Log: log, Edges: edge.List{
		From: "frontend", Edges: []edge.Edge{{To: "backend", Address: u.Host, Allowed: true}, {To: "vault", Address: "vault.invalid:8200"}},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.site = httptest.NewServer(service.Log(log, h))
	w.t.Cleanup(w.site.Close)
}

// answer is a response with its body read.
type answer struct {
	*http.Response
	text string
}

// json is a field of the body, of an object in an object by a dot.
func (a answer) json(name string) any {
	var v any
	_ = json.Unmarshal([]byte(a.text), &v)
	for part := range strings.SplitSeq(name, ".") {
		o, _ := v.(map[string]any)
		v = o[part]
	}
	return v
}

// ask sends a request and follows no redirect. A body that begins with { is JSON, any
// other is a form's. Headers are "Name: value".
func (w *world) ask(method, path, body string, headers ...string) answer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.site.URL+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	switch {
	case strings.HasPrefix(body, "{"):
		req.Header.Set("Content-Type", "application/json")
	case body != "":
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, h := range headers {
		if name, value, ok := strings.Cut(h, ": "); ok {
			req.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{resp, string(text)}
}

// signIn is the Cookie header of a new session of jake's.
func (w *world) signIn() string {
	w.t.Helper()
	got := w.ask("POST", "/login", "username=jake&password=jake-precinct99")
	if got.StatusCode != http.StatusSeeOther || len(got.Cookies()) != 1 {
		w.t.Fatalf("login: %s %v\n%s", got.Status, got.Header, got.text)
	}
	c := got.Cookies()[0]
	return "Cookie: " + c.Name + "=" + c.Value
}

// want fails unless the answer has the status and holds each text.
func (w *world) want(got answer, status int, texts ...string) {
	w.t.Helper()
	if got.StatusCode != status {
		w.t.Errorf("%s %s: %s, want %d\n%s", got.Request.Method, got.Request.URL.Path, got.Status, status, got.text)
	}
	for _, text := range texts {
		if !strings.Contains(html.UnescapeString(got.text), text) {
			w.t.Errorf("%s %s: no %q in\n%s", got.Request.Method, got.Request.URL.Path, text, got.text)
		}
	}
}

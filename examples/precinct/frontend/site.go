package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// Config is what the site stands on. All of it is required.
type Config struct {
	Backend   *url.URL
	BackendID spiffeid.ID
	Identity  identity.X509
	Edges     edge.List // of this pod
	Log       *slog.Logger
}

type site struct {
	Config
	backend *backend
	assets  *assets
	pages   pages
	methods map[string][]string // by path; each is also a page's or the API's
}

// New is the site's handler. The context ends what it does in the background.
func New(ctx context.Context, c Config) (http.Handler, error) {
	if c.Backend == nil || c.BackendID.IsZero() || c.Identity == nil || c.Log == nil {
		return nil, errors.New("frontend: the backend's URL and SPIFFE ID, an identity and a log are required")
	}
	base := &url.URL{Scheme: c.Backend.Scheme, Host: c.Backend.Host}
	s := &site{
		Config:  c,
		backend: &backend{base: base, transport: newTransport(ctx, c.Identity, c.BackendID), self: c.Identity},
		methods: map[string][]string{},
	}
	var err error
	if s.assets, err = loadAssets(); err != nil {
		return nil, err
	}
	if s.pages, err = loadPages(s.assets); err != nil {
		return nil, err
	}
	return guard(s.routes(), http.HandlerFunc(s.crossSite)), nil
}

func (s *site) routes() http.Handler {
	mux := http.NewServeMux()
	handle := func(method, path string, h http.Handler) {
		mux.Handle(method+" "+path, h)
		s.methods[path] = append(s.methods[path], method)
	}
	page := func(method, path string, h http.HandlerFunc) { handle(method, path, h) }

	mux.HandleFunc("GET /{$}", s.home)
	page("GET", "/login", s.loginPage)
	page("POST", "/login", s.form(s.login))
	page("GET", "/register", s.registerPage)
	page("POST", "/register", s.form(s.register))
	page("POST", "/logout", s.form(s.logout))
	page("GET", "/dashboard", s.signedIn(s.dashboardPage))
	page("GET", "/github", s.signedIn(s.githubPage))
	page("POST", "/github", s.form(s.signedIn(s.storeToken)))
	page("GET", "/security", s.signedIn(s.securityPage))
	page("POST", "/security/rotate", s.form(s.signedIn(s.rotate)))

	for _, p := range proxied {
		handle(p.method, p.path, s.proxy(p.query))
	}
	handle("GET", "/api/demo/frontend/svid", s.forUser(s.demoSVID))
	handle("GET", "/api/demo/frontend/edges", s.forUser(s.demoEdges))
	handle("POST", "/api/demo/frontend/edges", s.forUser(s.demoTry))

	mux.HandleFunc("GET /assets/", func(w http.ResponseWriter, r *http.Request) {
		if !s.assets.serve(w, r.URL.Path) {
			s.notFound(w, r)
		}
	})
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) {
		s.assets.serve(w, s.assets.paths["favicon.svg"])
	})
	mux.HandleFunc("/", s.notFound)
	return mux
}

// notFound answers for paths that there are not, and for methods that a path has not.
func (s *site) notFound(w http.ResponseWriter, r *http.Request) {
	if methods := s.methods[r.URL.Path]; methods != nil {
		w.Header().Set("Allow", strings.Join(slices.Sorted(slices.Values(methods)), ", "))
		s.fail(w, r, &refusal{Status: http.StatusMethodNotAllowed, Sentence: "This address is not for the method " + r.Method + "."})
		return
	}
	s.fail(w, r, &refusal{Status: http.StatusNotFound, Sentence: "There is nothing at this address."})
}

func (s *site) crossSite(w http.ResponseWriter, r *http.Request) {
	s.fail(w, r, &refusal{Status: http.StatusForbidden,
		Sentence: "This request was made by another site, so nothing was done."})
}

// fail answers with why something did not work: JSON for a script, a page for a person.
func (s *site) fail(w http.ResponseWriter, r *http.Request, err error) {
	no, ok := errors.AsType[*refusal](err)
	if !ok {
		s.Log.Error("request failed", "error", err.Error(), "request_id", service.RequestID(r.Context()))
		no = &refusal{Status: http.StatusInternalServerError, Sentence: "Something went wrong here."}
	}
	if no.RetryAfter != "" {
		w.Header().Set("Retry-After", no.RetryAfter)
	}
	if isAPI(r) {
		service.Error(w, r, no.Status, no.Sentence)
		return
	}
	s.render(w, no.Status, "error", view{Title: cmp.Or(errorTitles[no.Status], http.StatusText(no.Status)), Data: errorView{
		Status: no.Status, Sentence: sentence(no.Sentence), RequestID: service.RequestID(r.Context()),
	}})
}

var errorTitles = map[int]string{
	http.StatusForbidden:             "Not from that door",
	http.StatusNotFound:              "Nothing in this file",
	http.StatusMethodNotAllowed:      "Not that way",
	http.StatusRequestEntityTooLarge: "Too large to take in",
	http.StatusTooManyRequests:       "One at a time",
	http.StatusBadGateway:            "The backend gave no proper answer",
	http.StatusServiceUnavailable:    "Out of reach for a moment",
}

// sentence makes a full one of the API's words.
func sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.ContainsAny(s[len(s)-1:], ".!?") {
		s += "."
	}
	return s
}

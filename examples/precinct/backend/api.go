package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/org/spire-vault-99-action/examples/precinct/backend/vault"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// problem is an error that its sentence may be told to whoever asked.
type problem struct {
	status   int
	sentence string
	after    time.Duration // when another try is worth it; 0: not said
}

func (p *problem) Error() string { return p.sentence }

var (
	errNotSignedIn = &problem{status: http.StatusUnauthorized, sentence: "not signed in"}
	errLogin       = &problem{status: http.StatusUnauthorized, sentence: "invalid username or password"}
	errNoDatabase  = &problem{status: http.StatusServiceUnavailable, sentence: "the database is not available", after: 2 * time.Second}
	errNoVault     = &problem{status: http.StatusServiceUnavailable, sentence: "the secret store is not available", after: 2 * time.Second}
	errStarting    = &problem{status: http.StatusServiceUnavailable, sentence: "the backend is still starting", after: 2 * time.Second}
	errSlow        = &problem{status: http.StatusServiceUnavailable, sentence: "this took too long", after: 2 * time.Second}
	errUnknown     = &problem{status: http.StatusInternalServerError, sentence: "something went wrong here"}
)

// tell is what an error is to whoever asked.
func tell(err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	v, isVault := errors.AsType[*vault.Error](err)
	switch {
	case errors.Is(err, errDatabase), errors.Is(err, errSchema), isVault && v.Reason == vault.NoDatabase:
		return errNoDatabase
	case isVault:
		return errNoVault
	case notStarted(err):
		return errStarting
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return errSlow
	}
	return errUnknown
}

// handler is the API.
func (b *backend) handler() http.Handler {
	mux := http.NewServeMux()
	known := map[string]string{}
	handle := func(method, path string, limit time.Duration, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), limit)
			defer cancel()
			// The pattern is for the log; the outer request is what it reads.
			if err := h(w, r.WithContext(ctx)); err != nil {
				b.answer(w, r, err)
			}
		})
		known[path] += ", " + method
	}
	const quick, slow = 10 * time.Second, 28 * time.Second
	handle("POST", "/api/auth/login", quick, b.postLogin)
	handle("POST", "/api/auth/register", quick, b.postRegister)
	handle("POST", "/api/auth/logout", quick, b.postLogout)
	handle("GET", "/api/auth/me", quick, b.signedIn(b.getMe))
	handle("POST", "/api/github/configure", quick, b.signedIn(b.postGitHubToken))
	handle("GET", "/api/github/user", quick, b.signedIn(b.getGitHubUser))
	handle("GET", "/api/github/repos", quick, b.signedIn(b.getRepositories))
	handle("GET", "/api/demo/svid", quick, b.signedIn(b.getSVID))
	handle("GET", "/api/demo/database", quick, b.signedIn(b.getDatabase))
	handle("POST", "/api/demo/rotate", slow, b.signedIn(b.postRotate))
	handle("GET", "/api/demo/edges", quick, b.signedIn(b.getEdges))
	handle("POST", "/api/demo/edges", quick, b.signedIn(b.postEdge))
	mux.Handle("GET /api/health/ready", service.ReadyHandler(b.ready))
	known["/api/health/ready"] = ", GET"
	for path, methods := range known {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", methods[2:])
			service.Error(w, r, http.StatusMethodNotAllowed, "this is done with "+methods[2:])
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		service.Error(w, r, http.StatusNotFound, "there is nothing here")
	})
	return mux
}

// answer tells an error. What whoever asked is not told goes to the log.
func (b *backend) answer(w http.ResponseWriter, r *http.Request, err error) {
	p := tell(err)
	if p.status >= 500 {
		b.Log.Warn("request failed", "request_id", service.RequestID(r.Context()), "error", err.Error())
	}
	if p.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(p.after/time.Second)))
	}
	service.Error(w, r, p.status, p.sentence)
}

// decode reads a small JSON object.
func decode(w http.ResponseWriter, r *http.Request, into any) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return &problem{status: http.StatusUnsupportedMediaType, sentence: "the body has to be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 64<<10))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &problem{status: http.StatusRequestEntityTooLarge, sentence: "the body is larger than 64 KiB"}
	}
	if err != nil {
		return &problem{status: http.StatusBadRequest, sentence: "the body could not be read"}
	}
	err = json.Unmarshal(body, into)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
		return &problem{status: http.StatusBadRequest, sentence: wrong.Field + " has to be a " + wrong.Type.String()}
	}
	if err != nil {
		return &problem{status: http.StatusBadRequest, sentence: "the body is not a JSON object"}
	}
	return nil
}

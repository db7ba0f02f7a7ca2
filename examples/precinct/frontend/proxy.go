package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
)

// bodyLimit is the most that a browser may send, to the API or with a form.
const bodyLimit = 64 << 10

// proxied are the routes that go on to the backend as they are.
var proxied = []struct {
	method, path string
	query        []string // the parameters that travel
}{
	{"POST", "/api/auth/login", nil},
	{"POST", "/api/auth/register", nil},
	{"POST", "/api/auth/logout", nil},
	{"GET", "/api/auth/me", nil},
	{"POST", "/api/github/configure", nil},
	{"GET", "/api/github/user", nil},
	{"GET", "/api/github/repos", []string{"page", "per_page"}},
	{"GET", "/api/health/ready", nil},
	// What the security page asks of the backend.
	{"GET", "/api/demo/svid", nil},
	{"GET", "/api/demo/database", nil},
	{"POST", "/api/demo/rotate", nil},
	{"GET", "/api/demo/edges", nil},
	{"POST", "/api/demo/edges", nil},
}

// proxy goes on to the backend with what a request needs and nothing else: a browser
// can spoof no header that the backend might believe, and the backend sets none here
// but those below.
func (s *site) proxy(query []string) http.Handler {
	b := s.backend
	forward := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(b.base)
			header := http.Header{"User-Agent": {"precinct-frontend"}}
			for _, name := range []string{"Accept", "Content-Type"} {
				if v := r.In.Header.Get(name); v != "" {
					header.Set(name, v)
				}
			}
			carry(header, r.In)
			r.Out.Header = header
			given, kept := r.In.URL.Query(), url.Values{}
			for _, name := range query {
				if given.Has(name) {
					kept.Set(name, given.Get(name))
				}
			}
			r.Out.URL.RawQuery = kept.Encode()
		},
		ModifyResponse: func(resp *http.Response) error {
			cookies := ours(resp.Cookies())
			for name := range resp.Header {
				if !slices.Contains([]string{"Content-Type", "Content-Length", "Retry-After", "Allow"}, name) {
					resp.Header.Del(name)
				}
			}
			for _, c := range cookies {
				resp.Header.Add("Set-Cookie", c.Raw)
			}
			return nil
		},
		Transport: b.transport,
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			s.fail(w, r, unreachable(b.self, err))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if no := readWhole(w, r); no != nil {
			s.fail(w, r, no)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTime)
		defer cancel()
		forward.ServeHTTP(w, r.WithContext(ctx))
	})
}

// readWhole takes the body in before anything goes on, so that it is known to be
// small and can be sent again.
func readWhole(w http.ResponseWriter, r *http.Request) *refusal {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyLimit))
	if _, big := errors.AsType[*http.MaxBytesError](err); big {
		return &refusal{Status: http.StatusRequestEntityTooLarge, Sentence: "The request is larger than 64 KiB."}
	}
	if err != nil {
		return &refusal{Status: http.StatusBadRequest, Sentence: "The request could not be read."}
	}
	r.ContentLength = int64(len(text))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	r.Body, _ = r.GetBody()
	if len(text) == 0 {
		r.Body, r.GetBody = http.NoBody, nil
	}
	return nil
}

package service

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

type requestIDKey struct{}

// RequestID is the ID of the request that a context belongs to.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Peer is the SPIFFE ID of a request's caller, which the TLS layer has verified; none
// for plain HTTP.
func Peer(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	id, err := x509svid.IDFromCert(r.TLS.PeerCertificates[0])
	if err != nil {
		return ""
	}
	return id.String()
}

// Log gives each request an ID, writes one line about it, and turns a panic into an
// answer. The line holds the pattern that matched and not the path or the query, no
// header and no body: those may hold secrets. A handler in between that copies the
// request hides the pattern.
func Log(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		peer := Peer(r)
		id := r.Header.Get("X-Request-Id")
		// Only another workload may say what its request is called.
		if peer == "" || !plain(id) {
			id = rand.Text()
		}
		r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
		w.Header().Set("X-Request-Id", id)
		seen := &recorder{ResponseWriter: w}
		defer func() {
			p := recover()
			if err, _ := p.(error); p != nil && !errors.Is(err, http.ErrAbortHandler) {
				log.Error("panic", "request_id", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				if seen.status == 0 {
					Error(seen, r, http.StatusInternalServerError, "something went wrong here")
					p = nil
				}
			}
			line := []any{"method", r.Method, "pattern", r.Pattern, "status", seen.status,
				"seconds", time.Since(start).Seconds(), "request_id", id}
			if peer != "" {
				line = append(line, "peer", peer)
			}
			log.Info("request", line...)
			if p != nil {
				// What was begun must not look whole.
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(seen, r)
		if seen.status == 0 {
			seen.status = http.StatusOK
		}
	})
}

// plain says whether an ID is short and of letters, digits and hyphens.
func plain(id string) bool {
	for _, c := range []byte(id) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '-' {
			return false
		}
	}
	return id != "" && len(id) <= 64
}

// recorder remembers the status.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

package service

import (
	"context"
	"net/http"
	"time"
)

// Dependency is one thing that an application needs.
type Dependency struct {
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // what is wrong, in plain words
}

// Readiness says whether an application can do its work, and if not, what it lacks.
type Readiness struct {
	Ready        bool
	Dependencies map[string]Dependency
}

// All is ready when every dependency is.
func All(dependencies map[string]Dependency) Readiness {
	r := Readiness{Ready: true, Dependencies: dependencies}
	for _, d := range dependencies {
		r.Ready = r.Ready && d.OK
	}
	return r
}

// Check is the dependency that an error, or none, tells of.
func Check(err error) Dependency {
	if err != nil {
		return Dependency{Detail: err.Error()}
	}
	return Dependency{OK: true}
}

// Health serves /health/live, which is true while the process answers at all, and
// /health/ready.
func Health(ready func(context.Context) Readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health/live", func(w http.ResponseWriter, _ *http.Request) {
		JSON(w, http.StatusOK, map[string]string{"status": "live"})
	})
	mux.Handle("GET /health/ready", ReadyHandler(ready))
	return mux
}

// ReadyHandler answers 200 or 503 with the dependencies by name.
func ReadyHandler(ready func(context.Context) Readiness) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The kubelet asks with a timeout of its own; an answer must not miss it.
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		got := ready(ctx)
		status, code := "ready", http.StatusOK
		if !got.Ready {
			status, code = "not ready", http.StatusServiceUnavailable
		}
		if got.Dependencies == nil {
			got.Dependencies = map[string]Dependency{}
		}
		JSON(w, code, map[string]any{"status": status, "dependencies": got.Dependencies})
	})
}

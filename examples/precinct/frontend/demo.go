package main

import (
	"encoding/json"
	"mime"
	"net/http"

	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

// Routes of the security page that are about this pod, not the backend's. They are
// for those who are signed in.

func (s *site) demoEdges(w http.ResponseWriter, r *http.Request, _ User) {
	service.JSON(w, http.StatusOK, s.Edges)
}

// demoTry tries one edge from inside this pod.
func (s *site) demoTry(w http.ResponseWriter, r *http.Request, _ User) {
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		service.Error(w, r, http.StatusUnsupportedMediaType, "the request must be application/json")
		return
	}
	var in struct {
		Address string `json:"address"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		service.Error(w, r, http.StatusBadRequest, "the request is no JSON object with an address")
		return
	}
	got, err := s.Edges.Try(r.Context(), in.Address)
	if err != nil {
		service.Error(w, r, http.StatusBadRequest, err.Error())
		return
	}
	service.JSON(w, http.StatusOK, got)
}

func (s *site) demoSVID(w http.ResponseWriter, r *http.Request, _ User) {
	info, err := s.svid()
	if err != nil {
		service.Error(w, r, http.StatusServiceUnavailable, err.Error())
		return
	}
	service.JSON(w, http.StatusOK, info)
}

// svid is this program's own.
func (s *site) svid() (identity.Info, error) {
	svid, err := s.Identity.GetX509SVID()
	if err != nil {
		return identity.Info{}, err
	}
	return identity.Describe(svid), nil
}

// forUser lets only those through who are signed in, as the backend says.
func (s *site) forUser(next func(http.ResponseWriter, *http.Request, User)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if no := readWhole(w, r); no != nil {
			s.fail(w, r, no)
			return
		}
		user, err := s.backend.me(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		next(w, r, user)
	})
}

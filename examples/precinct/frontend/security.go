package main

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
)

type securityView struct {
	Boards   []board
	Database Database
	Health   Health
	Rotated  *Rotation // by the form, without a script
	// Why a part is missing, "" if it is there.
	DatabaseError, HealthError, RotateError string
}

// board is one pod's: who it is, and what it may reach.
type board struct {
	Pod        string
	API        string // where the script asks it
	SVID       identity.Info
	SVIDError  string
	Edges      []edge.Edge
	EdgesError string
	Threads    []thread
	ThreadBox  string // the viewBox that they are drawn in
}

// thread is the string on the board from the pod to one of its edges, as SVG paths:
// whole, cut half-way, and the loose end of that.
type thread struct {
	Whole, Cut, End string
	Address         string
	Allowed         bool
}

// pin puts the edges on the board. Rows are equally high, so that 20 units for each
// fit whatever their height is.
func (b *board) pin(edges []edge.Edge, err error) {
	b.Edges, b.EdgesError = edges, words(err)
	from := 10 * float64(len(edges))
	for i, e := range edges {
		to := 20*float64(i) + 10
		half := (from + to) / 2
		b.Threads = append(b.Threads, thread{
			Whole: fmt.Sprintf("M0 %g C55 %g 45 %g 100 %g", from, from, to, to),
			// The first half of that curve, by de Casteljau.
			Cut:     fmt.Sprintf("M0 %g C27.5 %g 38.75 %g 50 %g", from, from, (3*from+to)/4, half),
			End:     fmt.Sprintf("M50 %g h.01", half),
			Address: e.Address, Allowed: e.Allowed,
		})
	}
	b.ThreadBox = fmt.Sprintf("0 0 100 %d", 20*len(edges))
}

func (s *site) securityPage(w http.ResponseWriter, r *http.Request, user User) {
	s.renderSecurity(w, r, http.StatusOK, user, securityView{})
}

// rotate is the form's; the script uses the API.
func (s *site) rotate(w http.ResponseWriter, r *http.Request, user User) {
	var got Rotation
	code := http.StatusOK
	v := securityView{Rotated: &got}
	if _, err := s.backend.call(r, http.MethodPost, "/api/demo/rotate", nil, &got); err != nil {
		no := refusalOf(err)
		retryLater(w, no)
		code, v = no.Status, securityView{RotateError: sentence(no.Sentence)}
	}
	s.renderSecurity(w, r, code, user, v)
}

// renderSecurity asks for all parts at once; what is missing says why in its place.
func (s *site) renderSecurity(w http.ResponseWriter, r *http.Request, code int, user User, v securityView) {
	front := board{Pod: "frontend", API: "/api/demo/frontend"}
	back := board{Pod: "backend", API: "/api/demo"}
	var err error
	if front.SVID, err = s.svid(); err != nil {
		front.SVIDError = sentence(err.Error())
	}
	front.pin(s.Edges.Edges, nil)

	var all sync.WaitGroup
	all.Go(func() {
		edges, err := s.backend.edges(r)
		back.pin(edges.Edges, err)
	})
	all.Go(func() {
		var err error
		back.SVID, err = s.backend.svid(r)
		back.SVIDError = words(err)
	})
	all.Go(func() {
		var err error
		v.Database, err = s.backend.database(r)
		v.DatabaseError = words(err)
	})
	all.Go(func() {
		var err error
		v.Health, err = s.backend.health(r)
		v.HealthError = words(err)
	})
	all.Wait()
	v.Boards = []board{front, back}
	s.render(w, code, "security", view{Title: "Security", User: &user, Data: v})
}

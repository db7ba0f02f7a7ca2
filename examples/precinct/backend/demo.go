package main

import (
	"errors"
	"net/http"

	"github.com/org/spire-vault-99-action/examples/precinct/edge"
	"github.com/org/spire-vault-99-action/examples/precinct/identity"
	"github.com/org/spire-vault-99-action/examples/precinct/service"
)

func (b *backend) getSVID(w http.ResponseWriter, _ who) error {
	svid, err := b.Source.GetX509SVID()
	if err != nil {
		return err
	}
	service.JSON(w, http.StatusOK, identity.Describe(svid))
	return nil
}

func (b *backend) getDatabase(w http.ResponseWriter, r who) error {
	var name string
	if err := b.sessions.Use(r.Context(), func(s *session) error {
		name = s.user
		return nil
	}); err != nil {
		return err
	}
	server, err := b.currentUser(r.Context())
	if err != nil {
		return err
	}
	state := b.sessions.State()
	service.JSON(w, http.StatusOK, map[string]any{"user": name, "since": state.Since.UTC(), "expires": state.Expires.UTC(),
		"rotations": state.Rotations, "server_user": server})
	return nil
}

func (b *backend) postRotate(w http.ResponseWriter, r who) error {
	change, err := b.sessions.Rotate(r.Context())
	if err != nil {
		return err
	}
	old, gone := "", false
	if change.Old != nil {
		old, gone = change.Old.user, change.Old.gone.Load()
	}
	service.JSON(w, http.StatusOK, map[string]any{"old_user": old, "new_user": change.New.user, "old_gone": gone, "seconds": change.Seconds})
	return nil
}

func (b *backend) getEdges(w http.ResponseWriter, _ who) error {
	service.JSON(w, http.StatusOK, b.Edges)
	return nil
}

func (b *backend) postEdge(w http.ResponseWriter, r who) error {
	var in struct {
		Address string `json:"address"`
	}
	if err := decode(w, r.Request, &in); err != nil {
		return err
	}
	result, err := b.Edges.Try(r.Context(), in.Address)
	if errors.Is(err, edge.ErrNotListed) {
		return &problem{status: http.StatusBadRequest, sentence: err.Error()}
	}
	if err != nil {
		return err
	}
	service.JSON(w, http.StatusOK, result)
	return nil
}

package main

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// nowhere is a cluster that does not answer.
func nowhere() *rest.Config { return &rest.Config{Host: "http://127.0.0.1:1"} }

func TestProberInTheRegistry(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	ref, err := proberRef(t.Context(), strings.TrimPrefix(server.URL, "http://")+"/team", "..")
	if err != nil {
		t.Fatal(err)
	}
	p := prober(ref, "..", nowhere())
	r, err := phase.Run(t.Context(), []*phase.Phase{p}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.Metadata["image "+ref], "sha256:") {
		t.Errorf("the report does not tell the digest: %q", r.Metadata)
	}
	// Somebody else's image in its place is seen.
	other, err := random.Image(10, 1)
	if err != nil {
		t.Fatal(err)
	}
	to, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(to, other); err != nil {
		t.Fatal(err)
	}
	r, _ = phase.RunWith(t.Context(), []*phase.Phase{p}, phase.Options{VerifyOnly: true}, nil)
	if got := r.Phases[0].Checks[0]; got.Status != phase.Failed {
		t.Errorf("another image gives %+v", got)
	}
}

func TestProberThatCannotBePushed(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	t.Cleanup(server.Close)
	p := prober(strings.TrimPrefix(server.URL, "http://")+"/team/zerotrust-prober:x", "..", nowhere())
	r, err := phase.Run(t.Context(), []*phase.Phase{p}, nil)
	if err == nil || r.Phases[0].Status != phase.Failed || !strings.Contains(err.Error(), "docker login") {
		t.Errorf("got %v, want a hint at docker login", err)
	}
}

package zerotrust

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
)

// mirrored is a registry, as a mirror is told, and what puts an image into it by the name that it
// has elsewhere.
func mirrored(t *testing.T) (mirror string, put func(ref string)) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	return "http://" + host + "/mirror", func(ref string) {
		t.Helper()
		img, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		_, path, _ := strings.Cut(ref, "/") // less the registry's own host
		tag, err := name.NewTag(host+"/mirror/"+path, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(tag, img, remote.WithContext(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

// From a registry the node image is the one that kind pins; an image that no
// mirror has is told with every place that was tried.
func TestImagesFromRegistry(t *testing.T) {
	host, put := mirrored(t)
	for _, ref := range (Config{Intent: Precinct99()}).ThirdPartyImages() {
		put(ref)
	}
	mirror := []string{host}
	s, err := New(t.Context(), Config{
		Intent: Precinct99(), Dir: t.TempDir(), SourceDir: ".", Images: images.SourceRegistry,
		Mirrors: map[string][]string{"quay.io": mirror, "ghcr.io": mirror, "registry.invalid": mirror, "docker.io": append([]string{"http://127.0.0.1:1"}, mirror...)},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, ref := range (Config{Intent: Precinct99()}).ThirdPartyImages() {
		if found, err := s.find(t.Context(), ref, ref); err != nil || !found {
			t.Errorf("%s: %t, %v", ref, found, err)
		}
		if img, err := s.cached(ref); err != nil || img == nil {
			t.Errorf("%s is not in the cache: %v", ref, err)
		}
	}
	if _, err := s.nodeImage(); err == nil || !strings.Contains(err.Error(), kindx.DefaultImage) {
		t.Errorf("without a node image: %v", err)
	}
	if _, err := s.find(t.Context(), "registry.invalid/none:1", "registry.invalid/none:1"); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(strings.TrimPrefix(host, "http://"), "/mirror")) {
		t.Errorf("an image that the mirror lacks: %v", err)
	}
}

package images

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func TestLoadConformanceFake(t *testing.T) {
	loadConformance(t, newFakeNode("fake"), LoadConfig{})
}

// loadConformance is what Load relies on of a node's containerd. It runs against
// the fake always, and against a real containerd with the build tag e2e.
func loadConformance(t *testing.T, node Node, cfg LoadConfig) {
	load := func(t *testing.T, images ...NamedImage) []ImageResult {
		t.Helper()
		cfg.OnEvent = func(e Event) { t.Log(e) }
		got, err := Load(t.Context(), []Node{node}, images, cfg)
		if err != nil {
			t.Fatal(err)
		}
		return got.Nodes[0].Images
	}
	want := func(t *testing.T, r ImageResult, already bool, sent ...int64) {
		t.Helper()
		var sum int64
		for _, n := range sent {
			sum += n
		}
		if r.Already != already || r.BytesSent != sum {
			t.Errorf("%s: already %v, %d bytes sent; want %v, %d", r.Ref, r.Already, r.BytesSent, already, sum)
		}
	}
	// sizes are those of manifest, config and layers.
	sizes := func(t *testing.T, img v1.Image) []int64 {
		t.Helper()
		w, err := newWantedImage(NamedImage{"a:1", img})
		if err != nil {
			t.Fatal(err)
		}
		var all []int64
		for _, b := range w.blobs {
			all = append(all, b.size)
		}
		return all
	}

	c := openTestCache(t)
	for _, comp := range compressions {
		t.Run(comp.String(), func(t *testing.T) {
			app := "conformance/" + comp.String()
			first := mustPut(t, c, app+"1", testImage(t, comp, comp.String()+" base", "first"))
			second := mustPut(t, c, app+"2", testImage(t, comp, comp.String()+" base", "second"))
			s1, s2 := sizes(t, first), sizes(t, second)

			want(t, load(t, NamedImage{app + ":v1", first})[0], false, s1...)
			want(t, load(t, NamedImage{app + ":v1", first})[0], true)
			// One layer changed; two images in one stream; the base is not sent.
			both := load(t, NamedImage{app + ":v1", first}, NamedImage{app + ":v2", second})
			want(t, both[0], true)
			want(t, both[1], false, s2[0], s2[1], s2[3])
			// A name by digest is added, and a name moves: the manifest alone. (In this
			// order, or nothing would keep the content of first on the node.)
			byDigest := NamedImage{app + "@" + digestOf(t, first).String(), first}
			want(t, load(t, byDigest)[0], false, s1[0])
			want(t, load(t, NamedImage{app + ":v1", second})[0], false, s2[0])
			for _, r := range load(t, NamedImage{app + ":v1", second}, NamedImage{app + ":v2", second}, byDigest) {
				want(t, r, true)
			}
		})
	}
	t.Run("docker manifest", func(t *testing.T) {
		img := mutate.ConfigMediaType(mutate.MediaType(testImage(t, Gzip, "docker"), types.DockerManifestSchema2), types.DockerConfigJSON)
		img = mustPut(t, c, "docker", img)
		want(t, load(t, NamedImage{"example.org:5000/docker:v1", img})[0], false, sizes(t, img)...)
		want(t, load(t, NamedImage{"example.org:5000/docker:v1", img})[0], true)
	})
	t.Run("two images of one content in one stream", func(t *testing.T) {
		a := mustPut(t, c, "a", testImage(t, Zstd, "twin", "twin"))
		got := load(t, NamedImage{"example.org/twin:a", a}, NamedImage{"example.org/twin:b", a})
		want(t, got[0], false, sizes(t, a)...)
		want(t, got[1], false)
		for _, r := range load(t, NamedImage{"example.org/twin:a", a}, NamedImage{"example.org/twin:b", a}) {
			want(t, r, true)
		}
	})
}

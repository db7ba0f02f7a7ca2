package images

import (
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// testIndex is an image for this platform, which is returned too, and one for another,
// which no node here needs.
func testIndex(t *testing.T, text string) (v1.ImageIndex, v1.Image) {
	t.Helper()
	here := testImage(t, Zstd, text)
	elsewhere := mutate.MediaType(mutate.Annotations(here, map[string]string{"for": "elsewhere"}).(v1.Image), types.OCIManifestSchema1)
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	index = mutate.AppendManifests(index,
		mutate.IndexAddendum{Add: elsewhere, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: here, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	return index, here
}

func TestLoadConformanceFake(t *testing.T) {
	loadConformance(t, newFakeNode("fake"), LoadConfig{})
	loadConformance(t, newFakeNode("fake"), LoadConfig{ahead: 1})
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
		w, err := newWantedImage(NamedImage{Ref: "a:1", Image: img}, false)
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

			want(t, load(t, NamedImage{Ref: app + ":v1", Image: first})[0], false, s1...)
			want(t, load(t, NamedImage{Ref: app + ":v1", Image: first})[0], true)
			// One layer changed; two images in one stream; the base is not sent.
			both := load(t, NamedImage{Ref: app + ":v1", Image: first}, NamedImage{Ref: app + ":v2", Image: second})
			want(t, both[0], true)
			want(t, both[1], false, s2[0], s2[1], s2[3])
			// A name by digest is added, and a name moves: nothing is sent. (In this
			// order, or nothing would keep the content of first on the node.)
			byDigest := NamedImage{Ref: app + "@" + digestOf(t, first).String(), Image: first}
			for _, n := range []NamedImage{byDigest, {Ref: app + ":v1", Image: second}} {
				got := load(t, n)[0]
				want(t, got, false)
				if !got.Tagged || got.Digest != digestOf(t, n.Image) {
					t.Errorf("%+v, want it tagged", got)
				}
			}
			for _, r := range load(t, NamedImage{Ref: app + ":v1", Image: second}, NamedImage{Ref: app + ":v2", Image: second}, byDigest) {
				want(t, r, true)
			}
		})
	}
	t.Run("docker manifest", func(t *testing.T) {
		img := mutate.ConfigMediaType(mutate.MediaType(testImage(t, Gzip, "docker"), types.DockerManifestSchema2), types.DockerConfigJSON)
		img = mustPut(t, c, "docker", img)
		want(t, load(t, NamedImage{Ref: "example.org:5000/docker:v1", Image: img})[0], false, sizes(t, img)...)
		want(t, load(t, NamedImage{Ref: "example.org:5000/docker:v1", Image: img})[0], true)
	})
	t.Run("index", func(t *testing.T) {
		index, here := testIndex(t, "index")
		of := sizes(t, here)
		size, err := index.Size()
		if err != nil {
			t.Fatal(err)
		}
		digest, err := index.Digest()
		if err != nil {
			t.Fatal(err)
		}
		// Its own image first, so that the index is all that is new; and beside it one that
		// is none, whose layers must be kept by the node as well.
		beside := mustPut(t, c, "beside", testImage(t, Zstd, "beside"))
		got := load(t, NamedImage{Ref: "example.org/multi:here", Image: here})
		want(t, got[0], false, of...)
		all := []NamedImage{{Ref: "example.org/multi:v1", Index: index}, {Ref: "example.org/multi@" + digest.String(), Index: index}, {Ref: "example.org/beside:v1", Image: beside}}
		got = load(t, all...)
		want(t, got[0], false, size, of[0])
		want(t, got[2], false, sizes(t, beside)...)
		if got[0].Digest != digest {
			t.Errorf("digest %s, want the index's %s", got[0].Digest, digest)
		}
		// Whatever goes takes the node's garbage along.
		if err := node.Exec(t.Context(), nil, nil, "ctr", "--namespace", "k8s.io", "images", "rm", "--sync", "example.org/multi:here"); err != nil {
			t.Fatal(err)
		}
		for _, r := range load(t, all...) {
			want(t, r, true)
		}
	})
	t.Run("two images of one content in one stream", func(t *testing.T) {
		a := mustPut(t, c, "a", testImage(t, Zstd, "twin", "twin"))
		got := load(t, NamedImage{Ref: "example.org/twin:a", Image: a}, NamedImage{Ref: "example.org/twin:b", Image: a})
		want(t, got[0], false, sizes(t, a)...)
		want(t, got[1], false)
		for _, r := range load(t, NamedImage{Ref: "example.org/twin:a", Image: a}, NamedImage{Ref: "example.org/twin:b", Image: a}) {
			want(t, r, true)
		}
	})
}

package images

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Much content goes ahead of the import, under a name that is gone afterwards.
func TestLoadAhead(t *testing.T) {
	img := testImage(t, Zstd, "base", "top")
	manifest, config, layers := parts(t, img)
	all := []string{tarName(manifest), tarName(config), tarName(layers[0]), tarName(layers[1]), "oci-layout", "index.json"}
	const imported = "images check, content ls, images import, "
	for _, tt := range []struct {
		name     string
		node     func(n *fakeNode)
		commands string
		streams  [][]string
		event    string
		left     int
	}{
		{name: "containerd 2", commands: imported + "images import, images rm, images check",
			streams: [][]string{all, {tarName(manifest), "oci-layout", "index.json"}}},
		{name: "containerd 1", node: func(n *fakeNode) { n.noLocal = true },
			commands: imported + "images import, images check", streams: [][]string{all}},
		{name: "the name stays", node: func(n *fakeNode) { n.failRemove = func() error { return errors.New("no reason") } },
			commands: imported + "images import, images rm, images check", left: 1, event: "not removed",
			streams: [][]string{all, {tarName(manifest), "oci-layout", "index.json"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newFakeNode("a")
			if tt.node != nil {
				tt.node(n)
			}
			var said []string
			got, err := Load(t.Context(), []Node{n}, []NamedImage{{Ref: "app:v1", Image: img}}, LoadConfig{ahead: 1, OnEvent: func(e Event) { said = append(said, e.Verb) }})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.commands, strings.Join(n.commands(), ", ")); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.streams, n.streams); diff != "" {
				t.Error(diff)
			}
			if got.Nodes[0].BytesSkipped != 0 || got.Nodes[0].BytesSent == 0 {
				t.Errorf("sent and skipped: %+v", got.Nodes[0])
			}
			if tt.event != "" && !slices.Contains(said, tt.event) {
				t.Errorf("events %q, want %q", said, tt.event)
			}
			delete(n.images, "docker.io/library/app:v1")
			if len(n.images) != tt.left {
				t.Errorf("besides, the node has %q", slices.Collect(maps.Keys(n.images)))
			}
		})
	}
}

// Little content takes one import.
func TestLoadLittle(t *testing.T) {
	n := newFakeNode("a")
	mustLoad(t, []Node{n}, NamedImage{Ref: "app:v1", Image: testImage(t, Zstd, "base")})
	if want := []string{"images check", "content ls", "images import", "images check"}; !slices.Equal(n.commands(), want) {
		t.Errorf("commands %q, want %q", n.commands(), want)
	}
}

func TestAheadArgv(t *testing.T) {
	until := time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600))
	want := []string{"ctr", "--namespace", "ns", "images", "import", "--local", "--no-unpack", "--platform", "linux/arm/v7", "--index-name", "example.org/x:1", "--label", "containerd.io/gc.expire=2026-01-02T02:04:05Z", "-"}
	if diff := cmp.Diff(want, ctr{namespace: "ns"}.aheadArgv("linux/arm/v7", "example.org/x:1", until)); diff != "" {
		t.Error(diff)
	}
}

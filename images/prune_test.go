package images

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrune(t *testing.T) {
	v1, v2, v3 := testImage(t, Zstd, "1"), testImage(t, Zstd, "2"), testImage(t, Zstd, "3")
	fill := func(name string) *fakeNode {
		return newFakeNode(name).preload(t,
			NamedImage{Ref: "example.org/team/app:v1", Image: v1}, NamedImage{Ref: "example.org/team/app:v2", Image: v2},
			NamedImage{Ref: "example.org/team/app:v3", Image: v3}, NamedImage{Ref: "example.org/team/app:also-v2", Image: v2},
			NamedImage{Ref: "example.org/team2/app:v1", Image: v1}, NamedImage{Ref: "registry.k8s.io/pause:3", Image: v1})
	}
	idle, busy := fill("idle"), fill("busy")
	busy.containers = []string{"example.org/team/app:v2"}
	got, err := Prune(t.Context(), []Node{idle, busy}, "example.org/team", []string{"example.org/team/app:v3"}, LoadConfig{})
	if err != nil {
		t.Fatal(err)
	}
	want := PruneResult{Nodes: []PrunedNode{
		{Node: "idle", Removed: []string{"example.org/team/app:also-v2", "example.org/team/app:v1", "example.org/team/app:v2"}},
		{Node: "busy", Removed: []string{"example.org/team/app:v1"}, InUse: []string{"example.org/team/app:also-v2", "example.org/team/app:v2"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(idle.images) != 3 || len(busy.images) != 5 {
		t.Errorf("images %q and %q", idle.images, busy.images)
	}

	// By the runtime's own name for an image.
	id := configOf(t, v2)
	busy.containers, busy.images[id] = []string{id}, digestOf(t, v2).String()
	if got, err = Prune(t.Context(), []Node{busy}, "example.org/team/", nil, LoadConfig{}); err != nil || !slices.Equal(got.Nodes[0].Removed, []string{"example.org/team/app:v3"}) || len(got.Nodes[0].InUse) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	// Nothing to do is one command.
	busy.argv = nil
	if _, err = Prune(t.Context(), []Node{busy}, "example.org/nobody", nil, LoadConfig{}); err != nil || len(busy.argv) != 1 {
		t.Errorf("commands %q, %v", busy.commands(), err)
	}
	// Could not tell what is in use: nothing goes.
	busy.containers, busy.failCrictl = nil, errors.New("no such file crictl")
	if _, err = Prune(t.Context(), []Node{busy}, "example.org/team", nil, LoadConfig{}); err == nil || len(busy.images) != 5 {
		t.Errorf("%v, images %q", err, busy.images)
	}
	wantError(t, err, "images of node busy", "which images are in use", "nothing was removed")
}

func TestPruneRefuses(t *testing.T) {
	for repository, want := range map[string]string{
		"": "every image", "/": "every image", "example.org": "give a registry and a path", "example.org/": "give a registry and a path", "app": "give a registry and a path", "a b/c": "repository \"a b/c\"",
	} {
		n := newFakeNode("a")
		_, err := Prune(t.Context(), []Node{n}, repository, nil, LoadConfig{})
		wantError(t, err, want)
		if len(n.argv) != 0 {
			t.Errorf("%q: commands %q", repository, n.commands())
		}
	}
	_, err := Prune(t.Context(), nil, "example.org/team", []string{"app"}, LoadConfig{})
	wantError(t, err, "keep", "latest")
}

func TestWithin(t *testing.T) {
	for in, want := range map[[2]string]bool{
		{"example.org/team/app:v1", "example.org/team"}: true, {"example.org/team:v1", "example.org/team"}: true, {"example.org/team@sha256:a", "example.org/team"}: true,
		{"example.org/team2:v1", "example.org/team"}: false, {"example.org/team", "example.org/team"}: false, {"sha256:abc", "docker.io/team/app"}: false,
		{"docker.io/team/app:1", "docker.io/team/app"}: true,
	} {
		if got := within(in[0], in[1]); got != want {
			t.Errorf("%q: %v", in, got)
		}
	}
	for given, want := range map[string]string{"team/app": "docker.io/team/app", "docker.io/team": "docker.io/team", "example.org/a/b/": "example.org/a/b", "localhost/x": "localhost/x", "localhost:5000/x": "localhost:5000/x"} {
		if got, err := pruneScope(given); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", given, got, err, want)
		}
	}
}

func TestParseUsed(t *testing.T) {
	// As printed by ctr and crictl of containerd v2.
	got := parseContainers("CONTAINER    IMAGE    RUNTIME\n3031b2782    registry.k8s.io/kube-apiserver:v1.37.2    io.containerd.runc.v2\nabc    -    io.containerd.runc.v2\n")
	if diff := cmp.Diff([]string{"registry.k8s.io/kube-apiserver:v1.37.2"}, got); diff != "" {
		t.Error(diff)
	}
	id := "sha256:" + strings.Repeat("a", 64)
	got, err := parseCrictl([]byte(`{"containers": [{"image": {"image": "` + id + `", "userSpecifiedImage": "app:v1"}, "imageRef": "` + id + `", "imageId": ""}]}`))
	if err != nil || !slices.Contains(got, id) || !slices.Contains(got, "docker.io/library/app:v1") {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := parseCrictl([]byte("no JSON")); err == nil {
		t.Error("no error for what is no JSON")
	}
	targets := parseImages("REF TYPE DIGEST SIZE PLATFORMS LABELS\na:1 application/x sha256:b 1.0 MiB linux/amd64 -\n")
	if diff := cmp.Diff(map[string]string{"a:1": "sha256:b"}, targets); diff != "" {
		t.Error(diff)
	}
}

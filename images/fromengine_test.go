package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// childEngine stands for the client of an engine: ids has its images, and whatever is
// saved is saved.tar.
func childEngine(args []string, dir string) int {
	fail := func(format string, a ...any) int { fmt.Fprintf(os.Stderr, format+"\n", a...); return 1 }
	note, err := os.OpenFile(filepath.Join(dir, "commands"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fail("%v", err)
	}
	fmt.Fprintln(note, strings.Join(args, " "))
	raw, err := os.ReadFile(filepath.Join(dir, "ids"))
	if err != nil {
		return fail("Cannot connect to the Docker daemon at unix:///var/run/docker.sock")
	}
	ids := map[string]string{}
	if err := json.Unmarshal(raw, &ids); err != nil {
		return fail("%v", err)
	}
	switch {
	case len(args) > 4 && slices.Equal(args[:4], []string{"image", "inspect", "--format", "{{.Id}} {{.Size}}"}):
		code := 0
		for _, ref := range args[4:] {
			if id, ok := ids[ref]; ok {
				fmt.Println(id, 1000)
			} else {
				code = fail("Error: No such image: %s", ref)
			}
		}
		return code
	case len(args) > 1 && args[0] == "save":
		f, err := os.Open(filepath.Join(dir, "saved.tar"))
		if err != nil {
			return fail("%v", err)
		}
		if _, err := io.Copy(os.Stdout, f); err != nil {
			return fail("%v", err)
		}
		return 0
	}
	return fail("unknown command %q", args)
}

// testEngine is an engine that has the images of the archive under these IDs. It
// returns its command and what tells the commands that it got.
func testEngine(t *testing.T, archive string, ids map[string]string) (string, func() []string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("IMAGES_TEST_CHILD", "engine")
	t.Setenv("IMAGES_TEST_DIR", dir)
	raw, err := json.Marshal(ids)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "ids"), string(raw))
	if err := os.Rename(archive, filepath.Join(dir, "saved.tar")); err != nil {
		t.Fatal(err)
	}
	return self, func() []string {
		raw, err := os.ReadFile(filepath.Join(dir, "commands"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, "commands"))
		return strings.Split(strings.TrimSpace(string(raw)), "\n")
	}
}

func configOf(t *testing.T, img v1.Image) string {
	t.Helper()
	h, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

func openTestEngine(t *testing.T, engine string, refs ...string) *EngineImages {
	t.Helper()
	s, err := OpenEngine(t.Context(), engine, refs, SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// An engine's image is saved when a node lacks it, once for all nodes, and otherwise
// not at all.
func TestLoadFromEngine(t *testing.T) {
	img := testImage(t, Gzip, "x", "y")
	id := configOf(t, img)
	engine, commands := testEngine(t, dockerSave(t, img, "app:v1"), map[string]string{"app:v1": id, "app:v2": id})
	a, b := newFakeNode("a"), newFakeNode("b")
	const inspect = "image inspect --format {{.Id}} {{.Size}} "

	got := mustLoad(t, []Node{a, b}, openTestEngine(t, engine, "app:v1").Images...)
	if diff := cmp.Diff([]string{inspect + "app:v1", "save app:v1"}, commands()); diff != "" {
		t.Error(diff)
	}
	digest := got.Nodes[0].Images[0].Digest.String()
	if a.images["docker.io/library/app:v1"] != digest || b.images["docker.io/library/app:v1"] != digest || got.Nodes[1].BytesSent == 0 {
		t.Errorf("images %q and %q, result %+v", a.images, b.images, got)
	}
	// The nodes' CRI has seen it by now, and names it by its config.
	a.images[id], b.images[id] = digest, digest
	a.argv, b.argv = nil, nil
	got = mustLoad(t, []Node{a, b}, openTestEngine(t, engine, "app:v1").Images...)
	if diff := cmp.Diff([]string{inspect + "app:v1"}, commands()); diff != "" {
		t.Error(diff)
	}
	if r := got.Nodes[0].Images[0]; !r.Already || r.Digest.String() != digest || r.BytesSkipped != 1000 || len(a.argv) != 1 {
		t.Errorf("there already: %+v, commands %q", r, a.commands())
	}
	// Another name for it: nothing is saved.
	got = mustLoad(t, []Node{a, b}, openTestEngine(t, engine, "app:v2").Images...)
	if diff := cmp.Diff([]string{inspect + "app:v2"}, commands()); diff != "" {
		t.Error(diff)
	}
	if r := got.Nodes[1].Images[0]; !r.Tagged || b.images["docker.io/library/app:v2"] != digest {
		t.Errorf("another name: %+v, images %q", r, b.images)
	}
	// The name that it was to be taken from has gone: then it is saved, late.
	delete(a.images, "docker.io/library/app:v2")
	a.failTag = func() error { return errors.New("not found") }
	s := openTestEngine(t, engine, "app:v2")
	if got := mustLoad(t, []Node{a}, s.Images...).Nodes[0].Images[0]; got.Tagged || got.BytesSent == 0 {
		t.Errorf("tag fails: %+v", got)
	}
	// It is a v1.Image like any other.
	assertWhole(t, s.Images[0].Image)
}

// savedIndex is multi:v1 as an engine with containerd saves it: the layout's folder, the index,
// its image for this machine, and its digest.
func savedIndex(t *testing.T) (dir string, index v1.ImageIndex, here v1.Image, digest v1.Hash) {
	t.Helper()
	index, here = testIndex(t, "multi")
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir = layoutDir(t, func(p layout.Path) error {
		return p.AppendIndex(index, layout.WithAnnotations(map[string]string{containerdName: "docker.io/library/multi:v1", refName: "v1"}))
	})
	return dir, index, here, digest
}

// An engine that keeps its images in containerd calls them by their manifest's or their
// index's digest.
func TestLoadFromEngineWithContainerd(t *testing.T) {
	dir, _, here, digest := savedIndex(t)
	engine, commands := testEngine(t, tarOfDir(t, dir), map[string]string{"multi:v1": digest.String()})
	n := newFakeNode("a")
	for range 2 {
		mustLoad(t, []Node{n}, openTestEngine(t, engine, "multi:v1").Images...)
	}
	if cmds := commands(); len(cmds) != 3 || n.images["docker.io/library/multi:v1"] != digest.String() || n.content[digestOf(t, here).String()] == nil {
		t.Errorf("commands %q, images %q", cmds, n.images)
	}
	if got := digestOf(t, openTestEngine(t, engine, "multi:v1").Images[0].Image); got != digestOf(t, here) {
		t.Errorf("as an image it is %s, want this platform's", got)
	}
}

// nerdctl calls an index by the config of the image in it that is for this machine, and saves
// the index with that image alone.
func TestLoadIndexFromNerdctl(t *testing.T) {
	dir, index, here, digest := savedIndex(t)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	// The other has the same config and layers.
	if err := os.Remove(filepath.Join(dir, blobName(manifest.Manifests[0].Digest))); err != nil {
		t.Fatal(err)
	}
	engine, commands := testEngine(t, tarOfDir(t, dir), map[string]string{"multi:v1": configOf(t, here)})
	n := newFakeNode("a")
	mustLoad(t, []Node{n}, openTestEngine(t, engine, "multi:v1").Images...)
	if cmds := commands(); len(cmds) != 2 || n.images["docker.io/library/multi:v1"] != digest.String() || n.content[digestOf(t, here).String()] == nil {
		t.Errorf("commands %q, images %q", cmds, n.images)
	}
}

func TestOpenEngineFails(t *testing.T) {
	img := testImage(t, Gzip, "x")
	engine, _ := testEngine(t, dockerSave(t, img, "app:v1"), map[string]string{"app:v1": "sha256:" + strings.Repeat("b", 64), "odd:v1": "what"})
	open := func(refs ...string) error {
		_, err := OpenEngine(t.Context(), engine, refs, SourceConfig{})
		return err
	}
	err := open("app:v1", "none:v1", "no:v2")
	wantError(t, err, "none:v1: the engine has no such image", "no:v2", "build or pull it", "image ls")
	if !errors.Is(err, ErrNoSuchImage) || strings.Contains(err.Error(), "app:v1") {
		t.Error(err)
	}
	wantError(t, open("odd:v1"), "begins with no digest")
	wantError(t, open("--all"), "cannot begin with a dash")
	_, err = Load(t.Context(), []Node{newFakeNode("a")}, openTestEngine(t, engine, "app:v1").Images, LoadConfig{})
	wantError(t, err, "is not image sha256:bbb", "built anew")
	_, err = OpenEngine(t.Context(), engine, []string{"app:v1", "odd:v1"}, SourceConfig{Ref: "x:1"})
	wantError(t, err, "cannot all be named x:1")
	t.Setenv("IMAGES_TEST_DIR", t.TempDir())
	wantError(t, open("app:v1"), "Cannot connect", "must be running")
	_, err = OpenEngine(t.Context(), "there-is-no-such-engine", []string{"app:v1"}, SourceConfig{})
	wantError(t, err, "there-is-no-such-engine", "not found")
}

func TestEngineArgv(t *testing.T) {
	for _, tt := range []struct{ got, want []string }{
		{inspectArgv("podman", "a", "b"), []string{"podman", "image", "inspect", "--format", "{{.Id}} {{.Size}}", "a", "b"}},
		{saveArgv("docker", []string{"a", "b"}), []string{"docker", "save", "a", "b"}},
		{saveArgv("nerdctl", []string{"a", "b"}), []string{"nerdctl", "save", "a", "b"}},
		{saveArgv("podman", []string{"a"}), []string{"podman", "save", "a"}},
		{saveArgv("/usr/bin/podman", []string{"a", "b"}), []string{"/usr/bin/podman", "save", "--multi-image-archive", "a", "b"}},
	} {
		if diff := cmp.Diff(tt.want, tt.got); diff != "" {
			t.Error(diff)
		}
	}
	hex := strings.Repeat("a", 64)
	got, err := parseInspect(hex+" 12\nsha256:"+hex+" 13", 2) // podman, docker
	if err != nil || got[0] != (engineEntry{"sha256:" + hex, 12}) || got[1].size != 13 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := parseInspect("sha256:"+hex+" 1", 2); err == nil {
		t.Error("one answer for two images passes")
	}
}

package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// childDocker stands for the docker client of an engine whose images are the
// archives in dir. It is as strict as Docker 20.10: no layer in zstd.
func childDocker(args []string, dir string) int {
	fail := func(format string, a ...any) int { fmt.Fprintf(os.Stderr, format+"\n", a...); return 1 }
	if _, err := os.Stat(filepath.Join(dir, "down")); err == nil {
		return fail("Cannot connect to the Docker daemon")
	}
	note, err := os.OpenFile(filepath.Join(dir, "commands"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fail("%v", err)
	}
	fmt.Fprintln(note, strings.Join(args, " "))
	archive := filepath.Join(dir, "loaded.tar")
	if len(args) == 1 && args[0] == "load" {
		f, err := os.Create(archive)
		if err != nil {
			return fail("%v", err)
		}
		defer f.Close()
		if _, err := io.Copy(f, os.Stdin); err != nil {
			return fail("%v", err)
		}
		return 0
	}
	if len(args) != 5 || strings.Join(args[:4], "|") != "image|inspect|--format|{{.Id}} {{json .RootFS.Layers}}" {
		return fail("unknown command %q", args)
	}
	tag, err := name.NewTag(args[4], name.WithDefaultTag(""))
	if err != nil {
		return fail("%v", err)
	}
	img, err := tarball.ImageFromPath(archive, &tag)
	if err != nil {
		return fail("No such image: %s (%v)", args[4], err)
	}
	id, diffIDs, err := dockerInspect(img)
	if err != nil {
		return fail("%v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "containerd-store")); err == nil {
		id = "sha256:of-a-manifest-of-its-own"
	}
	if _, err := os.Stat(filepath.Join(dir, "wrong")); err == nil {
		id, diffIDs = "sha256:wrong", nil
	}
	layers, err := json.Marshal(diffIDs)
	if err != nil {
		return fail("%v", err)
	}
	fmt.Println(id, string(layers))
	return 0
}

func dockerInspect(img v1.Image) (string, []v1.Hash, error) {
	id, err := img.ConfigName()
	if err != nil {
		return "", nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return "", nil, err
	}
	layers, err := img.Layers()
	if err != nil {
		return "", nil, err
	}
	if len(layers) != len(config.RootFS.DiffIDs) {
		return "", nil, fmt.Errorf("%d layers, %d diff IDs", len(layers), len(config.RootFS.DiffIDs))
	}
	for i, l := range layers {
		mediaType, err := l.MediaType()
		if err != nil {
			return "", nil, err
		}
		diffID, err := l.DiffID() // of the bytes in the archive
		if err != nil {
			return "", nil, err
		}
		if mediaType == types.OCILayerZStd || diffID != config.RootFS.DiffIDs[i] {
			return "", nil, fmt.Errorf("layer %d is %s with diff ID %s, the config says %s", i, mediaType, diffID, config.RootFS.DiffIDs[i])
		}
	}
	return id.String(), config.RootFS.DiffIDs, nil
}

func fakeEngine(t *testing.T) (LoadConfig, string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Setenv("IMAGES_TEST_CHILD", "docker")
	t.Setenv("IMAGES_TEST_DIR", dir)
	return LoadConfig{Engine: self}, dir
}

func loads(t *testing.T, dir string) int {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "commands"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Count("\n"+string(raw), "\nload\n")
}

func TestLoadEngine(t *testing.T) {
	for _, comp := range compressions {
		t.Run(comp.String(), func(t *testing.T) {
			cfg, dir := fakeEngine(t)
			var events []string
			cfg.OnEvent = func(e Event) { events = append(events, e.String()) }
			// The same layer twice is one file in the archive.
			img := testImage(t, comp, "one", "two", "one")
			c := openTestCache(t)
			image := NamedImage{Ref: "kindest/node:v1.37.2@" + digestOf(t, img).String(), Image: mustPut(t, c, "k", img)}
			for range 2 {
				if err := LoadEngine(t.Context(), image, cfg); err != nil {
					t.Fatal(err)
				}
			}
			if n := loads(t, dir); n != 1 {
				t.Errorf("%d loads, want one", n)
			}
			if last := events[len(events)-1]; !strings.Contains(last, "already there") {
				t.Errorf("events %q", events)
			}
			// Another image under the name.
			if err := LoadEngine(t.Context(), NamedImage{Ref: "kindest/node:v1.37.2", Image: testImage(t, comp, "changed")}, cfg); err != nil {
				t.Fatal(err)
			}
			if n := loads(t, dir); n != 2 {
				t.Errorf("%d loads, want two", n)
			}
		})
	}
}

func TestLoadEngineWithContainerdStore(t *testing.T) {
	cfg, dir := fakeEngine(t)
	writeFile(t, filepath.Join(dir, "containerd-store"), "")
	if err := LoadEngine(t.Context(), NamedImage{Ref: "a/b:v1", Image: testImage(t, Gzip, "x")}, cfg); err != nil {
		t.Fatal(err)
	}
}

func TestLoadEngineFailures(t *testing.T) {
	img := testImage(t, Gzip, "x")
	for what, want := range map[string][]string{
		"down":  {"a/b:v1", "Cannot connect to the Docker daemon", "must be running"},
		"wrong": {"afterwards the engine has image sha256:wrong", "want sha256:"},
	} {
		t.Run(what, func(t *testing.T) {
			cfg, dir := fakeEngine(t)
			writeFile(t, filepath.Join(dir, what), "")
			wantError(t, LoadEngine(t.Context(), NamedImage{Ref: "a/b:v1", Image: img}, cfg), want...)
		})
	}
	wantError(t, LoadEngine(t.Context(), NamedImage{Ref: "a/b:v1", Image: img}, LoadConfig{Engine: "no-such-engine"}), "no-such-engine", "executable file not found")
	wantError(t, LoadEngine(t.Context(), NamedImage{Ref: "a/b", Image: img}, LoadConfig{}), "latest")
	wantError(t, LoadEngine(t.Context(), NamedImage{Ref: "a/b@" + digestOf(t, img).String(), Image: img}, LoadConfig{}), "under a tag alone")
	wantError(t, LoadEngine(t.Context(), NamedImage{Ref: "a/b:v1"}, LoadConfig{}), "Image is nil")

	// The image's content is gone: that is the cause told.
	cfg, _ := fakeEngine(t)
	c := openTestCache(t)
	stored := mustPut(t, c, "k", img)
	if err := c.Prune(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	err := LoadEngine(t.Context(), NamedImage{Ref: "a/b:v1", Image: stored}, cfg)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

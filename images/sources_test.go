package images

import (
	"archive/tar"
	"bytes"
	"context"
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
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// tarOf writes a tar of these entries; a text that begins with "-> " is a link.
func tarOf(t *testing.T, entries ...[2]string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e[0], Size: int64(len(e[1])), Mode: 0o644}
		if to, ok := strings.CutPrefix(e[1], "-> "); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, to, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, e[1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tempFile(t, b.Bytes())
}

func tempFile(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

func uncompressed(t *testing.T, l v1.Layer) string {
	t.Helper()
	rc, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// dockerSave is the image as Docker 20.10 saves it: layers in folders, a layer that is
// there twice linked to, and what it is all about at the end.
func dockerSave(t *testing.T, img v1.Image, tags ...string) string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var entries [][2]string
	var names []string
	seen := map[v1.Hash]string{}
	for i, l := range layers {
		diffID, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		file := fmt.Sprintf("layer%d/layer.tar", i)
		names = append(names, file)
		entries = append(entries, [2]string{fmt.Sprintf("layer%d/VERSION", i), "1.0"})
		if before, ok := seen[diffID]; ok {
			entries = append(entries, [2]string{file, "-> ../" + before})
		} else {
			entries = append(entries, [2]string{file, uncompressed(t, l)})
		}
		seen[diffID] = file
	}
	config, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": tags, "Layers": names}})
	if err != nil {
		t.Fatal(err)
	}
	return tarOf(t, append(entries, [2]string{"config.json", string(config)}, [2]string{"manifest.json", string(manifest)})...)
}

// layoutDir is an OCI layout of the images, with these annotations in its index.
func layoutDir(t *testing.T, annotate func(p layout.Path) error) string {
	t.Helper()
	dir := t.TempDir()
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := annotate(p); err != nil {
		t.Fatal(err)
	}
	return dir
}

func tarOfDir(t *testing.T, dir string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return tempFile(t, b.Bytes())
}

func openTestArchive(t *testing.T, file string, cfg SourceConfig) *Archive {
	t.Helper()
	a, err := OpenArchive(t.Context(), file, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

func wantRefs(t *testing.T, all []NamedImage, refs ...string) {
	t.Helper()
	var got []string
	for _, n := range all {
		got = append(got, n.Ref)
	}
	if diff := cmp.Diff(refs, got); diff != "" {
		t.Errorf("names: %s", diff)
	}
}

// An image saved by Docker, and loaded, has its config and its layers' contents.
func TestOpenDockerArchive(t *testing.T) {
	img := testImage(t, Zstd, "one", "two")
	twice, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, twice[0]); err != nil {
		t.Fatal(err)
	}
	file := dockerSave(t, img, "app:v1", "example.org/app:v2")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var zipped, zstded bytes.Buffer
	g := gzip.NewWriter(&zipped)
	z, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	var digest v1.Hash
	for what, file := range map[string]string{"plain": file, "gzip": tempFile(t, zipped.Bytes()), "zstd": tempFile(t, zstded.Bytes())} {
		a := openTestArchive(t, file, SourceConfig{})
		wantRefs(t, a.Images, "app:v1", "example.org/app:v2")
		got := a.Images[0].Image
		assertWhole(t, got)
		a1, err1 := got.ConfigName()
		a2, err2 := img.ConfigName()
		if a1 != a2 || err1 != nil || err2 != nil {
			t.Errorf("%s: config %s, want %s (%v, %v)", what, a1, a2, err1, err2)
		}
		if digest == (v1.Hash{}) {
			digest = digestOf(t, got)
		} else if d := digestOf(t, got); d != digest {
			t.Errorf("%s: digest %s, want %s: the same each time", what, d, digest)
		}
		n := newFakeNode("a")
		mustLoad(t, []Node{n}, a.Images...)
		if n.images["docker.io/library/app:v1"] != digest.String() || n.images["example.org/app:v2"] != digest.String() {
			t.Errorf("%s: images %q", what, n.images)
		}
		// Each of the two layers once, though there are three and two names.
		if len(n.streams[0]) != 2+2+2 {
			t.Errorf("%s: sent %q", what, n.streams[0])
		}
	}
	// Renamed: one image under two names is one image.
	a := openTestArchive(t, file, SourceConfig{Ref: "other:v3"})
	wantRefs(t, a.Images, "other:v3")
}

// An archive with compressed layers, as ko, Bazel and crane write it.
func TestOpenArchiveWithCompressedLayers(t *testing.T) {
	img := testImage(t, Gzip, "one", "two")
	file := filepath.Join(t.TempDir(), "a.tar")
	tag, err := name.NewTag("example.org/app:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(file, tag, img); err != nil {
		t.Fatal(err)
	}
	a := openTestArchive(t, file, SourceConfig{})
	wantRefs(t, a.Images, "example.org/app:v1")
	assertWhole(t, a.Images[0].Image)
	_, _, want := parts(t, img)
	if _, _, got := parts(t, a.Images[0].Image); !slices.Equal(got, want) {
		t.Errorf("layers %s, want %s as they were", got, want)
	}
}

func TestOpenLayouts(t *testing.T) {
	img := testImage(t, Zstd, "x", "y")
	index, here := testIndex(t, "multi")
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	dir := layoutDir(t, func(p layout.Path) error {
		return errors.Join(
			p.AppendImage(img, layout.WithAnnotations(map[string]string{containerdName: "docker.io/library/app:v1", refName: "v1"})),
			p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: "example.org/app:v2"})),
			p.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: "example.org/multi:v1"})),
		)
	})
	fromDir, err := OpenLayout(dir, SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	for what, all := range map[string][]NamedImage{"folder": fromDir, "archive": openTestArchive(t, tarOfDir(t, dir), SourceConfig{}).Images} {
		wantRefs(t, all, "docker.io/library/app:v1", "example.org/app:v2", "example.org/multi:v1")
		assertWhole(t, all[0].Image)
		n := newFakeNode("a")
		mustLoad(t, []Node{n}, all...)
		if n.images["docker.io/library/app:v1"] != digestOf(t, img).String() || n.images["example.org/multi:v1"] != digest.String() {
			t.Errorf("%s: images %q", what, n.images)
		}
		if n.content[digestOf(t, here).String()] == nil {
			t.Errorf("%s: this platform's image was not sent", what)
		}
	}
}

// Of an index, docker save writes what it has: one platform.
func TestOpenPartialIndex(t *testing.T) {
	index, here := testIndex(t, "multi")
	dir := layoutDir(t, func(p layout.Path) error {
		return p.AppendIndex(index, layout.WithAnnotations(map[string]string{refName: "example.org/multi:v1"}))
	})
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, filepath.FromSlash(blobName(m.Manifests[0].Digest)))); err != nil { // s390x
		t.Fatal(err)
	}
	all, err := OpenLayout(dir, SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	n := newFakeNode("a")
	mustLoad(t, []Node{n}, all...)
	if n.content[digestOf(t, here).String()] == nil || len(n.images) != 1 {
		t.Errorf("images %q", n.images)
	}
	n = newFakeNode("b")
	n.uname = "s390x"
	_, err = Load(t.Context(), []Node{n}, all, LoadConfig{})
	wantError(t, err, "example.org/multi:v1", "linux/s390x", "not there with all its content", "is missing")
	n.uname = "riscv64"
	_, err = Load(t.Context(), []Node{n}, all, LoadConfig{})
	wantError(t, err, "not there for linux/riscv64, only for", "linux/s390x")
}

func TestOpenSourcesFail(t *testing.T) {
	img := testImage(t, Gzip, "x")
	m, _, layers := parts(t, img)
	nameless := func(p layout.Path) error {
		return p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: "v1"}))
	}
	damaged := func(what string, content []byte) string {
		dir := layoutDir(t, func(p layout.Path) error {
			return p.AppendImage(img, layout.WithAnnotations(map[string]string{refName: "a:1"}))
		})
		if content == nil {
			if err := os.Remove(filepath.Join(dir, what)); err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(filepath.Join(dir, what), content, 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	saved := dockerSave(t, img, "a:1")
	raw, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		open func() error
		want []string
	}{
		"no file":          {openFile("/nonexistent/a.tar"), []string{"open image archive", "no such file"}},
		"no tar":           {openFile(tempFile(t, bytes.Repeat([]byte("no tar at all "), 100))), []string{"read it as a tar"}},
		"empty":            {openFile(tempFile(t, nil)), []string{"it is empty, or no tar"}},
		"docker export":    {openFile(tarOf(t, [2]string{"bin/sh", "x"})), []string{"no archive of images", "bin/sh", "docker export does not"}},
		"cut short":        {openFile(tempFile(t, raw[:1300])), []string{"read it as a tar", "not have been to its end"}},
		"half a gzip":      {openFile(tempFile(t, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0, 1})), []string{"unpack it"}},
		"no layer":         {openFile(tarOf(t, [2]string{"manifest.json", `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`}, [2]string{"c", `{"rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("a", 64) + `"]}}`})), []string{"image a:1", "layer l", "file does not exist"}},
		"layers disagree":  {openFile(tarOf(t, [2]string{"manifest.json", `[{"Config":"c","RepoTags":["a:1"],"Layers":["l"]}]`}, [2]string{"c", `{}`})), []string{"1 layers", "tells of 0"}},
		"no images":        {openFile(tarOf(t, [2]string{"manifest.json", `[]`})), []string{"holds no image"}},
		"nameless":         {openFile(dockerSave(t, img)), []string{"no full name", "config.json", "SourceConfig.Ref"}},
		"no layout":        {openDir(t.TempDir()), []string{"open OCI layout", "index.json"}},
		"layout nameless":  {openDir(layoutDir(t, nameless)), []string{"no full name", m.String()}},
		"layer missing":    {openDir(damaged(blobName(layers[0]), nil)), []string{"image a:1", layers[0].String(), "is missing"}},
		"layer cut short":  {openDir(damaged(blobName(layers[0]), []byte("x"))), []string{layers[0].String(), "does not fit its digest"}},
		"manifest damaged": {openDir(damaged(blobName(m), []byte("{}"))), []string{m.String(), "does not fit its digest"}},
		"index no JSON":    {openDir(damaged("index.json", []byte("{"))), []string{"read index.json"}},
		"two, one name": {func() error {
			_, err := OpenLayout(layoutDir(t, func(p layout.Path) error {
				return errors.Join(nameless(p), p.AppendImage(testImage(t, Gzip, "y"), layout.WithAnnotations(map[string]string{refName: "b:1"})))
			}), SourceConfig{Ref: "c:1"})
			return err
		}, []string{"several images (one without a name, b:1)", "c:1"}},
	} {
		t.Run(what, func(t *testing.T) { wantError(t, tt.open(), tt.want...) })
	}
}

func openFile(name string) func() error {
	return func() error {
		a, err := OpenArchive(context.Background(), name, SourceConfig{})
		if err == nil {
			err = errors.Join(errors.New("opened"), a.Close())
		}
		return err
	}
}

func openDir(name string) func() error {
	return func() error {
		_, err := OpenLayout(name, SourceConfig{})
		return err
	}
}

// What does not fit its digest never gets a name on a node, and what the node had stays.
func TestLoadRefusesCorruptBlob(t *testing.T) {
	old, img := testImage(t, Zstd, "base", "old"), testImage(t, Zstd, "base", "new")
	_, _, layers := parts(t, img)
	for what, damage := range map[string]func([]byte) []byte{
		"changed": func(b []byte) []byte { b = slices.Clone(b); b[len(b)/2] ^= 1; return b },
		"short":   func(b []byte) []byte { return b[:len(b)-1] },
		"long":    func(b []byte) []byte { return append(slices.Clone(b), 0) },
	} {
		n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: old})
		before := n.images["docker.io/library/app:v1"]
		_, err := Load(t.Context(), []Node{n}, []NamedImage{{Ref: "app:v1", Image: damagedImage{img, layers[1], damage}}}, LoadConfig{})
		wantError(t, err, "send blob "+layers[1].String(), "does not fit its digest")
		if !errors.Is(err, ErrCorrupt) || n.images["docker.io/library/app:v1"] != before || len(n.images) != 1 || len(n.argv) != 3 {
			t.Errorf("%s: %v, images %q, commands %q", what, err, n.images, n.commands())
		}
	}
}

// damagedImage has a layer whose bytes are not what its digest says.
type damagedImage struct {
	v1.Image
	digest v1.Hash
	damage func([]byte) []byte
}

func (d damagedImage) Layers() ([]v1.Layer, error) {
	layers, err := d.Image.Layers()
	for i, l := range layers {
		if digest, _ := l.Digest(); digest == d.digest {
			layers[i] = damagedLayer{l, d.damage}
		}
	}
	return layers, err
}

type damagedLayer struct {
	v1.Layer
	damage func([]byte) []byte
}

func (d damagedLayer) Compressed() (io.ReadCloser, error) {
	rc, err := d.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := io.ReadAll(rc)
	return io.NopCloser(bytes.NewReader(d.damage(raw))), err
}

func TestParseMachine(t *testing.T) {
	for machine, want := range map[string]string{
		"x86_64": "linux/amd64", "aarch64": "linux/arm64", "armv7l": "linux/arm/v7", "armv6l": "linux/arm/v6",
		"i686": "linux/386", "s390x": "linux/s390x", "ppc64le": "linux/ppc64le", "riscv64": "linux/riscv64",
	} {
		if got, err := parseMachine(machine); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v; want %s", machine, got, err, want)
		}
	}
	if _, err := parseMachine(""); err == nil {
		t.Error("no error for nothing")
	}
}

func TestFits(t *testing.T) {
	p := func(s string) v1.Platform {
		got, err := v1.ParsePlatform(s)
		if err != nil {
			t.Fatal(err)
		}
		return *got
	}
	for pair, want := range map[[2]string]bool{
		{"linux/amd64", "linux/amd64"}: true, {"linux/arm64/v8", "linux/arm64"}: true, {"linux/arm/v7", "linux/arm/v7"}: true,
		{"linux/arm/v6", "linux/arm/v7"}: false, {"linux/arm64", "linux/amd64"}: false, {"windows/amd64", "linux/amd64"}: false, {"unknown/unknown", "linux/amd64"}: false,
	} {
		if got := fits(p(pair[0]), p(pair[1])); got != want {
			t.Errorf("%s on %s: %v", pair[0], pair[1], got)
		}
	}
}

func TestJudge(t *testing.T) {
	const d, id = "sha256:dddd", "sha256:1111"
	plainImage := wantedImage{name: "a:1", desc: v1.Descriptor{Digest: v1.Hash{Algorithm: "sha256", Hex: "dddd"}}}
	ofEngine := wantedImage{name: "a:1", engine: &engineImage{id: id}}
	whole := func(digest string) imageState { return imageState{digest: digest, complete: true, unpacked: true} }
	half := imageState{digest: d, complete: true}
	for what, tt := range map[string]struct {
		image  wantedImage
		states map[string]imageState
		want   standing
		from   string
	}{
		"nothing there":              {plainImage, nil, absent, ""},
		"there":                      {plainImage, map[string]imageState{"a:1": whole(d)}, present, "a:1"},
		"another one":                {plainImage, map[string]imageState{"a:1": whole("sha256:x")}, absent, ""},
		"not unpacked":               {plainImage, map[string]imageState{"a:1": half}, absent, ""},
		"other name":                 {plainImage, map[string]imageState{"b:1": whole(d), "c:1": whole(d), "sha256:0": whole(d)}, renamed, "b:1"},
		"only a digest":              {plainImage, map[string]imageState{"a:1": half, "sha256:0": whole(d)}, renamed, "sha256:0"},
		"other name, not unpacked":   {plainImage, map[string]imageState{"b:1": half}, absent, ""},
		"engine: there by config":    {ofEngine, map[string]imageState{"a:1": whole(d), id: whole(d)}, present, "a:1"},
		"engine: there by manifest":  {ofEngine, map[string]imageState{"a:1": whole(id)}, present, "a:1"},
		"engine: other content":      {ofEngine, map[string]imageState{"a:1": whole(d), id: whole("sha256:x")}, renamed, id},
		"engine: config not told of": {ofEngine, map[string]imageState{"a:1": whole(d)}, absent, ""},
		"engine: other name":         {ofEngine, map[string]imageState{id: whole(d)}, renamed, id},
		"engine: broken":             {ofEngine, map[string]imageState{"a:1": half, id: half}, absent, ""},
	} {
		if got := judge(tt.image, tt.states); got.standing != tt.want || got.from != tt.from {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestLatest(t *testing.T) {
	for ref, want := range map[string]string{
		"app": "docker.io/library/app:latest", "app:latest": "docker.io/library/app:latest", "app:v1": "docker.io/library/app:v1",
		"localhost/app": "localhost/app:latest", "localhost/team/app:1": "localhost/team/app:1", "quay.io/a/b": "quay.io/a/b:latest",
	} {
		if got, err := nodeName(ref, true); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", ref, got, err, want)
		}
	}
	n := newFakeNode("a")
	if _, err := Load(t.Context(), []Node{n}, []NamedImage{{Ref: "app", Image: testImage(t, Gzip, "x")}}, LoadConfig{Latest: true}); err != nil || n.images["docker.io/library/app:latest"] == "" {
		t.Errorf("%v, images %q", err, n.images)
	}
}

package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

var compressions = []Compression{Zstd, Gzip, Uncompressed}

// sampleFiles has one of everything, in no order.
func sampleFiles() []File {
	return []File{
		{Path: "/usr/bin/tool", Mode: 0o755 | fs.ModeSetuid, UID: 3, GID: 4, Size: 5, Open: bytesOpener([]byte("hello"))},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "/usr/bin/link", Link: "tool", UID: 7},
		{Path: "empty", Mode: 0o600},
		FileFromBytes("/"+strings.Repeat("long/", 60)+"name", 0o644, []byte("x")), // too long for USTAR
	}
}

func TestLayerEntries(t *testing.T) {
	l, err := Layer(sampleFiles(), Zstd)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got := map[string]*tar.Header{}
	var order []string
	for r := tar.NewReader(rc); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.Unix() != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %v, user %q, group %q; want the epoch and no names", h.Name, h.ModTime, h.Uname, h.Gname)
		}
		if h.Format != tar.FormatUSTAR && h.Format != tar.FormatPAX {
			t.Errorf("%s: format %v, want USTAR or PAX", h.Name, h.Format)
		}
		got[h.Name] = h
		order = append(order, strings.TrimSuffix(h.Name, "/"))
	}
	if !slices.IsSorted(order) {
		t.Errorf("entries are not sorted: %q", order)
	}
	for name, want := range map[string]tar.Header{
		"usr/":                               {Typeflag: tar.TypeDir, Mode: 0o755},
		"usr/bin/":                           {Typeflag: tar.TypeDir, Mode: 0o755},
		"usr/bin/tool":                       {Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 3, Gid: 4, Size: 5},
		"usr/bin/link":                       {Typeflag: tar.TypeSymlink, Mode: 0o777, Uid: 7, Linkname: "tool"},
		"tmp/":                               {Typeflag: tar.TypeDir, Mode: 0o1777},
		"empty":                              {Typeflag: tar.TypeReg, Mode: 0o600},
		strings.Repeat("long/", 60) + "name": {Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
	} {
		h := got[name]
		if h == nil {
			t.Errorf("no entry %q in %q", name, order)
			continue
		}
		if h.Typeflag != want.Typeflag || h.Mode != want.Mode || h.Uid != want.Uid || h.Gid != want.Gid || h.Size != want.Size || h.Linkname != want.Linkname {
			t.Errorf("%s: got %+v, want %+v", name, h, want)
		}
	}
}

func TestLayerIsReproducible(t *testing.T) {
	for _, c := range compressions {
		t.Run(c.String(), func(t *testing.T) {
			a, err := Layer(sampleFiles(), c)
			if err != nil {
				t.Fatal(err)
			}
			files := sampleFiles()
			slices.Reverse(files)
			b, err := Layer(files, c)
			if err != nil {
				t.Fatal(err)
			}
			if a, b := digestOf(t, a), digestOf(t, b); a != b {
				t.Errorf("digest %s, with the files the other way round %s", a, b)
			}
			// Digest, diff ID and size as told are those of the bytes, twice over.
			for range 2 {
				assertLayer(t, a)
			}
			imgs := [2]v1.Image{}
			for i := range imgs {
				if imgs[i], err = New(v1.ConfigFile{Config: v1.Config{Cmd: []string{"x"}}}, a, b); err != nil {
					t.Fatal(err)
				}
			}
			if a, b := digestOf(t, imgs[0]), digestOf(t, imgs[1]); a != b {
				t.Errorf("image digests %s and %s", a, b)
			}
		})
	}
}

// The digest must not depend on the pieces in which the content arrives.
func TestCompressionIgnoresChunks(t *testing.T) {
	content := append(bytes.Repeat([]byte("compressible text, "), 1<<17), noise(1<<20)...)
	for _, c := range compressions {
		digests := map[v1.Hash]int{}
		for _, chunk := range []int{len(content), 1000, 32 << 10, 1<<20 + 1} {
			l, err := newLayer(c, func(w io.Writer) error {
				for piece := range slices.Chunk(content, chunk) {
					if _, err := w.Write(piece); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			digests[l.digest] = chunk
		}
		if len(digests) != 1 {
			t.Errorf("%v: %d digests for one content: %v", c, len(digests), digests)
		}
	}
}

func TestNewIsOCI(t *testing.T) {
	for c, want := range map[Compression]types.MediaType{
		Zstd: types.OCILayerZStd, Gzip: types.OCILayer, Uncompressed: types.OCIUncompressedLayer,
	} {
		img := testImage(t, c, "some content")
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if m.MediaType != types.OCIManifestSchema1 || m.Config.MediaType != types.OCIConfigJSON || m.Layers[0].MediaType != want {
			t.Errorf("%v: manifest %s, config %s, layer %s", c, m.MediaType, m.Config.MediaType, m.Layers[0].MediaType)
		}
		assertWhole(t, img)
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if cfg.OS != "linux" || cfg.Architecture == "" || cfg.Created.Unix() != 0 || len(cfg.History) != 1 {
			t.Errorf("config %+v", cfg)
		}
	}
}

func TestLayerFromTar(t *testing.T) {
	arranged, err := arrange(sampleFiles())
	if err != nil {
		t.Fatal(err)
	}
	var plain bytes.Buffer
	if err := writeTar(&plain, arranged); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(name, plain.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range compressions {
		fromTar, err := LayerFromTar(name, c)
		if err != nil {
			t.Fatal(err)
		}
		assertLayer(t, fromTar)
		fromFiles, err := Layer(sampleFiles(), c)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := digestOf(t, fromTar), digestOf(t, fromFiles); a != b {
			t.Errorf("%v: from the tar %s, from the files %s", c, a, b)
		}
	}

	var compressed bytes.Buffer
	w, err := Gzip.writer(&compressed)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(plain.Bytes())
	w.Close()
	if err := os.WriteFile(name, compressed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err = LayerFromTar(name, Gzip)
	wantError(t, err, "x.tar", "is compressed")
	_, err = LayerFromTar(name+".no", Gzip)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing tar: %v", err)
	}
}

func TestLayerRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		files []File
		want  string
	}{
		"out of the image":   {[]File{{Path: "a/../../b"}}, "leaves the image"},
		"root":               {[]File{{Path: "/"}}, "empty or the root"},
		"twice":              {[]File{{Path: "/a"}, {Path: "a"}}, "given twice"},
		"dirs that differ":   {[]File{{Path: "a", Mode: fs.ModeDir | 0o755}, {Path: "a", Mode: fs.ModeDir | 0o700}}, "given twice"},
		"under a file":       {[]File{{Path: "a"}, {Path: "a/b"}}, "not a directory"},
		"under a link":       {[]File{{Path: "lib", Link: "usr/lib"}, {Path: "lib/x"}}, "not a directory"},
		"size without open":  {[]File{{Path: "a", Size: 3}}, "no Open"},
		"too little content": {[]File{{Path: "a", Size: 3, Open: bytesOpener([]byte("x"))}}, "1 bytes, Size says 3"},
		"too much content":   {[]File{{Path: "a", Size: 1, Open: bytesOpener([]byte("xyz"))}}, "a"},
		"directory content":  {[]File{{Path: "a", Mode: fs.ModeDir, Open: bytesOpener(nil)}}, "a directory with"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Layer(tt.files, Gzip)
			wantError(t, err, tt.want)
		})
	}
	_, err := Layer(nil, Compression(9))
	wantError(t, err, "unknown compression 9")
}

func TestFileFromDisk(t *testing.T) {
	dir := t.TempDir()
	src := filepath.Join(dir, "f")
	if err := os.WriteFile(src, []byte("abc"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
		t.Fatal(err)
	}
	f, err := FileFromDisk("etc/f", src)
	if err != nil || f.Size != 3 || f.Mode.Perm() != 0o640 || f.Path != "etc/f" {
		t.Errorf("file: %+v, %v", f, err)
	}
	if l, err := FileFromDisk("l", filepath.Join(dir, "l")); err != nil || l.Link != "f" {
		t.Errorf("link: %+v, %v", l, err)
	}
	if d, err := FileFromDisk("d", dir); err != nil || !d.Mode.IsDir() {
		t.Errorf("directory: %+v, %v", d, err)
	}
	if _, err := FileFromDisk("n", os.DevNull); err == nil {
		t.Error("a device was taken")
	}
}

// testImage is an image of one layer for each content.
func testImage(t *testing.T, c Compression, contents ...string) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for i, content := range contents {
		l, err := Layer([]File{FileFromBytes("data/"+string(rune('a'+i)), 0o644, []byte(content))}, c)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := New(v1.ConfigFile{Config: v1.Config{Entrypoint: []string{"/x"}}}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t *testing.T, d interface{ Digest() (v1.Hash, error) }) v1.Hash {
	t.Helper()
	h, err := d.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// assertLayer reads the layer both ways and compares with what it says of itself.
// (go-containerregistry's validate knows gzip alone.)
func assertLayer(t *testing.T, l v1.Layer) {
	t.Helper()
	size, err := l.Size()
	if err != nil {
		t.Fatal(err)
	}
	diffID, err := l.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	for what, read := range map[string]struct {
		open func() (io.ReadCloser, error)
		want v1.Hash
	}{"compressed": {l.Compressed, digestOf(t, l)}, "uncompressed": {l.Uncompressed, diffID}} {
		rc, err := read.open()
		if err != nil {
			t.Fatal(err)
		}
		got, n, err := v1.SHA256(rc)
		if err != nil {
			t.Fatal(err)
		}
		rc.Close()
		if got != read.want || what == "compressed" && n != size {
			t.Errorf("%s: content %s of %d bytes, told %s and %d", what, got, n, read.want, size)
		}
	}
}

// assertWhole checks that manifest, config and layers agree.
func assertWhole(t *testing.T, img v1.Image) {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	name, err := img.ConfigName()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if name != m.Config.Digest || len(layers) != len(m.Layers) || len(layers) != len(cfg.RootFS.DiffIDs) {
		t.Fatalf("config %s, %d layers, %d diff IDs; manifest %+v", name, len(layers), len(cfg.RootFS.DiffIDs), m)
	}
	for i, l := range layers {
		assertLayer(t, l)
		diffID, err := l.DiffID()
		if err != nil {
			t.Fatal(err)
		}
		if digestOf(t, l) != m.Layers[i].Digest || diffID != cfg.RootFS.DiffIDs[i] {
			t.Errorf("layer %d: %s, %s; manifest %s, config %s", i, digestOf(t, l), diffID, m.Layers[i].Digest, cfg.RootFS.DiffIDs[i])
		}
	}
}

// wantError fails unless err says all of want.
func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", want)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

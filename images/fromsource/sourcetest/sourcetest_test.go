package sourcetest

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
)

// entry is a file with this text; a path that ends in a slash is a directory.
func entry(name, text string) images.File {
	if strings.HasSuffix(name, "/") {
		return images.File{Path: name, Mode: fs.ModeDir | 0o755}
	}
	return images.FileFromBytes(name, 0o755, []byte(text))
}

// stored is an image of these layers, the lowest first, as it comes out of a cache.
func stored(t *testing.T, layers ...[]images.File) v1.Image {
	t.Helper()
	var all []v1.Layer
	for i, files := range layers {
		l, err := images.Layer(files, []images.Compression{images.Zstd, images.Uncompressed, images.Gzip}[i%3])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	img, err := images.New(v1.ConfigFile{}, all...)
	if err != nil {
		t.Fatal(err)
	}
	cache, err := images.OpenCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if img, err = cache.Put(t.Context(), "test", img); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestExtract(t *testing.T) {
	type layer = []images.File
	const x, y = "/opt/bin/x", "/opt/bin/y"
	for name, tt := range map[string]struct {
		layers []layer
		want   string // of x and y, or of the error
		fails  bool
	}{
		"one layer":                   {layers: []layer{{entry(x, "x"), entry(y, "y")}}, want: "x y"},
		"the upper layer wins":        {layers: []layer{{entry(x, "old"), entry(y, "y")}, {entry(x, "new")}}, want: "new y"},
		"each from its own layer":     {layers: []layer{{entry(y, "y")}, {entry("/other", "")}, {entry(x, "x")}}, want: "x y"},
		"removed, and made anew":      {layers: []layer{{entry(x, "old"), entry(y, "y")}, {entry("/opt/bin/.wh.x", "")}, {entry(x, "new")}}, want: "new y"},
		"removed and made in a layer": {layers: []layer{{entry(x, "old"), entry(y, "y")}, {entry("/opt/bin/.wh.x", ""), entry(x, "new")}}, want: "new y"},
		"a folder emptied and filled": {layers: []layer{{entry(x, "old")}, {entry("/opt/.wh..wh..opq", ""), entry(x, "x"), entry(y, "y")}}, want: "x y"},
		"a neighbour removed":         {layers: []layer{{entry(x, "x"), entry(y, "y"), entry("/opt/bi", "")}, {entry("/opt/bin/.wh.z", ""), entry("/opt/.wh.bi", "")}}, want: "x y"},
		"a folder's mode changed":     {layers: []layer{{entry(x, "x"), entry(y, "y")}, {entry("/opt/bin/", "")}}, want: "x y"},
		"absent":                      {layers: []layer{{entry(x, "x")}}, want: "there is no " + y, fails: true},
		"both absent":                 {layers: []layer{{entry("/z", "")}}, want: "there is no " + x + ", no " + y, fails: true},
		"removed":                     {layers: []layer{{entry(x, "x"), entry(y, "y")}, {entry("/opt/bin/.wh.x", "")}}, want: "there is no " + x + ";", fails: true},
		"its folder removed":          {layers: []layer{{entry(x, "x"), entry(y, "y")}, {entry("/opt/.wh.bin", "")}}, want: x + ", no " + y, fails: true},
		"a folder above emptied":      {layers: []layer{{entry(x, "x"), entry(y, "y")}, {entry("/.wh..wh..opq", "")}}, want: x + ", no " + y, fails: true},
		"its folder replaced":         {layers: []layer{{entry(x, "x"), entry(y, "y")}, {{Path: "/opt/bin", Mode: 0o777, Link: "/bin"}}}, want: x + ", no " + y, fails: true},
		"a link": {layers: []layer{{entry(x, "x"), {Path: y, Mode: 0o777, Link: "x"}}},
			want: fmt.Sprintf("%s: it is no regular file (type %q, link to \"x\")", y, tar.TypeSymlink), fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := extract(t.Context(), stored(t, tt.layers...), dir, []string{x, y})
			if tt.fails {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("error %v, want one that says %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := content(t, dir, "x") + " " + content(t, dir, "y"); got != tt.want {
				t.Errorf("x and y hold %q, want %q", got, tt.want)
			}
			if info, err := os.Stat(filepath.Join(dir, "x")); err != nil || info.Mode()&0o100 == 0 {
				t.Errorf("x cannot be run: %v, %v", info.Mode(), err)
			}
		})
	}
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// A folder is found again, another image or set of files has another one, and a
// failure leaves none.
func TestPlace(t *testing.T) {
	store := t.TempDir()
	found := map[string]v1.Image{
		"a:1": stored(t, []images.File{entry("/a/x", "1"), entry("/a/z", "z")}),
		"a:2": stored(t, []images.File{entry("/a/x", "2")}),
		"b:1": stored(t, []images.File{entry("/b/x", "b"), entry("/b/y", "y")}),
	}
	ax, az, by := File{"a:1", "/a/x"}, File{"a:1", "/a/z"}, File{"b:1", "/b/y"}
	must := func(files ...File) string {
		t.Helper()
		dir, err := place(t.Context(), store, files, found)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	dir := must(ax, by)
	if got := content(t, dir, "x") + content(t, dir, "y"); got != "1y" {
		t.Errorf("x and y of two images hold %q, want 1y", got)
	}
	if again := must(by, ax); again != dir {
		t.Errorf("the same files in another order lie in %s, not in %s", again, dir)
	}
	others := []string{dir, must(ax), must(ax, az), must(File{"a:2", "/a/x"}), must(File{"b:1", "/b/x"})}
	if slices.Sort(others); len(slices.Compact(others)) != 5 {
		t.Errorf("different files share a folder: %q", others)
	}

	entries := func() int {
		all, err := os.ReadDir(store)
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	before := entries()
	for name, tt := range map[string]struct {
		files []File
		want  string
	}{
		"the same name twice": {[]File{ax, {"b:1", "/b/x"}}, "two files are named x"},
		"no such file":        {[]File{ax, {"b:1", "/b/q"}}, "image b:1: there is no /b/q"},
	} {
		if _, err := place(t.Context(), store, tt.files, found); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one that says %q", name, err, tt.want)
		}
	}
	if after := entries(); after != before {
		t.Errorf("failures left %d entries behind", after-before)
	}

	// A process was killed at it.
	if err := os.Rename(dir, dir+".part"); err != nil {
		t.Fatal(err)
	}
	if again := must(ax, by); again != dir || content(t, dir, "x") != "1" {
		t.Errorf("after a half one: %s, want %s", again, dir)
	}
}

func TestSparse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines := 0
		tell := sparse(func(string, ...any) { lines++ }, time.Minute)
		for range 121 {
			tell(fromsource.Event{What: "compiling a"})
			time.Sleep(time.Second)
		}
		if lines != 3 {
			t.Errorf("%d lines in two minutes, want 3", lines)
		}
		if tell(fromsource.Event{What: "compiling b"}); lines != 4 {
			t.Errorf("%d lines after something new, want 4", lines)
		}
	})
}

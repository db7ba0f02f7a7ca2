package fromsource

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/random"
)

func TestRecipesAreSound(t *testing.T) {
	b, err := openBook(recipeFiles)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{
		"kindest/node:v1.37.2", "quay.io/cilium/cilium:v1.20.2", "quay.io/cilium/operator-generic:v1.20.2",
		"quay.io/cilium/hubble-relay:v1.20.2", "ghcr.io/spiffe/spire-server:1.13.3", "ghcr.io/spiffe/spire-agent:1.13.3",
		"ghcr.io/spiffe/oidc-discovery-provider:1.13.3", "ghcr.io/spiffe/spiffe-helper:0.11.0", "docker.io/hashicorp/vault:1.21.0",
		"docker.io/library/postgres:15-bookworm",
	} {
		if !slices.Contains(b.refs, ref) {
			t.Errorf("no recipe for %s", ref)
		}
	}
	for _, ref := range b.refs {
		img := b.images[ref]
		if img.recipe.Source == "" || img.spec.Title == "" {
			t.Errorf("%s: source or title missing: the labels come from them", ref)
		}
	}
}

// A bad recipe is refused with everything that is wrong, not the first fault.
func TestBadRecipes(t *testing.T) {
	good := "name: a\nversion: v1\nsource: s\ncommands: [{name: x, source: x/main.go}]\nimages:\n"
	for name, tc := range map[string]struct {
		yaml string
		want []string
	}{
		"unknown key":  {"name: a\ncolour: red\n", []string{`unknown field "colour"`}},
		"wrong name":   {"name: b\n", []string{`its name is "b"`}},
		"no pins":      {"name: a\nmodule: example.org/a\n", []string{"recipes/a.mod"}},
		"many at once": {good + "  - {ref: r/a, title: t, files: [{path: rel, command: nope, text: z}]}\n", []string{"needs a tag", "2 sources", "not an absolute path", `builds no command "nope"`}},
		"latest":       {good + "  - {ref: r/a:latest, title: t, files: []}\n", []string{"not latest"}},
		"mode":         {good + "  - {ref: r/a:1, title: t, files: [{path: /x, text: z, mode: '99'}]}\n", []string{"not an octal"}},
		"text twice":   {good + "  - {ref: r/a:1, title: t, files: [{path: /x, text: z, textFile: no.sh}]}\n", []string{"file /x has both"}},
		"no text file": {good + "  - {ref: r/a:1, title: t, files: [{path: /x, textFile: no.sh}]}\n", []string{"file /x", "recipes/no.sh"}},
		"preload":      {good + "  - {ref: r/a:1, title: t, files: [{path: /x, preload: [r/b:1]}]}\n", []string{"r/b:1, which no recipe makes"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := openBook(fstest.MapFS{"recipes/a.yaml": {Data: []byte(tc.yaml)}})
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

// The key of an image changes with everything that goes into it.
func TestKey(t *testing.T) {
	load := func() *book {
		b, err := openBook(recipeFiles)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	const node = "kindest/node:v1.37.2"
	key := func(b *book, toolchain, shim string) string {
		k, err := b.key(b.images[node], toolchain, shim)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	base := key(load(), "go1", "shim")
	if again := key(load(), "go1", "shim"); again != base {
		t.Error("the same recipe has two keys")
	}
	seen := map[string]string{base: "nothing changed"}
	for name, change := range map[string]func(*book){
		"the sums of a recipe it takes commands from": func(b *book) { b.recipes["kubernetes"].sum = append(b.recipes["kubernetes"].sum, '\n') },
		"a flag of a preloaded image's recipe":        func(b *book) { b.recipes["etcd"].LDFlags = append(b.recipes["etcd"].LDFlags, "-X a=b") },
		"a package of its userland":                   func(b *book) { u := b.images[node].spec.Userland; u.Packages = append(u.Packages, "vim") },
		"its entry point":                             func(b *book) { b.images[node].spec.Entrypoint = []string{"/x"} },
		"its module's sums":                           func(b *book) { b.recipes["kind"].sum = nil },
	} {
		b := load()
		change(b)
		k := key(b, "go1", "shim")
		if other, taken := seen[k]; taken {
			t.Errorf("%s: same key as: %s", name, other)
		}
		seen[k] = name
	}
	for name, k := range map[string]string{"toolchain": key(load(), "go2", "shim"), "shim": key(load(), "go1", "other")} {
		if _, taken := seen[k]; taken {
			t.Errorf("another %s: same key", name)
		}
		seen[k] = name
	}
}

// A text that lies in a file of its own is part of the key, like any other.
func TestTextFile(t *testing.T) {
	key := func(text string) string {
		b, err := openBook(fstest.MapFS{
			"recipes/a.yaml": {Data: []byte("name: a\nversion: v1\nimages: [{ref: r/a:1, files: [{path: /x, textFile: a/x.sh}]}]\n")},
			"recipes/a/x.sh": {Data: []byte(text)},
		})
		if err != nil {
			t.Fatal(err)
		}
		img := b.images["r/a:1"]
		if got := img.spec.Files[0].Text; got != text {
			t.Errorf("text %q, want %q", got, text)
		}
		k, err := b.key(img, "go1", "shim")
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if key("one") == key("two") {
		t.Error("another text, the same key")
	}
}

// Every image has one PATH: the recipe's, or the usual one.
func TestPath(t *testing.T) {
	for name, tc := range map[string]struct{ env, want []string }{
		"default": {[]string{"A=b"}, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=b"}},
		"own":     {[]string{"A=b", "PATH=/x"}, []string{"A=b", "PATH=/x"}},
	} {
		if d := cmp.Diff(tc.want, imageOf{&recipe{}, &imageSpec{Env: tc.env}}.config().Env); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func TestBuildArgs(t *testing.T) {
	r := &recipe{Name: "r", Tags: []string{"a"}, LDFlags: []string{"-s", "-X p.v=1 2"}}
	got := r.buildArgs(command{Name: "c", Package: "example.org/c", Tags: []string{"b"}}, "/out/c")
	want := []string{"go", "build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false", "-tags=a,b", "-ldflags=-s -X p.v=1 2", "-o", "/out/c", "example.org/c"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestMmdebstrapArgs(t *testing.T) {
	got := mmdebstrapArgs(userland{Suite: "bookworm", Packages: []string{"a", "b"}}, "amd64", "http://mirror.test/debian", "/o.tar")
	want := []string{"mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar", "--architectures=amd64", "--include=a,b", "bookworm", "/o.tar", "http://mirror.test/debian"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestFilterUserland(t *testing.T) {
	in := tarOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "./dev/null", Typeflag: tar.TypeChar},
		tar.Header{Name: "./etc/machine-id", Typeflag: tar.TypeReg},
		tar.Header{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(7, 0), Uname: "root"},
		tar.Header{Name: "./usr/bin/perl", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2},
		tar.Header{Name: "./usr/bin/perl5", Typeflag: tar.TypeLink, Linkname: "./usr/bin/perl"},
		tar.Header{Name: "./usr/share/doc/x/copyright", Typeflag: tar.TypeReg},
		tar.Header{Name: "./lib/systemd/a.wants/b.service", Typeflag: tar.TypeSymlink, Linkname: "../b.service"},
	)
	var out bytes.Buffer
	if err := filterUserland(bytes.NewReader(in), &out, []string{"/usr/share/doc/**", "/lib/systemd/*.wants/*"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for tr := tar.NewReader(&out); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uname != "" {
			t.Errorf("%s: time %v, user %q", h.Name, h.ModTime, h.Uname)
		}
		got = append(got, h.Name+">"+h.Linkname)
	}
	if d := cmp.Diff([]string{"usr/bin/>", "usr/bin/perl>", "usr/bin/perl5>usr/bin/perl"}, got); d != "" {
		t.Error(d)
	}
	err := filterUserland(bytes.NewReader(in), io.Discard, []string{"/usr/bin/perl"})
	if err == nil || !strings.Contains(err.Error(), "hard link") {
		t.Errorf("removing the target of a hard link: %v", err)
	}
}

func tarOf(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestProductHook(t *testing.T) {
	got, err := addProductHook([]byte(`{"process":{"rlimits":[{"type":"RLIMIT_NOFILE"}],"cwd":"/"},"linux":{"n":1024}}`))
	if err != nil {
		t.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(got, &spec); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"process": map[string]any{"cwd": "/"},
		"linux":   map[string]any{"n": float64(1024)},
		"hooks":   map[string]any{"createContainer": []any{map[string]any{"path": productHook}}},
	}
	if d := cmp.Diff(want, spec); d != "" {
		t.Error(d)
	}
	if _, err := addProductHook([]byte(`{}`)); err == nil {
		t.Error("a spec without a process was accepted")
	}
}

func TestProgressEstimates(t *testing.T) {
	var events []Event
	p := newProgress(func(e Event) { events = append(events, e) })
	clock := time.Unix(0, 0)
	p.now = func() time.Time { return clock }
	p.plan(1)
	p.packages("r", 100)
	for range 25 {
		clock = clock.Add(5 * time.Second)
		p.compiled("r")
	}
	last := events[len(events)-1]
	if want := (Event{What: "compiling r", Done: 25, Total: 100, Elapsed: 125 * time.Second, Remaining: 375 * time.Second}); last != want {
		t.Errorf("got %+v, want %+v", last, want)
	}
	p.finished("r")
	if last := events[len(events)-1]; last.Done != 100 || last.Remaining != 0 {
		t.Errorf("at the end: %+v", last)
	}
}

func TestPackageCounter(t *testing.T) {
	n := 0
	c := &packageCounter{each: func() { n++ }}
	for _, s := range []string{"crypto/in", "ternal\nfmt\n# warning\ngo: down", "loading x\nexample.org/a/v2\n"} {
		_, _ = c.Write([]byte(s))
	}
	if n != 3 {
		t.Errorf("counted %d packages, want 3", n)
	}
}

func TestArchiveIsReproducible(t *testing.T) {
	img, err := random.Image(1000, 2)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]v1.Image{"r/a:1": img, "r/b:1": img}
	read := func() []byte {
		name := filepath.Join(t.TempDir(), "a.tar")
		if err := writeArchive(name, []string{"r/a:1", "r/b:1"}, have); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := read()
	if !bytes.Equal(first, read()) {
		t.Error("two archives of the same images differ")
	}
	names := map[string]int{}
	for tr := tar.NewReader(bytes.NewReader(first)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names[h.Name]++
	}
	if len(names) != 6 { // manifest, config, two layers, index, marker
		t.Errorf("entries: %v", names)
	}
	for name, n := range names {
		if n != 1 {
			t.Errorf("%s written %d times", name, n)
		}
	}
}

func TestUnknownImage(t *testing.T) {
	b := &Builder{book: &book{images: map[string]imageOf{}}}
	_, err := b.Image(t.Context(), "example.org/none:1")
	if !errors.Is(err, ErrNoRecipe) {
		t.Errorf("got %v", err)
	}
}

func TestModes(t *testing.T) {
	for _, tc := range []struct {
		file file
		want fs.FileMode
	}{
		{file{Command: "c"}, 0o755}, {file{Text: "x"}, 0o644}, {file{Dir: true}, 0o755},
		{file{Dir: true, Mode: "1777"}, fs.ModeSticky | 0o777}, {file{Text: "x", Mode: "0600"}, 0o600},
	} {
		if got, err := tc.file.mode(); err != nil || got != tc.want {
			t.Errorf("%+v: %v, %v; want %v", tc.file, got, err, tc.want)
		}
	}
}

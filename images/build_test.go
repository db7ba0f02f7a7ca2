package images

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// program is a module with a main package at its root and in cmd/tool/v2, and a
// library.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "go.mod"), "module example.org/hello\n\ngo 1.24\n")
	writeFile(t, filepath.Join(dir, "main.go"), "package main\n\nvar version = \"none\"\n\nfunc main() { println(version) }\n")
	writeFile(t, filepath.Join(dir, "cmd", "tool", "v2", "main.go"), "package main\n\nfunc main() {}\n")
	writeFile(t, filepath.Join(dir, "lib", "lib.go"), "package lib\n")
	return dir
}

func TestBuild(t *testing.T) {
	dir := program(t)
	writeFile(t, filepath.Join(dir, "ca.pem"), "a certificate")
	c := openTestCache(t)
	var events []string
	cfg := BuildConfig{
		Dir: dir, Package: ".", Ref: "example.org/hello:1", Cache: c,
		Version: "1.2.3", Source: "https://example.org/src", Tag: "abcdefabcdef",
		Labels: map[string]string{"org.opencontainers.image.title": "Hello"}, Env: []string{"A=b"},
		Files: []File{FileFromBytes("etc/hello.conf", 0o600, []byte("conf"))}, CACerts: filepath.Join(dir, "ca.pem"),
		Ldflags: "-X main.version=stamped",
		OnEvent: func(e Event) { events = append(events, e.String()) },
	}
	img, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	assertWhole(t, img)
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Entrypoint: []string{"/app/hello"}, User: "65532:65532", WorkingDir: "/", Env: []string{"A=b"},
		Labels: map[string]string{
			"org.opencontainers.image.title": "Hello", "org.opencontainers.image.version": "1.2.3",
			"org.opencontainers.image.source": "https://example.org/src", "org.opencontainers.image.revision": "abcdefabcdef",
		},
	}
	if diff := cmp.Diff(want, config.Config); diff != "" {
		t.Error(diff)
	}
	if config.OS != "linux" || config.Architecture != runtime.GOARCH {
		t.Errorf("platform %s/%s", config.OS, config.Architecture)
	}
	files := contents(t, img)
	for name, want := range map[string]string{
		"etc/hello.conf": "conf", "etc/ssl/certs/ca-certificates.crt": "a certificate",
		"etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n",
		"etc/group":  "root:x:0:\nnonroot:x:65532:\n",
	} {
		if files[name] != want {
			t.Errorf("%s: %q, want %q", name, files[name], want)
		}
	}
	binary := files["app/hello"]
	f, err := elf.NewFile(bytes.NewReader([]byte(binary)))
	if err != nil {
		t.Fatal(err)
	}
	if libs, err := f.ImportedLibraries(); err != nil || len(libs) != 0 || f.Section(".interp") != nil {
		t.Errorf("the program is not static: %q, %v", libs, err)
	}
	if !bytes.Contains([]byte(binary), []byte("stamped")) {
		t.Error("Ldflags did not reach the linker")
	}
	if bytes.Contains([]byte(binary), []byte(dir)) {
		t.Error("the program names the folder in which it was built")
	}
	if _, ok, err := c.Get("example.org/hello:1"); !ok || err != nil {
		t.Errorf("not in the cache: %v", err)
	}
	if len(events) != 2 {
		t.Errorf("events %q", events)
	}

	// The same source elsewhere is the same image.
	cfg.Dir, cfg.Cache = program(t), nil
	again, err := Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digestOf(t, img), digestOf(t, again); a != b {
		t.Errorf("two builds: %s and %s", a, b)
	}
	assertWhole(t, again)
}

func TestBuildNames(t *testing.T) {
	dir := program(t)
	for _, tt := range []struct{ pkg, name, want string }{
		{".", "", "/app/hello"}, {"./cmd/tool/v2", "", "/app/tool"}, {"example.org/hello/cmd/tool/v2", "", "/app/tool"}, {".", "other", "/app/other"},
	} {
		img, err := Build(t.Context(), BuildConfig{Dir: dir, Package: tt.pkg, Name: tt.name, User: "0:0", Platform: v1.Platform{OS: "linux", Architecture: "arm64"}})
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(config.Config.Entrypoint, []string{tt.want}) || config.Architecture != "arm64" {
			t.Errorf("%s: entrypoint %q for %s, want %q", tt.pkg, config.Config.Entrypoint, config.Architecture, tt.want)
		}
	}
}

func TestBuildFails(t *testing.T) {
	dir := program(t)
	writeFile(t, filepath.Join(dir, "cmd", "broken", "main.go"), "package main\n\nfunc main() { undefinedThing() }\n")
	for name, tt := range map[string]struct {
		cfg  BuildConfig
		want string
	}{
		"no package":     {BuildConfig{}, "Package is empty"},
		"a flag":         {BuildConfig{Package: "-toolexec=x"}, "dash"},
		"library":        {BuildConfig{Package: "./lib"}, "main package"},
		"many":           {BuildConfig{Package: "./..."}, "exactly one main package"},
		"absent":         {BuildConfig{Package: "./absent"}, "absent"},
		"compile error":  {BuildConfig{Package: "./cmd/broken"}, "undefinedThing"},
		"user by name":   {BuildConfig{Package: ".", User: "nobody"}, "give numbers"},
		"no certificate": {BuildConfig{Package: ".", CACerts: filepath.Join(dir, "no.pem")}, "no.pem"},
		"name":           {BuildConfig{Package: ".", Name: "a/b"}, "BuildConfig.Name"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.cfg.Dir = dir
			_, err := Build(t.Context(), tt.cfg)
			wantError(t, err, "build image", tt.want)
		})
	}
}

// contents maps the names in an image's layers to what is in them.
func contents(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, l := range layers {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		for r := tar.NewReader(rc); ; {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(content)
		}
		rc.Close()
	}
	return files
}

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/spire-vault-99-action/internal/run"
)

// BuildConfig says what Build builds. Package alone is needed.
type BuildConfig struct {
	// Dir is where go build runs; default: the working directory.
	Dir string
	// Package is the main package: an import path, or a path relative to Dir
	// that begins with a dot.
	Package string
	// Name is the program's name in the image; default: the last element of the
	// package's import path.
	Name string
	// Ref is the image's full name. It is the key in Cache and goes into events.
	Ref string
	// Cache keeps the image under Ref, if both are set. Without it the image
	// holds the program in memory.
	Cache *Cache
	// Platform defaults to linux on this program's architecture.
	Platform v1.Platform
	// Compression of the layer; default Zstd.
	Compression Compression

	// Version, Source (a URL) and Revision become OCI labels where they are set;
	// Revision defaults to Tag, as told by the func Tag.
	Version, Source, Revision, Tag string
	// Labels are added; they win over the labels above.
	Labels map[string]string
	// User is "uid:gid" in numbers; default "65532:65532".
	User string
	// Env is the image's environment, each "NAME=value".
	Env []string
	// Files are added to the image.
	Files []File
	// CACerts is a PEM file on this machine that becomes
	// /etc/ssl/certs/ca-certificates.crt; empty: the image has no CA certificates.
	CACerts string

	// Ldflags are added to "-s -w", as go build takes them.
	Ldflags string
	// BuildEnv is added to the environment of go build, each "NAME=value".
	BuildEnv []string
	// OnEvent receives progress.
	OnEvent func(Event)
}

// Build compiles a Go main package, without cgo, into an image of one layer:
// the program as /app/<name>, its user in /etc/passwd, an empty /tmp, and Files.
// The same source, toolchain and config give the same digest.
func Build(ctx context.Context, cfg BuildConfig) (v1.Image, error) {
	img, err := build(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("build image of Go package %q in %q: %w", cfg.Package, cfg.Dir, err)
	}
	return img, nil
}

func build(ctx context.Context, cfg BuildConfig) (v1.Image, error) {
	if cfg.Package == "" {
		return nil, errors.New("BuildConfig.Package is empty")
	}
	if strings.HasPrefix(cfg.Package, "-") {
		return nil, errors.New("a package cannot begin with a dash")
	}
	emit := oneAtATime(cfg.OnEvent)
	began := time.Now()
	if cfg.Platform.OS == "" {
		cfg.Platform = defaultPlatform()
	}
	if cfg.User == "" {
		cfg.User = "65532:65532"
	}
	user, err := userFiles(cfg.User)
	if err != nil {
		return nil, err
	}

	argv, env := goBuild(cfg)
	env = run.Environ(env...) // go build needs HOME, PATH, GOPROXY and the like
	name, err := programName(ctx, cfg, env)
	if err != nil {
		return nil, err
	}
	emit(Event{Verb: "build", Ref: cfg.Ref, Detail: cfg.Package})
	tmp, err := os.MkdirTemp("", "image-build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, "program")
	if err := (run.Cmd{Argv: append(argv, "-o", out, "--", cfg.Package), Dir: cfg.Dir, Env: env}).Run(ctx); err != nil {
		return nil, err
	}
	program, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}

	files := append([]File{FileFromBytes("app/"+name, 0o755, program), {Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777}}, user...)
	if cfg.CACerts != "" {
		pem, err := os.ReadFile(cfg.CACerts)
		if err != nil {
			return nil, fmt.Errorf("read BuildConfig.CACerts: %w", err)
		}
		files = append(files, FileFromBytes("etc/ssl/certs/ca-certificates.crt", 0o644, pem))
	}
	layer, err := Layer(append(files, cfg.Files...), cfg.Compression)
	if err != nil {
		return nil, err
	}
	img, err := New(v1.ConfigFile{
		OS: cfg.Platform.OS, Architecture: cfg.Platform.Architecture, Variant: cfg.Platform.Variant,
		Config: v1.Config{
			Entrypoint: []string{"/app/" + name},
			User:       cfg.User,
			WorkingDir: "/",
			Env:        cfg.Env,
			Labels:     cfg.labels(name),
		},
	}, layer)
	if err != nil {
		return nil, err
	}
	if cfg.Cache != nil && cfg.Ref != "" {
		if img, err = cfg.Cache.Put(ctx, cfg.Ref, img); err != nil {
			return nil, err
		}
	}
	emit(Event{Verb: "built", Ref: cfg.Ref, Detail: fmt.Sprintf("program of %s", byteCount(int64(len(program)))), Elapsed: time.Since(began)})
	return img, nil
}

// goBuild is the command less output and package, and what it adds to the
// environment.
func goBuild(cfg BuildConfig) (argv, env []string) {
	argv = []string{"go", "build", "-trimpath", "-buildvcs=false", "-ldflags=" + strings.TrimSpace("-s -w "+cfg.Ldflags)}
	env = []string{"CGO_ENABLED=0", "GOOS=" + cfg.Platform.OS, "GOARCH=" + cfg.Platform.Architecture}
	if v := cfg.Platform.Variant; cfg.Platform.Architecture == "arm" && v != "" {
		env = append(env, "GOARM="+strings.TrimPrefix(v, "v"))
	}
	return argv, append(env, cfg.BuildEnv...)
}

// programName asks go for the package's import path, and refuses a library.
func programName(ctx context.Context, cfg BuildConfig, env []string) (string, error) {
	var out strings.Builder
	list := run.Cmd{Argv: []string{"go", "list", "-f", "{{.Name}} {{.ImportPath}}", "--", cfg.Package}, Dir: cfg.Dir, Env: env, Stdout: &out}
	if err := list.Run(ctx); err != nil {
		return "", err
	}
	kind, importPath, _ := strings.Cut(strings.TrimSpace(out.String()), " ")
	if kind != "main" || strings.ContainsAny(importPath, " \n") {
		return "", fmt.Errorf("it must be exactly one main package; go list says: %s", strings.TrimSpace(out.String()))
	}
	name := cfg.Name
	if name == "" {
		name = path.Base(importPath)
		// As go install does: example.org/tool/v2 is tool.
		if majorVersion.MatchString(name) && path.Dir(importPath) != "." {
			name = path.Base(path.Dir(importPath))
		}
	}
	if name == "." || name == "/" || strings.Contains(name, "/") {
		return "", fmt.Errorf("%q cannot be a program's name; set BuildConfig.Name", name)
	}
	return name, nil
}

var majorVersion = regexp.MustCompile(`^v[0-9]+$`)

func (cfg BuildConfig) labels(name string) map[string]string {
	revision := cfg.Revision
	if revision == "" {
		revision = cfg.Tag
	}
	labels := map[string]string{}
	for key, value := range map[string]string{"title": name, "version": cfg.Version, "source": cfg.Source, "revision": revision} {
		if value != "" {
			labels["org.opencontainers.image."+key] = value
		}
	}
	maps.Copy(labels, cfg.Labels)
	return labels
}

// userFiles are passwd, group and home of the user "uid:gid" or "uid".
func userFiles(user string) ([]File, error) {
	u, g, both := strings.Cut(user, ":")
	if !both {
		g = u
	}
	uid, err := strconv.ParseUint(u, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("BuildConfig.User %q: give numbers, as in 65532:65532; Kubernetes cannot check runAsNonRoot for a name", user)
	}
	gid, err := strconv.ParseUint(g, 10, 31)
	if err != nil {
		return nil, fmt.Errorf("BuildConfig.User %q: give numbers, as in 65532:65532", user)
	}
	passwd, group := "root:x:0:0:root:/root:/sbin/nologin\n", "root:x:0:\n"
	var home []File
	if uid != 0 {
		passwd += fmt.Sprintf("nonroot:x:%d:%d:nonroot:/home/nonroot:/sbin/nologin\n", uid, gid)
		home = []File{{Path: "home/nonroot", Mode: fs.ModeDir | 0o700, UID: int(uid), GID: int(gid)}}
	}
	if gid != 0 {
		group += fmt.Sprintf("nonroot:x:%d:\n", gid)
	}
	return append(home, FileFromBytes("etc/passwd", 0o644, []byte(passwd)), FileFromBytes("etc/group", 0o644, []byte(group))), nil
}

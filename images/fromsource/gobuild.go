package fromsource

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/internal/run"
)

// goModule writes the recipe's go.mod, go.sum and replacement modules to dir.
// With -mod=readonly the go command then builds what go.sum says or nothing.
func (r *recipe) goModule(dir string) error {
	files := map[string][]byte{"go.mod": r.mod, "go.sum": r.sum}
	if r.Module == "" {
		files = map[string][]byte{"go.mod": []byte("module recipe.invalid/" + r.Name + "\n\ngo 1.26\n")}
	}
	for _, m := range r.Modules {
		for name, text := range m.Files {
			files[filepath.Join(m.Dir, name)] = []byte(text)
		}
	}
	for _, c := range r.Commands {
		if c.Source == "" {
			continue
		}
		src, err := recipeFiles.ReadFile("recipes/" + c.Source)
		if err != nil {
			return err
		}
		files[c.Source] = src
	}
	for name, data := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// main is what to hand to go build for the command.
func (c command) main() string {
	if c.Source != "" {
		return "./" + filepath.Dir(c.Source)
	}
	return c.Package
}

// buildArgs is the go command line that builds c into out.
func (r *recipe) buildArgs(c command, out string) []string {
	argv := []string{"go", "build", "-v", "-mod=readonly", "-trimpath", "-buildvcs=false"}
	if tags := slices.Concat(r.Tags, c.Tags); len(tags) > 0 {
		argv = append(argv, "-tags="+strings.Join(tags, ","))
	}
	if len(r.LDFlags) > 0 {
		argv = append(argv, "-ldflags="+strings.Join(r.LDFlags, " "))
	}
	return append(argv, "-o", out, c.main())
}

// goEnv is the environment of the go command: the caller's, with our own
// module and build caches, and nothing of the caller's that changes what is
// built.
func (b *Builder) goEnv(cgo bool, gocache string) []string {
	env := slices.DeleteFunc(run.Environ(), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"GOFLAGS", "GOWORK", "GOOS", "GOARCH", "CGO_ENABLED", "GOCACHE", "GOMODCACHE", "GOTOOLCHAIN", "GOEXPERIMENT"}, name)
	})
	enabled := "0"
	if cgo {
		enabled = "1"
	}
	return append(env,
		"CGO_ENABLED="+enabled, "GOOS=linux", "GOARCH="+b.arch, "GOWORK=off", "GOTOOLCHAIN=local",
		"GOMODCACHE="+b.modCache(), "GOCACHE="+gocache)
}

// packages counts what go build will compile for the recipe, for the progress.
func (b *Builder) packages(ctx context.Context, r *recipe, dir string, env []string) (int, error) {
	argv := []string{"go", "list", "-mod=readonly", "-deps", "-f={{.ImportPath}}"}
	if len(r.Tags) > 0 {
		argv = append(argv, "-tags="+strings.Join(r.Tags, ","))
	}
	for _, c := range r.Commands {
		argv = append(argv, c.main())
	}
	var out, errs bytes.Buffer
	if err := (run.Cmd{Argv: argv, Dir: dir, Env: env, Stdout: &out, Stderr: &errs}).Run(ctx); err != nil {
		return 0, err
	}
	return bytes.Count(out.Bytes(), []byte("\n")), nil
}

// buildRecipe builds the recipe's commands into dst, which appears only once
// all of them are there. Its build cache goes with it.
func (b *Builder) buildRecipe(ctx context.Context, r *recipe, dst string) error {
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("building %s: %w: install Go %s or newer", r.Name, err, "1.26")
	}
	if r.CGO {
		if _, err := exec.LookPath("gcc"); err != nil {
			return fmt.Errorf("building %s, which holds C code: %w: install gcc", r.Name, err)
		}
	}
	work, err := os.MkdirTemp(b.workDir(), r.Name+"-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	src, out, gocache := filepath.Join(work, "src"), filepath.Join(work, "bin"), filepath.Join(work, "gocache")
	if b.cfg.GoCache != "" {
		gocache = b.cfg.GoCache
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := r.goModule(src); err != nil {
		return err
	}
	env := b.goEnv(r.CGO, gocache)
	total, err := b.packages(ctx, r, src, env)
	if err != nil {
		return fmt.Errorf("listing the packages of %s %s: %w", r.Name, r.Version, err)
	}
	b.progress.packages(r.Name, total)
	for _, c := range r.Commands {
		watch := &packageCounter{each: func() { b.progress.compiled(r.Name) }}
		cmd := run.Cmd{Argv: r.buildArgs(c, filepath.Join(out, c.Name)), Dir: src, Env: env, Stderr: watch}
		if err := cmd.Run(ctx); err != nil {
			return fmt.Errorf("building %s of %s %s: %w", c.Name, r.Name, r.Version, err)
		}
	}
	if err := os.RemoveAll(dst); err != nil {
		return err
	}
	if err := os.Rename(out, dst); err != nil {
		return fmt.Errorf("keeping the binaries of %s: %w", r.Name, err)
	}
	b.progress.finished(r.Name)
	return nil
}

// packageCounter counts the lines that go build -v prints, one a package.
type packageCounter struct {
	rest []byte
	each func()
}

func (p *packageCounter) Write(data []byte) (int, error) {
	p.rest = append(p.rest, data...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 {
			return len(data), nil
		}
		if line := p.rest[:i]; len(line) > 0 && !bytes.ContainsAny(line, " \t:#") {
			p.each()
		}
		p.rest = p.rest[i+1:]
	}
}

// moduleDir downloads the recipe's module, checked against its go.sum, and
// returns where it lies.
func (b *Builder) moduleDir(ctx context.Context, r *recipe) (string, error) {
	work, err := os.MkdirTemp(b.workDir(), r.Name+"-mod-*")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	if err := r.goModule(work); err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd := run.Cmd{Argv: []string{"go", "mod", "download", "-json", r.Module}, Dir: work, Env: b.goEnv(false, filepath.Join(work, "gocache")), Stdout: &out}
	runErr := cmd.Run(ctx)
	var info struct{ Dir, Version, Error string }
	if err := json.NewDecoder(bufio.NewReader(&out)).Decode(&info); err != nil && err != io.EOF {
		return "", fmt.Errorf("downloading module %s %s: %w", r.Module, r.Version, err)
	}
	if runErr != nil || info.Error != "" {
		return "", fmt.Errorf("downloading module %s %s: %s: %w", r.Module, r.Version, info.Error, runErr)
	}
	if info.Version != r.Version {
		return "", fmt.Errorf("module %s: got version %s, the recipe says %s", r.Module, info.Version, r.Version)
	}
	return info.Dir, nil
}

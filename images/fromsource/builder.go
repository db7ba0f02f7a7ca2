package fromsource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/internal/filelock"
	"github.com/org/spire-vault-99-action/internal/ociruntime"
	"github.com/org/spire-vault-99-action/internal/run"
)

// Config says where to build and keep.
type Config struct {
	Dir          string        // required: work and module cache go below it
	Cache        *images.Cache // required: where finished images are kept
	DebianMirror string        // default: mmdebstrap's own
	GoCache      string        // a Go build cache to use and keep; default: one a recipe, dropped after it
	KeepModules  bool          // keep the downloaded modules when Close is called
	OnEvent      func(Event)
}

// Builder builds images. Its methods may be called from several goroutines;
// what two images have in common is built once.
type Builder struct {
	cfg       Config
	book      *book
	arch      string
	toolchain string
	shim      string // the source of the runtime shim, for the key
	progress  *progress

	mu     sync.Mutex
	once   map[string]*shared
	unlock func() // gives the folder back to other processes; nil while it is not ours
}

// shared is something that several images need: built by the first one.
type shared struct {
	once sync.Once
	err  error
}

// New checks the recipes and the Go toolchain; it builds nothing.
func New(ctx context.Context, cfg Config) (*Builder, error) {
	if cfg.Dir == "" || cfg.Cache == nil {
		return nil, errors.New("fromsource: Config.Dir and Config.Cache are required")
	}
	book, err := openBook(recipeFiles)
	if err != nil {
		return nil, err
	}
	toolchain, err := run.Output(ctx, "go", "env", "GOVERSION")
	if err != nil {
		return nil, fmt.Errorf("asking the go command for its version: %w: building from source needs Go", err)
	}
	b := &Builder{cfg: cfg, book: book, arch: runtime.GOARCH, toolchain: toolchain + " " + runtime.GOARCH, shim: ociruntime.Source(), once: map[string]*shared{}}
	b.progress = newProgress(cfg.OnEvent)
	return b, nil
}

// Refs are the references of all images that can be built, sorted.
func Refs() ([]string, error) {
	book, err := openBook(recipeFiles)
	if err != nil {
		return nil, err
	}
	return book.refs, nil
}

// Close removes what building left behind: binaries, root file systems and,
// unless KeepModules, the downloaded modules. The images stay. If another process builds in
// the folder now, what is there is its to remove.
func (b *Builder) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unlock == nil {
		unlock, err := filelock.Try(b.lockFile(), filelock.Exclusive)
		if errors.Is(err, filelock.ErrHeld) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cleaning %s: %w", b.cfg.Dir, err)
		}
		b.unlock = unlock
	}
	defer func() { b.unlock(); b.unlock = nil }()
	err := os.RemoveAll(b.workDir())
	if !b.cfg.KeepModules {
		err = errors.Join(err, b.dropModules())
	}
	return err
}

// dropModules removes the module cache, whose folders are read-only.
func (b *Builder) dropModules() error {
	_ = filepath.WalkDir(b.modCache(), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return nil
	})
	return os.RemoveAll(b.modCache())
}

// own makes the folder ours until Close: another process's Close would remove what is
// built here.
func (b *Builder) own(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.unlock != nil {
		return nil
	}
	unlock, err := filelock.Take(ctx, b.lockFile(), filelock.Exclusive, func() { b.progress.waiting(b.lockFile()) })
	if err != nil {
		return fmt.Errorf("building from source: %w", err)
	}
	b.unlock = unlock
	return nil
}

func (b *Builder) lockFile() string { return filepath.Join(b.cfg.Dir, "lock") }
func (b *Builder) workDir() string  { return filepath.Join(b.cfg.Dir, "work") }
func (b *Builder) modCache() string { return filepath.Join(b.cfg.Dir, "modules") }

// Cached returns the image when this very recipe was built before.
func (b *Builder) Cached(ref string) (v1.Image, bool, error) {
	img, err := b.find(ref)
	if err != nil {
		return nil, false, err
	}
	key, err := b.cacheKey(img)
	if err != nil {
		return nil, false, err
	}
	return b.cfg.Cache.Get(key)
}

func (b *Builder) cacheKey(img imageOf) (string, error) {
	key, err := b.book.key(img, b.toolchain, b.shim)
	return img.spec.Ref + "#" + key, err
}

func (b *Builder) find(ref string) (imageOf, error) {
	img, known := b.book.images[ref]
	if !known {
		return imageOf{}, fmt.Errorf("%w: %s: the recipes make %v", ErrNoRecipe, ref, b.book.refs)
	}
	return img, nil
}

// ErrNoRecipe says that no recipe makes the wanted image.
var ErrNoRecipe = errors.New("no recipe for image")

// Image returns one image, built unless it is in the cache.
func (b *Builder) Image(ctx context.Context, ref string) (v1.Image, error) {
	all, err := b.Images(ctx, ref)
	return all[ref], err
}

// Images returns the images, built unless they are in the cache. An interrupted
// call leaves finished images and binaries for the next one. While another process builds
// in the folder it waits, and finds what that one has built.
func (b *Builder) Images(ctx context.Context, refs ...string) (map[string]v1.Image, error) {
	have, missing, err := b.missing(refs)
	if err != nil || len(missing) == 0 {
		return have, err
	}
	if err := b.own(ctx); err != nil {
		return have, err
	}
	if have, missing, err = b.missing(refs); err != nil || len(missing) == 0 {
		return have, err
	}
	if err := b.prepare(ctx, missing); err != nil {
		return have, err
	}
	for _, spec := range missing {
		img, err := b.make(ctx, spec, have)
		if err != nil {
			return have, fmt.Errorf("image %s: %w", spec.spec.Ref, err)
		}
		have[spec.spec.Ref] = img
		b.progress.image(spec.spec.Ref)
	}
	return have, nil
}

// missing divides the images, and those that they carry, into cached ones and ones to
// build, in the order in which that is possible.
func (b *Builder) missing(refs []string) (have map[string]v1.Image, missing []imageOf, err error) {
	have = map[string]v1.Image{}
	seen := map[string]bool{}
	var want func(ref string) error
	want = func(ref string) error {
		if seen[ref] {
			return nil
		}
		seen[ref] = true
		spec, err := b.find(ref)
		if err != nil {
			return err
		}
		img, cached, err := b.Cached(ref)
		if err != nil {
			return err
		}
		if cached {
			have[ref] = img
			return nil
		}
		for _, inner := range preloads(spec) { // before what carries them
			if err := want(inner); err != nil {
				return err
			}
		}
		missing = append(missing, spec)
		return nil
	}
	for _, ref := range refs {
		if err := want(ref); err != nil {
			return nil, nil, err
		}
	}
	return have, missing, nil
}

// make assembles one image and puts it into the cache.
func (b *Builder) make(ctx context.Context, spec imageOf, have map[string]v1.Image) (v1.Image, error) {
	key, err := b.cacheKey(spec)
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(b.workDir(), "assemble-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	img, err := b.assemble(ctx, spec, scratch, have)
	if err != nil {
		return nil, err
	}
	return b.cfg.Cache.Put(ctx, key, img)
}

// prepare builds the binaries, one recipe after the other as each uses all
// cores and much disk, and beside them the userlands, which wait for the network.
func (b *Builder) prepare(ctx context.Context, specs []imageOf) error {
	if err := os.MkdirAll(b.workDir(), 0o755); err != nil {
		return err
	}
	var recipes []*recipe
	var userlands []userland
	seen := map[string]bool{}
	for _, s := range specs {
		for _, r := range b.book.needs(s) {
			if !seen[r.Name] {
				seen[r.Name] = true
				recipes = append(recipes, r)
			}
		}
		for _, u := range s.userlands() {
			if key := u.key(); !seen[key] {
				seen[key] = true
				userlands = append(userlands, u)
			}
		}
	}
	b.progress.plan(len(recipes))
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for _, r := range recipes {
			dst, err := b.binaries(r)
			if err != nil {
				return err
			}
			if err := b.shared(dst, func() error { return b.buildRecipe(ctx, r, dst) }); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		for _, u := range userlands {
			dst := b.userlandTar(u)
			if err := b.shared(dst, func() error { return b.buildUserland(ctx, u, dst) }); err != nil {
				return err
			}
		}
		return nil
	})
	return group.Wait()
}

// shared builds what shall lie at dst, unless it is there or another goroutine
// is at it; a failed attempt may be repeated.
func (b *Builder) shared(dst string, build func() error) error {
	b.mu.Lock()
	s := b.once[dst]
	if s == nil {
		s = new(shared)
		b.once[dst] = s
	}
	b.mu.Unlock()
	s.once.Do(func() {
		if _, err := os.Stat(dst); err == nil {
			return
		}
		s.err = build()
	})
	if s.err != nil {
		b.mu.Lock()
		if b.once[dst] == s {
			delete(b.once, dst)
		}
		b.mu.Unlock()
	}
	return s.err
}

// binaries is the folder of the recipe's finished commands.
func (b *Builder) binaries(r *recipe) (string, error) {
	key, err := r.key(b.toolchain)
	return filepath.Join(b.workDir(), r.Name+"."+key), err
}

func (b *Builder) userlandTar(u userland) string {
	return filepath.Join(b.workDir(), "userland."+u.key()+".tar")
}

// userlands are the root file systems that the image takes files from.
func (i imageOf) userlands() []userland {
	var all []userland
	if i.spec.Userland != nil {
		all = append(all, *i.spec.Userland)
	}
	if i.spec.CACertificates {
		all = append(all, certificates)
	}
	return all
}

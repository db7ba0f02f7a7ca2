package fromsource

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/internal/ociruntime"
	"github.com/org/spire-vault-99-action/internal/run"
)

// What a file's Generate may name.
const (
	generateBaseSpec = "containerd-base-spec" // the OCI spec that kind's containerd starts pods from
	generateShim     = "runc-shim"            // internal/ociruntime, in front of /usr/sbin/runc
)

// nodeRunc is where Debian's runc lies in the node image.
const nodeRunc = "/usr/sbin/runc"

// productHook is the hook that kind adds to each container's spec.
const productHook = "/kind/bin/mount-product-files.sh"

// assemble makes the image of its userland (first layer) and files (second).
// What it generates lies in scratch, which must stay until the image is read.
func (b *Builder) assemble(ctx context.Context, i imageOf, scratch string, have map[string]v1.Image) (v1.Image, error) {
	compression := images.Zstd
	if i.spec.Compression == "none" {
		compression = images.Uncompressed
	}
	var layers []v1.Layer
	if u := i.spec.Userland; u != nil {
		layer, err := images.LayerFromTar(b.userlandTar(*u), compression)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	files, err := b.files(ctx, i, scratch, have)
	if err != nil {
		return nil, err
	}
	layer, err := images.Layer(files, compression)
	if err != nil {
		return nil, err
	}
	layers = append(layers, layer)

	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, l := range layers {
		if img, err = mutate.AppendLayers(img, l); err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", b.arch
	config.Config = i.config()
	return mutate.ConfigFile(img, config)
}

// config is the image's runtime configuration.
func (i imageOf) config() v1.Config {
	version := i.spec.Version
	if version == "" {
		version = i.recipe.Version
	}
	env := i.spec.Env
	if !slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=") }) {
		env = slices.Concat([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env)
	}
	return v1.Config{
		User: i.spec.User, WorkingDir: i.spec.WorkDir, Env: env,
		Entrypoint: i.spec.Entrypoint, Cmd: i.spec.Cmd, StopSignal: i.spec.StopSignal,
		Labels: map[string]string{
			"org.opencontainers.image.title":    i.spec.Title,
			"org.opencontainers.image.source":   i.recipe.Source,
			"org.opencontainers.image.version":  version,
			"org.opencontainers.image.revision": i.recipe.Version,
		},
	}
}

// files gathers the image's files; a later one takes the place of an earlier.
func (b *Builder) files(ctx context.Context, i imageOf, scratch string, have map[string]v1.Image) ([]images.File, error) {
	at := map[string]int{}
	var all []images.File
	add := func(f images.File) {
		if n, there := at[f.Path]; there {
			all[n] = f
			return
		}
		at[f.Path] = len(all)
		all = append(all, f)
	}
	if i.spec.CACertificates {
		pem, err := readFromTar(b.userlandTar(certificates), caBundle)
		if err != nil {
			return nil, err
		}
		add(images.FileFromBytes("/"+caBundle, 0o644, pem))
	}
	for n, f := range i.spec.Files {
		found, err := b.file(ctx, i, f, filepath.Join(scratch, fmt.Sprint(n)), have)
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", f.Path, err)
		}
		for _, f := range found {
			add(f)
		}
	}
	return all, nil
}

// file resolves one entry of a recipe to files; tmp is a path of its own.
func (b *Builder) file(ctx context.Context, i imageOf, f file, tmp string, have map[string]v1.Image) ([]images.File, error) {
	mode, err := f.mode()
	if err != nil {
		return nil, err
	}
	uid, gid, err := f.owner()
	if err != nil {
		return nil, err
	}
	one := func(file images.File, err error) ([]images.File, error) {
		file.UID, file.GID = uid, gid
		return []images.File{file}, err
	}
	switch {
	case f.Command != "":
		r, c, err := b.book.command(i.recipe, f.Command)
		if err != nil {
			return nil, err
		}
		dir, err := b.binaries(r)
		if err != nil {
			return nil, err
		}
		return one(fromDisk(f.Path, filepath.Join(dir, c.Name), mode))
	case f.Module != "":
		dir, err := b.moduleDir(ctx, i.recipe)
		if err != nil {
			return nil, err
		}
		return fromModule(filepath.Join(dir, filepath.FromSlash(f.Module)), f, mode)
	case f.Link != "":
		return one(images.File{Path: f.Path, Mode: fs.ModeSymlink | 0o777, Link: f.Link}, nil)
	case f.Dir:
		return one(images.File{Path: f.Path, Mode: fs.ModeDir | mode}, nil)
	case f.Text != "":
		return one(images.FileFromBytes(f.Path, mode, []byte(f.Text)), nil)
	case f.Generate == generateShim:
		if err := ociruntime.Build(ctx, tmp, nodeRunc); err != nil {
			return nil, err
		}
		return one(fromDisk(f.Path, tmp, mode))
	case f.Generate == generateBaseSpec:
		spec, err := b.baseSpec(ctx)
		if err != nil {
			return nil, err
		}
		return one(images.FileFromBytes(f.Path, mode, spec), nil)
	case len(f.Preload) > 0:
		if err := writeArchive(tmp, f.Preload, have); err != nil {
			return nil, err
		}
		return one(fromDisk(f.Path, tmp, mode))
	}
	return nil, fmt.Errorf("nothing known to generate %q", f.Generate)
}

// baseSpec is the spec that our containerd's ctr prints, with kind's hook and
// without resource limits.
func (b *Builder) baseSpec(ctx context.Context) ([]byte, error) {
	dir, err := b.binaries(b.book.recipes["containerd"])
	if err != nil {
		return nil, err
	}
	out, err := run.Output(ctx, filepath.Join(dir, "ctr"), "oci", "spec")
	if err != nil {
		return nil, fmt.Errorf("asking ctr for its default spec: %w", err)
	}
	return addProductHook([]byte(out))
}

// fromDisk is a file of this disk under another mode: what modules and builds hold
// has none that an image should take over.
func fromDisk(name, src string, mode fs.FileMode) (images.File, error) {
	f, err := images.FileFromDisk(name, src)
	f.Mode = mode
	return f, err
}

// fromModule takes a file, edited, or a whole directory out of a module. Modules
// carry no modes, so all files get the one given.
func fromModule(src string, f file, mode fs.FileMode) ([]images.File, error) {
	info, err := os.Stat(src)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		data, err := os.ReadFile(src)
		if err != nil {
			return nil, err
		}
		for _, e := range f.Edit {
			if n := strings.Count(string(data), e.Old); n != 1 {
				return nil, fmt.Errorf("editing: %q occurs %d times, not once", e.Old, n)
			}
			data = []byte(strings.Replace(string(data), e.Old, e.New, 1))
		}
		return []images.File{images.FileFromBytes(f.Path, mode, data)}, nil
	}
	var all []images.File
	err = filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		file, err := fromDisk(path.Join(f.Path, filepath.ToSlash(rel)), name, mode)
		all = append(all, file)
		return err
	})
	return all, err
}

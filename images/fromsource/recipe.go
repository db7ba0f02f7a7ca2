package fromsource

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

//go:embed recipes
var recipeFiles embed.FS

// recipeFormat is part of every key: raise it when the same recipe comes to
// mean another image.
const recipeFormat = "1"

// A recipe is one upstream project: the commands to build out of one Go module
// and the images to make of them.
type recipe struct {
	Name     string      `json:"name"`
	Module   string      `json:"module,omitempty"`
	Version  string      `json:"version"`
	Source   string      `json:"source"`
	CGO      bool        `json:"cgo,omitempty"`
	Tags     []string    `json:"tags,omitempty"`
	LDFlags  []string    `json:"ldflags,omitempty"`
	Modules  []module    `json:"modules,omitempty"`
	Commands []command   `json:"commands,omitempty"`
	Images   []imageSpec `json:"images,omitempty"`
	mod, sum []byte      // NAME.mod and NAME.sum
}

// A module is a small replacement module written beside the build's go.mod.
type module struct {
	Dir   string            `json:"dir"`
	Files map[string]string `json:"files"`
}

// A command is one binary: a main package of the recipe's module, or one of our
// own whose source lies in recipes/.
type command struct {
	Name    string   `json:"name"`
	Package string   `json:"package,omitempty"`
	Source  string   `json:"source,omitempty"`
	Tags    []string `json:"tags,omitempty"`
}

type imageSpec struct {
	Ref            string    `json:"ref"`
	Title          string    `json:"title"`
	Version        string    `json:"version,omitempty"` // default: the recipe's
	User           string    `json:"user,omitempty"`
	WorkDir        string    `json:"workdir,omitempty"`
	Env            []string  `json:"env,omitempty"`
	Entrypoint     []string  `json:"entrypoint,omitempty"`
	Cmd            []string  `json:"cmd,omitempty"`
	StopSignal     string    `json:"stopSignal,omitempty"`
	Compression    string    `json:"compression,omitempty"` // "zstd" (default) or "none"
	CACertificates bool      `json:"caCertificates,omitempty"`
	Userland       *userland `json:"userland,omitempty"`
	Files          []file    `json:"files"`
}

// A userland is a Debian root file system: a suite's essential packages and
// these, less the paths in Remove ("**" spans directories).
type userland struct {
	Suite    string   `json:"suite"`
	Packages []string `json:"packages"`
	Remove   []string `json:"remove,omitempty"`
}

// A file is one path of an image; exactly one of the fields after Owner says
// where its content comes from. Later files replace earlier ones.
type file struct {
	Path  string `json:"path"`
	Mode  string `json:"mode,omitempty"`  // octal; default 0755 for commands and directories, else 0644
	Owner string `json:"owner,omitempty"` // "uid:gid", default 0:0

	Command  string   `json:"command,omitempty"`  // a command, "NAME" or "RECIPE/NAME"
	Module   string   `json:"module,omitempty"`   // a file or directory of the recipe's module
	Text     string   `json:"text,omitempty"`     // this very text
	TextFile string   `json:"textFile,omitempty"` // the text of this file below recipes/
	Link     string   `json:"link,omitempty"`     // a symbolic link to this
	Dir      bool     `json:"dir,omitempty"`      // an empty directory
	Generate string   `json:"generate,omitempty"` // "containerd-base-spec" or "runc-shim"
	Preload  []string `json:"preload,omitempty"`  // an OCI archive of these images

	Edit []edit `json:"edit,omitempty"` // for Module files: each Old must occur exactly once
}

type edit struct {
	Old string `json:"old"`
	New string `json:"new"`
}

// book is all the recipes, by name and by the reference of each image.
type book struct {
	recipes map[string]*recipe
	images  map[string]imageOf
	refs    []string // sorted
}

type imageOf struct {
	recipe *recipe
	spec   *imageSpec
}

// openBook reads and checks every recipe of files; all faults are in the error.
func openBook(files fs.FS) (*book, error) {
	names, err := fs.Glob(files, "recipes/*.yaml")
	if err != nil {
		return nil, err
	}
	b := &book{recipes: map[string]*recipe{}, images: map[string]imageOf{}}
	var faults []error
	for _, name := range names {
		r, err := readRecipe(files, name)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		b.recipes[r.Name] = r
		for i := range r.Images {
			img := &r.Images[i]
			if other, taken := b.images[img.Ref]; taken {
				faults = append(faults, fmt.Errorf("recipe %s: image %s is also in recipe %s", r.Name, img.Ref, other.recipe.Name))
			}
			b.images[img.Ref] = imageOf{r, img}
			b.refs = append(b.refs, img.Ref)
		}
	}
	slices.Sort(b.refs)
	for _, ref := range b.refs {
		faults = append(faults, b.check(b.images[ref])...)
	}
	return b, errors.Join(faults...)
}

func readRecipe(files fs.FS, name string) (*recipe, error) {
	data, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	r := new(recipe)
	if err := yaml.UnmarshalStrict(data, r); err != nil {
		return nil, fmt.Errorf("recipe %s: %w", name, err)
	}
	base := strings.TrimSuffix(name, ".yaml")
	if r.Name != path.Base(base) {
		return nil, fmt.Errorf("recipe %s: its name is %q", name, r.Name)
	}
	if err := r.readTexts(files); err != nil {
		return nil, fmt.Errorf("recipe %s: %w", name, err)
	}
	if r.Module == "" {
		return r, nil
	}
	if r.mod, err = fs.ReadFile(files, base+".mod"); err != nil {
		return nil, fmt.Errorf("recipe %s: %w", name, err)
	}
	if r.sum, err = fs.ReadFile(files, base+".sum"); err != nil {
		return nil, fmt.Errorf("recipe %s: %w", name, err)
	}
	if !strings.Contains(string(r.mod), r.Module+" "+r.Version) {
		return nil, fmt.Errorf("recipe %s: %s.mod does not require %s %s", name, base, r.Module, r.Version)
	}
	return r, nil
}

// readTexts takes the texts that lie in files of their own into the recipe, and
// with that into its keys.
func (r *recipe) readTexts(files fs.FS) error {
	for _, img := range r.Images {
		for i := range img.Files {
			f := &img.Files[i]
			if f.TextFile == "" {
				continue
			}
			if f.Text != "" {
				return fmt.Errorf("file %s has both a text and a text file", f.Path)
			}
			text, err := fs.ReadFile(files, path.Join("recipes", f.TextFile))
			if err != nil {
				return fmt.Errorf("file %s: %w", f.Path, err)
			}
			f.Text = string(text)
		}
	}
	return nil
}

// check finds what is wrong with one image.
func (b *book) check(img imageOf) []error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("recipe %s: image %s: %s", img.recipe.Name, img.spec.Ref, fmt.Sprintf(format, args...)))
	}
	if !strings.Contains(path.Base(img.spec.Ref), ":") || strings.HasSuffix(img.spec.Ref, ":latest") {
		fault("its reference needs a tag, and not latest")
	}
	if c := img.spec.Compression; c != "" && c != "zstd" && c != "none" {
		fault("compression %q is neither zstd nor none", c)
	}
	for _, f := range img.spec.Files {
		sources := 0
		for _, given := range []bool{f.Command != "", f.Module != "", f.Text != "", f.Link != "", f.Dir, f.Generate != "", len(f.Preload) > 0} {
			if given {
				sources++
			}
		}
		if sources != 1 {
			fault("file %s has %d sources, not one", f.Path, sources)
		}
		if !path.IsAbs(f.Path) {
			fault("file %s is not an absolute path", f.Path)
		}
		if _, err := f.mode(); err != nil {
			fault("file %s: %v", f.Path, err)
		}
		if _, _, err := f.owner(); err != nil {
			fault("file %s: %v", f.Path, err)
		}
		if f.Command != "" {
			if _, _, err := b.command(img.recipe, f.Command); err != nil {
				fault("file %s: %v", f.Path, err)
			}
		}
		for _, ref := range f.Preload {
			if _, known := b.images[ref]; !known {
				fault("file %s preloads %s, which no recipe makes", f.Path, ref)
			}
		}
	}
	return faults
}

// command finds "NAME" in r, or "RECIPE/NAME" in that recipe.
func (b *book) command(r *recipe, name string) (*recipe, *command, error) {
	if other, rest, qualified := strings.Cut(name, "/"); qualified {
		if r, name = b.recipes[other], rest; r == nil {
			return nil, nil, fmt.Errorf("no recipe %q", other)
		}
	}
	for i := range r.Commands {
		if r.Commands[i].Name == name {
			return r, &r.Commands[i], nil
		}
	}
	return nil, nil, fmt.Errorf("recipe %s builds no command %q", r.Name, name)
}

// needs are the recipes whose commands the image holds, each once.
func (b *book) needs(img imageOf) []*recipe {
	var all []*recipe
	add := func(r *recipe) {
		if !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	for _, f := range img.spec.Files {
		switch {
		case f.Command != "":
			r, _, _ := b.command(img.recipe, f.Command) // checked by openBook
			add(r)
		case f.Generate == generateBaseSpec:
			add(b.recipes["containerd"])
		}
	}
	return all
}

// preloads are the images that the image carries.
func preloads(img imageOf) []string {
	var refs []string
	for _, f := range img.spec.Files {
		refs = append(refs, f.Preload...)
	}
	return refs
}

// key names what the image is made of: its recipe, the pinned modules, the Go
// toolchain with its architecture, and the runtime shim's source where it is in.
func (b *book) key(img imageOf, toolchain, shim string) (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	put := func(v any) error { return enc.Encode(v) }
	if err := errors.Join(put(recipeFormat), put(toolchain), put(img.spec), put(img.recipe.Name), put(img.recipe.Version)); err != nil {
		return "", err
	}
	if slices.ContainsFunc(img.spec.Files, func(f file) bool { return f.Generate == generateShim }) {
		if err := put(shim); err != nil {
			return "", err
		}
	}
	if img.recipe.Module != "" {
		h.Write(img.recipe.sum)
	}
	for _, r := range b.needs(img) {
		k, err := r.key(toolchain)
		if err != nil {
			return "", err
		}
		if err := put(k); err != nil {
			return "", err
		}
	}
	for _, ref := range preloads(img) {
		k, err := b.key(b.images[ref], toolchain, shim)
		if err != nil {
			return "", err
		}
		if err := put(k); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// key names what the recipe's commands are made of.
func (r *recipe) key(toolchain string) (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, v := range []any{recipeFormat, toolchain, r.Name, r.Module, r.Version, r.CGO, r.Tags, r.LDFlags, r.Modules, r.Commands, string(r.mod), string(r.sum)} {
		if err := enc.Encode(v); err != nil {
			return "", err
		}
	}
	for _, c := range r.Commands {
		if c.Source == "" {
			continue
		}
		src, err := recipeFiles.ReadFile("recipes/" + c.Source)
		if err != nil {
			return "", fmt.Errorf("recipe %s: command %s: %w", r.Name, c.Name, err)
		}
		h.Write(src)
	}
	return hex.EncodeToString(h.Sum(nil))[:32], nil
}

func (u userland) key() string {
	data, _ := json.Marshal(u) // strings alone: cannot fail
	sum := sha256.Sum256(append([]byte(recipeFormat), data...))
	return hex.EncodeToString(sum[:])[:32]
}

func (f file) mode() (fs.FileMode, error) {
	if f.Mode == "" {
		if f.Command != "" || f.Dir || f.Generate == generateShim {
			return 0o755, nil
		}
		return 0o644, nil
	}
	bits, err := strconv.ParseUint(f.Mode, 8, 32)
	if err != nil || bits > 0o7777 {
		return 0, fmt.Errorf("mode %q is not an octal file mode", f.Mode)
	}
	mode := fs.FileMode(bits & 0o777)
	if bits&0o1000 != 0 {
		mode |= fs.ModeSticky
	}
	return mode, nil
}

func (f file) owner() (uid, gid int, err error) {
	if f.Owner == "" {
		return 0, 0, nil
	}
	if _, err := fmt.Sscanf(f.Owner, "%d:%d", &uid, &gid); err != nil {
		return 0, 0, fmt.Errorf("owner %q is not uid:gid", f.Owner)
	}
	return uid, gid, nil
}

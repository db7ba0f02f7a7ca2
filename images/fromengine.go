package images

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/spire-vault-99-action/internal/run"
)

// EngineImages are images of a container engine on this machine, until they are closed.
//
// One layer that a node lacks costs a save of the whole image: engines export no layer by
// itself. To read no further than the layers wanted would not help with Docker, which packs the
// image into a folder of its own before the first byte comes out.
// Source: github.com/moby/moby, image/tarexport/save.go.
type EngineImages struct {
	// Images are in the order of the references. They are saved when they are read, and
	// by Load only when a node lacks one of them, all of those in one go: the layers that
	// they share once. Whatever else reads them gets one at a time.
	Images []NamedImage

	engine string
	cfg    SourceConfig
	emit   func(Event)

	mu       sync.Mutex
	archives []*Archive
}

// ErrNoSuchImage is wrapped by OpenEngine's error for an image that the engine does not have.
var ErrNoSuchImage = errors.New("the engine has no such image")

// OpenEngine finds images in the engine whose client is the command engine: docker,
// podman or nerdctl. It asks the engine and reads nothing yet. A reference without a tag
// is of the tag latest. The caller closes it when the images are not needed any more.
func OpenEngine(ctx context.Context, engine string, refs []string, cfg SourceConfig) (*EngineImages, error) {
	s := &EngineImages{engine: engine, cfg: cfg, emit: oneAtATime(cfg.OnEvent)}
	if cfg.Ref != "" && len(refs) > 1 {
		return nil, fmt.Errorf("open images of engine %s: %d images cannot all be named %s", engine, len(refs), cfg.Ref)
	}
	if len(refs) == 0 {
		return s, nil
	}
	found, err := inspectAll(ctx, engine, refs)
	if err != nil {
		return nil, fmt.Errorf("open images of engine %s: %w", engine, err)
	}
	for i, ref := range refs {
		img := &engineImage{source: s, ref: ref, id: found[i].id, size: found[i].size}
		if cfg.Ref != "" {
			ref = cfg.Ref
		}
		s.Images = append(s.Images, NamedImage{Ref: ref, Image: img})
	}
	return s, nil
}

// Close removes what was saved. The images can be read no more.
func (s *EngineImages) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, a := range s.archives {
		errs = append(errs, a.Close())
	}
	s.archives = nil
	return errors.Join(errs...)
}

type engineEntry struct {
	id   string
	size int64
}

func inspectArgv(engine string, refs ...string) []string {
	return append([]string{engine, "image", "inspect", "--format", "{{.Id}} {{.Size}}"}, refs...)
}

// inspectAll asks for all images at once, and if that fails for each, to tell which are
// missing.
func inspectAll(ctx context.Context, engine string, refs []string) ([]engineEntry, error) {
	for _, ref := range refs {
		if strings.HasPrefix(ref, "-") {
			return nil, fmt.Errorf("image %q: a name cannot begin with a dash", ref)
		}
	}
	out, err := run.Output(ctx, inspectArgv(engine, refs...)...)
	if err == nil {
		return parseInspect(out, len(refs))
	}
	var errs []error
	for _, ref := range refs {
		if _, err := run.Output(ctx, inspectArgv(engine, ref)...); err != nil {
			if !noSuchImage(err) {
				return nil, fmt.Errorf("%w: the engine must be running and this user allowed to use it", err)
			}
			errs = append(errs, fmt.Errorf("%s: %w: build or pull it first; %s image ls shows what there is", ref, ErrNoSuchImage, filepath.Base(engine)))
		}
	}
	if len(errs) == 0 {
		return nil, err
	}
	return nil, errors.Join(errs...)
}

// noSuchImage knows the words of docker ("No such image"), podman ("image not known",
// "no such object") and nerdctl ("no such image", "no such object").
func noSuchImage(err error) bool {
	said := strings.ToLower(err.Error())
	return strings.Contains(said, "no such image") || strings.Contains(said, "image not known") || strings.Contains(said, "no such object")
}

func parseInspect(out string, want int) ([]engineEntry, error) {
	var all []engineEntry
	for line := range strings.Lines(out) {
		id, size, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.Contains(id, ":") {
			id = "sha256:" + id // podman
		}
		e := engineEntry{id: id}
		if _, err := v1.NewHash(id); err != nil {
			return nil, fmt.Errorf("the engine describes an image as %q, which begins with no digest", line)
		}
		e.size, _ = strconv.ParseInt(size, 10, 64) // for people alone
		all = append(all, e)
	}
	if len(all) != want {
		return nil, fmt.Errorf("the engine described %d images when asked for %d", len(all), want)
	}
	return all, nil
}

// saveArgv writes the images to stdout.
func saveArgv(engine string, refs []string) []string {
	argv := []string{engine, "save"}
	if filepath.Base(engine) == "podman" && len(refs) > 1 {
		argv = append(argv, "--multi-image-archive")
	}
	return append(argv, refs...)
}

// save makes those of the images readable that are not yet.
func (s *EngineImages) save(ctx context.Context, images []*engineImage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	images = slices.DeleteFunc(slices.Clone(images), func(e *engineImage) bool { return e.content != nil })
	if len(images) == 0 {
		return nil
	}
	var refs []string
	var size int64
	for _, e := range images {
		refs = append(refs, e.ref)
		size += e.size
	}
	began, last := time.Now(), time.Now()
	s.emit(Event{Verb: "save", Ref: strings.Join(refs, " "), Node: s.engine})
	f, err := temporary(s.cfg.TempDir)
	if err != nil {
		return err
	}
	written := &countingWriter{w: f}
	progress := writerFunc(func(p []byte) (int, error) {
		n, err := written.Write(p)
		if now := time.Now(); now.Sub(last) >= time.Second {
			last = now
			s.emit(Event{Verb: "save", Node: s.engine, Done: written.n, Total: max(size, written.n), Elapsed: now.Sub(began)})
		}
		return n, err
	})
	if err := (run.Cmd{Argv: saveArgv(s.engine, refs), Stdout: progress}).Run(ctx); err != nil {
		return errors.Join(fmt.Errorf("save %s: %w", strings.Join(refs, " "), diskHint("the folder for temporary files", err)), f.Close())
	}
	a, err := readArchive(ctx, f, s.cfg.TempDir, asTheyAre)
	if err != nil {
		return fmt.Errorf("read what %s saved of %s: %w", s.engine, strings.Join(refs, " "), err)
	}
	s.archives = append(s.archives, a)
	s.emit(Event{Verb: "saved", Ref: strings.Join(refs, " "), Node: s.engine, Detail: byteCount(written.n), Elapsed: time.Since(began)})
	for _, e := range images {
		if e.content, err = e.among(a.Images); err != nil {
			return err
		}
	}
	return nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// engineImage is one image of an engine. It is a v1.Image that is saved when it is read.
type engineImage struct {
	source *EngineImages
	ref    string
	id     string // of the config or, where the engine keeps images in containerd, of manifest or index
	size   int64

	content *NamedImage // when it is saved; guarded by source.mu
}

// among finds the image in what was saved, where it may have another name or none.
func (e *engineImage) among(saved []NamedImage) (*NamedImage, error) {
	var have []string
	for _, n := range saved {
		ids, err := engineIDs(n)
		if err != nil {
			return nil, err
		}
		if slices.Contains(ids, e.id) {
			return &NamedImage{Ref: e.ref, Image: n.Image, Index: n.Index}, nil
		}
		have = append(have, ids...)
	}
	return nil, fmt.Errorf("what %s saved as %s is not image %s but %s: has it been built anew meanwhile? Load it again", e.source.engine, e.ref, e.id, strings.Join(have, ", "))
}

// engineIDs are what engines may call the image by.
func engineIDs(n NamedImage) ([]string, error) {
	if n.Index != nil {
		digest, err := n.Index.Digest()
		if err != nil {
			return nil, err
		}
		// nerdctl calls an index by the config of the image in it that is for this machine.
		// Without one it is called by its own digest alone.
		ids := []string{digest.String()}
		if img, err := forPlatform(n.Index, defaultPlatform()); err == nil {
			if config, err := img.ConfigName(); err == nil {
				ids = append(ids, config.String())
			}
		}
		return ids, nil
	}
	digest, err := n.Image.Digest()
	if err != nil {
		return nil, err
	}
	config, err := n.Image.ConfigName()
	if err != nil {
		return nil, err
	}
	return []string{digest.String(), config.String()}, nil
}

func (e *engineImage) saved(ctx context.Context) (NamedImage, error) {
	if err := e.source.save(ctx, []*engineImage{e}); err != nil {
		return NamedImage{}, err
	}
	e.source.mu.Lock()
	defer e.source.mu.Unlock()
	return *e.content, nil
}

func (e *engineImage) image() (v1.Image, error) {
	n, err := e.saved(context.Background()) // v1.Image knows no context
	if err != nil || n.Index == nil {
		return n.Image, err
	}
	return forPlatform(n.Index, defaultPlatform())
}

// ofImage asks the saved image.
func ofImage[T any](e *engineImage, ask func(v1.Image) (T, error)) (T, error) {
	img, err := e.image()
	if err != nil {
		var none T
		return none, err
	}
	return ask(img)
}

func (e *engineImage) Layers() ([]v1.Layer, error)         { return ofImage(e, v1.Image.Layers) }
func (e *engineImage) MediaType() (types.MediaType, error) { return ofImage(e, v1.Image.MediaType) }
func (e *engineImage) Size() (int64, error)                { return ofImage(e, v1.Image.Size) }
func (e *engineImage) ConfigName() (v1.Hash, error)        { return ofImage(e, v1.Image.ConfigName) }
func (e *engineImage) ConfigFile() (*v1.ConfigFile, error) { return ofImage(e, v1.Image.ConfigFile) }
func (e *engineImage) RawConfigFile() ([]byte, error)      { return ofImage(e, v1.Image.RawConfigFile) }
func (e *engineImage) Digest() (v1.Hash, error)            { return ofImage(e, v1.Image.Digest) }
func (e *engineImage) Manifest() (*v1.Manifest, error)     { return ofImage(e, v1.Image.Manifest) }
func (e *engineImage) RawManifest() ([]byte, error)        { return ofImage(e, v1.Image.RawManifest) }
func (e *engineImage) LayerByDigest(h v1.Hash) (v1.Layer, error) {
	return ofImage(e, func(img v1.Image) (v1.Layer, error) { return img.LayerByDigest(h) })
}
func (e *engineImage) LayerByDiffID(h v1.Hash) (v1.Layer, error) {
	return ofImage(e, func(img v1.Image) (v1.Layer, error) { return img.LayerByDiffID(h) })
}

// saveAbsent saves the engines' images that some node lacks.
func saveAbsent(ctx context.Context, found [][]finding) error {
	bySource := map[*EngineImages][]*engineImage{}
	for _, node := range found {
		for _, f := range node {
			if e := f.image.engine; e != nil && f.standing == absent && !slices.Contains(bySource[e.source], e) {
				bySource[e.source] = append(bySource[e.source], e)
			}
		}
	}
	for source, images := range bySource {
		if err := source.save(ctx, images); err != nil {
			return err
		}
	}
	return nil
}

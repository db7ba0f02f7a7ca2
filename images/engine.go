package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/spire-vault-99-action/internal/run"
)

// LoadEngine brings an image to the container engine of this machine, by docker
// load, unless the engine has that very image under that name, and verifies it
// there. The reference needs a tag. Layers in zstd, which engines before Docker 23
// cannot read, are unpacked on the way.
func LoadEngine(ctx context.Context, image NamedImage, cfg LoadConfig) error {
	if cfg.Engine == "" {
		cfg.Engine = "docker"
	}
	if err := loadEngine(ctx, image, cfg); err != nil {
		return fmt.Errorf("load image %s into engine %s: %w", image.Ref, cfg.Engine, err)
	}
	return nil
}

func loadEngine(ctx context.Context, image NamedImage, cfg LoadConfig) error {
	emit := oneAtATime(cfg.OnEvent)
	began := time.Now()
	if image.Image == nil {
		return errors.New("NamedImage.Image is nil")
	}
	ref, err := engineName(image.Ref)
	if err != nil {
		return err
	}
	archive, err := newDockerArchive(ref, image.Image)
	if err != nil {
		return err
	}
	// An engine that does not answer fails the load too, and that error is told.
	if state, err := inspectEngine(ctx, cfg.Engine, ref); err == nil && archive.is(state.id) {
		emit(Event{Verb: "loaded", Ref: image.Ref, Node: cfg.Engine, Detail: "already there", Elapsed: time.Since(began)})
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	emit(Event{Verb: "load", Ref: image.Ref, Node: cfg.Engine, Total: archive.size})
	const interval = time.Second
	last := time.Now()
	stdin, err := newFeed(func(w io.Writer) error {
		return archive.write(ctx, w, func(done int64) {
			if now := time.Now(); now.Sub(last) >= interval {
				last = now
				emit(Event{Verb: "load", Ref: image.Ref, Node: cfg.Engine, Done: done, Total: archive.size, Elapsed: time.Since(began)})
			}
		})
	})
	if err != nil {
		return err
	}
	err = run.Cmd{Argv: []string{cfg.Engine, "load"}, Stdin: stdin.pipe}.Run(ctx)
	if cause := stdin.close(); cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("%w; the engine must be running and this user allowed to use it", err)
	}
	state, err := inspectEngine(ctx, cfg.Engine, ref)
	if err != nil {
		return fmt.Errorf("verify it: %w", err)
	}
	// An engine that keeps images in containerd gives the image a manifest of its own,
	// so there the content alone can be compared.
	if !archive.is(state.id) && !slices.Equal(state.layers, archive.diffIDs) {
		return fmt.Errorf("afterwards the engine has image %s under this name, want %s", state.id, archive.config)
	}
	emit(Event{Verb: "loaded", Ref: image.Ref, Node: cfg.Engine, Detail: "sent " + byteCount(archive.size), Elapsed: time.Since(began)})
	return nil
}

// engineName is name:tag; a digest beside the tag is left out, for a loaded image
// has none.
func engineName(ref string) (string, error) {
	if _, err := parseRef(ref); err != nil {
		return "", err
	}
	tagged, _, _ := strings.Cut(ref, "@")
	tag, err := name.NewTag(tagged, name.WithDefaultTag(""))
	if err != nil {
		return "", err
	}
	if tag.TagStr() == "" {
		return "", errors.New("the reference has no tag, and an engine can load an image under a tag alone")
	}
	return tagged, nil
}

type engineState struct {
	id     string
	layers []string
}

func inspectEngine(ctx context.Context, engine, ref string) (engineState, error) {
	out, err := run.Output(ctx, engine, "image", "inspect", "--format", "{{.Id}} {{json .RootFS.Layers}}", ref)
	if err != nil {
		return engineState{}, err
	}
	id, layers, _ := strings.Cut(strings.TrimSpace(out), " ")
	s := engineState{id: id}
	if err := json.Unmarshal([]byte(layers), &s.layers); err != nil {
		return engineState{}, fmt.Errorf("the engine describes the image as %q: %w", out, err)
	}
	return s, nil
}

// dockerArchive is an image as docker load reads it: manifest.json, the config and
// the layers, in a tar.
type dockerArchive struct {
	config, manifest v1.Hash
	rawConfig        []byte
	index            []byte // manifest.json
	diffIDs          []string
	layers           []blob
	size             int64
}

func newDockerArchive(ref string, img v1.Image) (dockerArchive, error) {
	var a dockerArchive
	var err error
	if a.config, err = img.ConfigName(); err != nil {
		return a, err
	}
	if a.manifest, err = img.Digest(); err != nil {
		return a, err
	}
	if a.rawConfig, err = img.RawConfigFile(); err != nil {
		return a, err
	}
	layers, err := img.Layers()
	if err != nil {
		return a, err
	}
	var names []string
	for _, l := range layers {
		diffID, err := l.DiffID()
		if err != nil {
			return a, err
		}
		b, err := engineLayer(l)
		if err != nil {
			return a, fmt.Errorf("read layer %s: %w", diffID, err)
		}
		file := layerFile(b)
		if !slices.Contains(names, file) {
			a.layers = append(a.layers, b)
			a.size += b.size
		}
		names = append(names, file)
		a.diffIDs = append(a.diffIDs, diffID.String())
	}
	a.index, err = json.Marshal([]map[string]any{{"Config": a.config.Hex + ".json", "RepoTags": []string{ref}, "Layers": names}})
	return a, err
}

// engineLayer is the layer as it is sent: unpacked if the engine may not be able to.
func engineLayer(l v1.Layer) (blob, error) {
	digest, err := l.Digest()
	if err != nil {
		return blob{}, err
	}
	mediaType, err := l.MediaType()
	if err != nil {
		return blob{}, err
	}
	if mediaType != types.OCILayerZStd {
		size, err := l.Size()
		return blob{digest, size, l.Compressed}, err
	}
	// A tar needs the size beforehand, and nobody has written it down.
	rc, err := l.Uncompressed()
	if err != nil {
		return blob{}, err
	}
	defer rc.Close()
	size, err := io.Copy(io.Discard, rc)
	return blob{digest, size, l.Uncompressed}, err
}

func layerFile(b blob) string { return b.digest.Hex + ".tar" }

// is tells whether the engine's image ID means this image: the config's digest, or
// the manifest's where the engine keeps images in containerd.
func (a dockerArchive) is(id string) bool {
	return id == a.config.String() || id == a.manifest.String()
}

func (a dockerArchive) write(ctx context.Context, w io.Writer, progress func(done int64)) error {
	tw := tar.NewWriter(w)
	counted := &progressReader{report: progress}
	for _, b := range a.layers {
		rc, err := b.open()
		if err != nil {
			return err
		}
		counted.r = contextReader{ctx, rc}
		err = writeTarFile(tw, layerFile(b), b.size, counted)
		rc.Close()
		if err != nil {
			return fmt.Errorf("send layer %s: %w", b.digest, err)
		}
	}
	if err := writeTarFile(tw, a.config.Hex+".json", int64(len(a.rawConfig)), strings.NewReader(string(a.rawConfig))); err != nil {
		return err
	}
	if err := writeTarFile(tw, "manifest.json", int64(len(a.index)), strings.NewReader(string(a.index))); err != nil {
		return err
	}
	return tw.Close()
}

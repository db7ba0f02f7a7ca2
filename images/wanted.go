package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// NamedImage is an image and the reference under which it is to be found. One of
// Image and Index is set.
type NamedImage struct {
	Ref   string
	Image v1.Image
	// Index is an image for several platforms: each node gets the index itself, so
	// that its digest is found there, and of its images the one for the node's
	// platform alone. The others need not be readable.
	Index v1.ImageIndex
}

// wantedImage is an image with all that is sent of it.
type wantedImage struct {
	ref, name string
	// desc is of the manifest or the index: what the name is to mean on a node. It is
	// empty for an image of an engine that has not been saved yet.
	desc  v1.Descriptor
	blobs []blob // index, manifest, config, layers
	heads int    // how many of blobs are always sent: index and manifest

	index  v1.ImageIndex // its blobs depend on the node's platform
	engine *engineImage  // its desc and blobs are known when it is saved
}

type blob struct {
	digest v1.Hash
	size   int64
	open   func() (io.ReadCloser, error)
}

func wantedImages(images []NamedImage, latest bool) ([]wantedImage, error) {
	byName := map[string]string{}
	var wanted []wantedImage
	for _, i := range images {
		w, err := newWantedImage(i, latest)
		if err != nil {
			return nil, err
		}
		if have, ok := byName[w.name]; ok && have != w.identity() {
			return nil, fmt.Errorf("%s is given twice, with digest %s and %s", w.name, have, w.identity())
		} else if !ok {
			byName[w.name] = w.identity()
			wanted = append(wanted, w)
		}
	}
	return wanted, nil
}

func newWantedImage(i NamedImage, latest bool) (wantedImage, error) {
	full, err := nodeName(i.Ref, latest)
	if err != nil {
		return wantedImage{}, err
	}
	w := wantedImage{ref: i.Ref, name: full}
	switch img := i.Image.(type) {
	case nil:
		if i.Index == nil {
			err = errors.New("NamedImage.Image is nil, and so is NamedImage.Index")
			break
		}
		w.index = i.Index
		w.desc, _, err = indexBlob(i.Index)
	case *engineImage:
		w.engine = img
	default:
		err = w.fill(img)
	}
	if err == nil && i.Image != nil && i.Index != nil {
		err = errors.New("NamedImage.Image and NamedImage.Index are both set; give one of them")
	}
	if err != nil {
		return wantedImage{}, fmt.Errorf("read image %s: %w", i.Ref, err)
	}
	return w, nil
}

// identity is the digest that tells the image from others of the same name.
func (w wantedImage) identity() string {
	if w.engine != nil {
		return w.engine.id
	}
	return w.desc.Digest.String()
}

// size is that of all blobs as far as they are known.
func (w wantedImage) size() int64 {
	if w.engine != nil {
		return w.engine.size
	}
	if w.index != nil {
		// On this node or elsewhere, the platform is most often this one.
		if here, err := w.onto(defaultPlatform()); err == nil {
			w = here
		}
	}
	var n int64
	for _, b := range w.blobs {
		n += b.size
	}
	return n
}

// fill takes desc and blobs from the image.
func (w *wantedImage) fill(img v1.Image) error {
	raw, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	w.desc, w.heads = v1.Descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(raw))}, 1
	w.blobs = []blob{{digest, int64(len(raw)), bytesOpener(raw)}, {manifest.Config.Digest, int64(len(config)), bytesOpener(config)}}
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return err
		}
		size, err := l.Size()
		if err != nil {
			return err
		}
		w.blobs = append(w.blobs, blob{d, size, l.Compressed})
	}
	return nil
}

// opened is the image, saved if it is one of an engine.
func (w wantedImage) opened(ctx context.Context) (wantedImage, error) {
	if w.engine == nil {
		return w, nil
	}
	n, err := w.engine.saved(ctx)
	if err != nil {
		return wantedImage{}, fmt.Errorf("read image %s: %w", w.ref, err)
	}
	out := wantedImage{ref: w.ref, name: w.name, index: n.Index}
	if n.Index == nil {
		err = out.fill(n.Image)
	}
	if err != nil {
		return wantedImage{}, fmt.Errorf("read image %s: %w", w.ref, err)
	}
	return out, nil
}

// onto is the image as a node of that platform is sent it.
func (w wantedImage) onto(platform v1.Platform) (wantedImage, error) {
	fail := func(err error) (wantedImage, error) {
		return wantedImage{}, fmt.Errorf("read image %s: %w", w.ref, err)
	}
	if w.index == nil {
		return w, nil
	}
	desc, head, err := indexBlob(w.index)
	if err != nil {
		return fail(err)
	}
	img, err := forPlatform(w.index, platform)
	if err != nil {
		return fail(err)
	}
	if err := w.fill(img); err != nil {
		return fail(err)
	}
	w.desc, w.blobs, w.heads = desc, append([]blob{head}, w.blobs...), 2
	return w, nil
}

func indexBlob(index v1.ImageIndex) (v1.Descriptor, blob, error) {
	raw, err := index.RawManifest()
	if err != nil {
		return v1.Descriptor{}, blob{}, err
	}
	digest, err := index.Digest()
	if err != nil {
		return v1.Descriptor{}, blob{}, err
	}
	mediaType, err := index.MediaType()
	if err != nil {
		return v1.Descriptor{}, blob{}, err
	}
	size := int64(len(raw))
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: size}, blob{digest, size, bytesOpener(raw)}, nil
}

// nodeName is the reference as the kubelet asks containerd for it: fully
// qualified, and by digest alone where there is one.
func nodeName(ref string, latest bool) (string, error) {
	parse := parseRef
	if latest && !strings.Contains(ref, "@") {
		parse = func(ref string) (name.Reference, error) { return name.NewTag(ref) }
	}
	parsed, err := parse(ref)
	if err != nil {
		return "", err
	}
	repo := strings.Replace(parsed.Context().Name(), name.DefaultRegistry+"/", "docker.io/", 1)
	if strings.HasPrefix(ref, "localhost/") {
		// Podman's place for what was built here; to containerd a registry, as to Docker.
		repo = strings.TrimPrefix(repo, "docker.io/")
	}
	if _, ok := parsed.(name.Digest); ok {
		return repo + "@" + parsed.Identifier(), nil
	}
	return repo + ":" + parsed.Identifier(), nil
}

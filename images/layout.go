package images

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// SourceConfig tunes OpenLayout, OpenArchive and OpenEngine. The zero value works.
type SourceConfig struct {
	// Ref names the image, in place of the name that it has. It is for a source of one
	// image.
	Ref string
	// TempDir is where what is unpacked or saved lies; default: the system's.
	TempDir string
	// OnEvent receives progress.
	OnEvent func(Event)
}

// OpenLayout returns the images of an OCI image layout in a folder, under the names
// that it gives them (the annotations io.containerd.image.name and
// org.opencontainers.image.ref.name, where that is more than a tag). An index becomes a
// NamedImage with an Index. Contents are read when the image is, so the folder must
// stay; there is nothing to close.
func OpenLayout(dir string, cfg SourceConfig) ([]NamedImage, error) {
	all, err := ociLayout{dirFiles(dir)}.images(named(cfg.Ref))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: the folder of an OCI image layout has oci-layout, index.json and blobs", err)
	}
	if err != nil {
		return nil, fmt.Errorf("open OCI layout %s: %w", dir, err)
	}
	return all, nil
}

// files are what a layout or an archive is made of. What is not there is an
// fs.ErrNotExist.
type files interface {
	open(name string) (io.ReadCloser, error)
	size(name string) (int64, error)
}

type dirFiles string

func (d dirFiles) open(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), filepath.FromSlash(name)))
}

func (d dirFiles) size(name string) (int64, error) {
	info, err := os.Stat(filepath.Join(string(d), filepath.FromSlash(name)))
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// readSmall reads a file that is a document: a manifest, an index, a config.
func readSmall(f files, name string) ([]byte, error) {
	rc, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	const most = 64 << 20
	raw, err := io.ReadAll(io.LimitReader(rc, most+1))
	if err == nil && len(raw) > most {
		err = fmt.Errorf("%s has more than %d bytes, which no document of an image has", name, most)
	}
	return raw, err
}

// ociLayout is an OCI image layout.
type ociLayout struct{ files files }

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// images are those that index.json names, with their names seen to.
func (l ociLayout) images(name naming) ([]NamedImage, error) {
	raw, err := readSmall(l.files, "index.json")
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("read index.json: %w", err)
	}
	var all []NamedImage
	var nameless []string
	for _, d := range index.Manifests {
		n := NamedImage{Ref: layoutName(d)}
		switch {
		case d.MediaType.IsIndex():
			n.Index, err = l.index(d)
		case d.MediaType.IsImage():
			n.Image, err = l.image(d)
		default:
			continue // what belongs to images, and is none
		}
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", cmp.Or(n.Ref, d.Digest.String()), err)
		}
		if n.Ref == "" {
			nameless = append(nameless, d.Digest.String())
		}
		all = append(all, n)
	}
	return name(all, nameless)
}

// naming sees to the names of a source's images; nameless are the digests of those
// that have none.
type naming func(all []NamedImage, nameless []string) ([]NamedImage, error)

// asTheyAre leaves images without a name.
func asTheyAre(all []NamedImage, _ []string) ([]NamedImage, error) { return all, nil }

// named gives the only image the name ref or, where that is empty, sees to it that each
// has one.
func named(ref string) naming {
	return func(all []NamedImage, nameless []string) ([]NamedImage, error) {
		switch {
		case len(all) == 0:
			return nil, errors.New("it holds no image")
		case ref != "" && !sameImage(all):
			var have []string
			for _, n := range all {
				have = append(have, cmp.Or(n.Ref, "one without a name"))
			}
			return nil, fmt.Errorf("it holds several images (%s), which cannot all be named %s", strings.Join(have, ", "), ref)
		case ref != "":
			all[0].Ref = ref
			return all[:1], nil
		case len(nameless) > 0:
			return nil, fmt.Errorf("it gives no full name to %s: say what it is to be named (SourceConfig.Ref)", strings.Join(nameless, " and "))
		}
		return all, nil
	}
}

// sameImage is true for one image under several names.
func sameImage(all []NamedImage) bool {
	digest := func(n NamedImage) v1.Hash {
		var h v1.Hash
		if n.Index != nil {
			h, _ = n.Index.Digest()
		} else {
			h, _ = n.Image.Digest()
		}
		return h
	}
	return !slices.ContainsFunc(all, func(n NamedImage) bool { return digest(n) != digest(all[0]) })
}

// layoutName is the name that a layout gives to what the descriptor is of, or "".
func layoutName(d v1.Descriptor) string {
	if full := d.Annotations[containerdName]; full != "" {
		return full
	}
	// By the specification, a name of any kind. Most programs put a tag there.
	if ref := d.Annotations[refName]; strings.ContainsAny(ref, ":@/") {
		return ref
	}
	return ""
}

// document reads a blob that is small, and compares it with its digest.
func (l ociLayout) document(d v1.Descriptor) ([]byte, error) {
	raw, err := readSmall(l.files, blobName(d.Digest))
	if err != nil {
		return nil, l.missing(d, err)
	}
	if got, _, err := v1.SHA256(bytes.NewReader(raw)); err != nil || got != d.Digest {
		return nil, fmt.Errorf("blob %s: %w: it has %s", d.Digest, ErrCorrupt, got)
	}
	return raw, nil
}

func (l ociLayout) missing(d v1.Descriptor, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s (%d bytes) is missing: %w", d.Digest, d.Size, err)
	}
	return err
}

// image opens an image, all of whose content must be there.
func (l ociLayout) image(desc v1.Descriptor) (v1.Image, error) {
	img := &storedImage{desc: desc, open: func(h v1.Hash) (io.ReadCloser, error) { return l.files.open(blobName(h)) }}
	var err error
	if img.rawManifest, err = l.document(desc); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if img.manifest, err = v1.ParseManifest(bytes.NewReader(img.rawManifest)); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if img.rawConfig, err = l.document(img.manifest.Config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if img.config, err = v1.ParseConfigFile(bytes.NewReader(img.rawConfig)); err != nil {
		return nil, fmt.Errorf("config %s: %w", img.manifest.Config.Digest, err)
	}
	for _, d := range img.manifest.Layers {
		size, err := l.files.size(blobName(d.Digest))
		if err != nil {
			return nil, l.missing(d, err)
		}
		if size != d.Size {
			return nil, fmt.Errorf("blob %s: %w: %d bytes, want %d", d.Digest, ErrCorrupt, size, d.Size)
		}
	}
	return partial.CompressedToImage(img)
}

func (l ociLayout) index(desc v1.Descriptor) (v1.ImageIndex, error) {
	raw, err := l.document(desc)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	i := &storedIndex{layout: l, desc: desc, raw: raw}
	if i.manifest, err = v1.ParseIndexManifest(bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	return i, nil
}

// storedIndex is an index of a layout. Not all that it lists need be there.
type storedIndex struct {
	layout   ociLayout
	desc     v1.Descriptor
	raw      []byte
	manifest *v1.IndexManifest
}

func (i *storedIndex) MediaType() (types.MediaType, error)       { return i.desc.MediaType, nil }
func (i *storedIndex) Digest() (v1.Hash, error)                  { return i.desc.Digest, nil }
func (i *storedIndex) Size() (int64, error)                      { return int64(len(i.raw)), nil }
func (i *storedIndex) RawManifest() ([]byte, error)              { return i.raw, nil }
func (i *storedIndex) IndexManifest() (*v1.IndexManifest, error) { return i.manifest.DeepCopy(), nil }

func (i *storedIndex) find(h v1.Hash) (v1.Descriptor, bool) {
	at := slices.IndexFunc(i.manifest.Manifests, func(d v1.Descriptor) bool { return d.Digest == h })
	if at < 0 {
		return v1.Descriptor{}, false
	}
	return i.manifest.Manifests[at], true
}

// Image is one that the index lists.
func (i *storedIndex) Image(h v1.Hash) (v1.Image, error) {
	d, ok := i.find(h)
	if !ok {
		return nil, fmt.Errorf("index %s lists no image %s", i.desc.Digest, h)
	}
	img, err := i.layout.image(d)
	if errors.Is(err, fs.ErrNotExist) && d.Platform != nil {
		err = fmt.Errorf("the index lists an image for %s, which is not there with all its content: get or save it for that platform: %w", d.Platform, err)
	}
	return img, err
}

// ImageIndex is one that the index lists.
func (i *storedIndex) ImageIndex(h v1.Hash) (v1.ImageIndex, error) {
	d, ok := i.find(h)
	if !ok {
		return nil, fmt.Errorf("index %s lists no index %s", i.desc.Digest, h)
	}
	return i.layout.index(d)
}

// Archive is the images of a file, or of an engine, until it is closed.
type Archive struct {
	// Images are in the file's order; one that has several names is there under each.
	Images []NamedImage
	files  []*os.File
}

// Close ends what reads from it. Its images can be read no more.
func (a *Archive) Close() error {
	var errs []error
	for _, f := range a.files {
		errs = append(errs, f.Close())
	}
	a.files = nil
	return errors.Join(errs...)
}

// temporary is a file that is gone when it is closed, or with the process.
func temporary(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "images-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// OpenArchive opens a file of images: what docker save, podman save, nerdctl save,
// buildx, skopeo, ko, Bazel or crane write, be it in Docker's own format or an OCI image
// layout in a tar, which goes first where a file is both. A file that is compressed as a
// whole, with gzip or zstd, is unpacked into TempDir. Contents are read when the images
// are, so the file must stay as it is until the Archive is closed, which is up to the
// caller.
func OpenArchive(ctx context.Context, file string, cfg SourceConfig) (*Archive, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open image archive: %w", err)
	}
	a, err := readArchive(ctx, f, cfg.TempDir, named(cfg.Ref))
	if err != nil {
		return nil, fmt.Errorf("open image archive %s: %w", file, err)
	}
	return a, nil
}

// readArchive takes the file over.
func readArchive(ctx context.Context, f *os.File, tempDir string, name naming) (a *Archive, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f, err = plain(ctx, f, tempDir); err != nil {
		return nil, err
	}
	entries, err := indexTar(ctx, f)
	if err != nil {
		return nil, err
	}
	a = &Archive{files: []*os.File{f}}
	_, noLayout := entries.size("oci-layout")
	_, noManifest := entries.size("manifest.json")
	switch {
	case noLayout == nil:
		a.Images, err = ociLayout{entries}.images(name)
	case noManifest == nil:
		a.Images, err = dockerImages(entries, name)
	default:
		err = fmt.Errorf("it is a tar, but no archive of images: it has neither oci-layout nor manifest.json (%s); docker save writes one, docker export does not", entries.some())
	}
	return a, err
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// plain is the file, or what it is compressed of; then the file is closed.
func plain(ctx context.Context, f *os.File, tempDir string) (*os.File, error) {
	head := make([]byte, 4)
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return f, err
	}
	var r io.Reader
	var err error
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		r, err = gzip.NewReader(f)
	case bytes.Equal(head, zstdMagic):
		var d *zstd.Decoder
		if d, err = zstd.NewReader(f); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("unpack it: %w", err)
	}
	out, err := temporary(tempDir)
	if err != nil {
		return f, err
	}
	if _, err := io.Copy(out, contextReader{ctx, r}); err != nil {
		return f, errors.Join(fmt.Errorf("unpack it: %w", diskHint(os.TempDir(), err)), out.Close())
	}
	return out, f.Close()
}

// tarFiles are the files of a tar that lies on disk.
type tarFiles struct {
	file    io.ReaderAt
	entries map[string]tarEntry
	links   map[string]string
}

type tarEntry struct{ offset, size int64 }

// indexTar notes where each file of the tar is.
func indexTar(ctx context.Context, f *os.File) (tarFiles, error) {
	t := tarFiles{file: f, entries: map[string]tarEntry{}, links: map[string]string{}}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return t, err
	}
	r := tar.NewReader(f) // seeks over contents, and reads no further than a header
	for {
		if err := ctx.Err(); err != nil {
			return t, err
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t, fmt.Errorf("read it as a tar: %w; if it was copied or saved, that may not have been to its end", err)
		}
		at, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return t, err
		}
		name := path.Clean(h.Name)
		switch h.Typeflag {
		case tar.TypeReg:
			t.entries[name] = tarEntry{at, h.Size}
		case tar.TypeSymlink: // old versions of docker save link to layers that they have written
			t.links[name] = path.Join(path.Dir(name), h.Linkname) //nolint:gosec // a name in this index, never one on disk
		case tar.TypeLink:
			t.links[name] = path.Clean(h.Linkname)
		}
	}
	if len(t.entries) == 0 {
		return t, errors.New("it is empty, or no tar")
	}
	return t, nil
}

func (t tarFiles) find(name string) (tarEntry, error) {
	name = path.Clean(name)
	for range 8 {
		if e, ok := t.entries[name]; ok {
			return e, nil
		}
		to, ok := t.links[name]
		if !ok {
			break
		}
		name = to
	}
	return tarEntry{}, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func (t tarFiles) open(name string) (io.ReadCloser, error) {
	e, err := t.find(name)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(t.file, e.offset, e.size)), nil
}

func (t tarFiles) size(name string) (int64, error) {
	e, err := t.find(name)
	return e.size, err
}

// some names a few of the files.
func (t tarFiles) some() string {
	var names []string
	for name := range t.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	if len(names) > 5 {
		names = append(names[:5], "...")
	}
	return strings.Join(names, ", ")
}

// dockerImages are the images of an archive in Docker's own format, under each of
// their names.
func dockerImages(f files, name naming) ([]NamedImage, error) {
	raw, err := readSmall(f, "manifest.json")
	if err != nil {
		return nil, err
	}
	var list []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w", err)
	}
	d := dockerFormat{f, map[string]v1.Descriptor{}}
	var all []NamedImage
	var nameless []string
	for _, entry := range list {
		img, err := d.image(entry.Config, entry.Layers)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", strings.Join(append(entry.RepoTags, entry.Config), " "), err)
		}
		if len(entry.RepoTags) == 0 {
			nameless = append(nameless, entry.Config)
			all = append(all, NamedImage{Image: img})
		}
		for _, tag := range entry.RepoTags {
			all = append(all, NamedImage{Ref: tag, Image: img})
		}
	}
	return name(all, nameless)
}

type dockerFormat struct {
	files  files
	layers map[string]v1.Descriptor // by file
}

// image makes the manifest that Docker's format does without: layers are as they are in
// the file. It is the same for the same content, so a node knows an image again that was
// saved twice.
func (d dockerFormat) image(configFile string, layerFiles []string) (v1.Image, error) {
	img := &storedImage{}
	var err error
	if img.rawConfig, err = readSmall(d.files, configFile); err != nil {
		return nil, fmt.Errorf("read its config: %w", err)
	}
	if img.config, err = v1.ParseConfigFile(bytes.NewReader(img.rawConfig)); err != nil {
		return nil, fmt.Errorf("read its config: %w", err)
	}
	diffIDs := img.config.RootFS.DiffIDs
	if len(diffIDs) != len(layerFiles) {
		return nil, fmt.Errorf("it has %d layers, and its config tells of %d", len(layerFiles), len(diffIDs))
	}
	configDigest, _, err := v1.SHA256(bytes.NewReader(img.rawConfig))
	if err != nil {
		return nil, err
	}
	img.manifest = &v1.Manifest{
		SchemaVersion: 2, MediaType: types.DockerManifestSchema2,
		Config: v1.Descriptor{MediaType: types.DockerConfigJSON, Size: int64(len(img.rawConfig)), Digest: configDigest},
	}
	byDigest := map[v1.Hash]string{}
	for i, file := range layerFiles {
		desc, err := d.layer(file, diffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", file, err)
		}
		byDigest[desc.Digest] = file
		img.manifest.Layers = append(img.manifest.Layers, desc)
	}
	if img.rawManifest, err = json.Marshal(img.manifest); err != nil {
		return nil, err
	}
	img.desc = v1.Descriptor{MediaType: types.DockerManifestSchema2}
	if img.desc.Digest, img.desc.Size, err = v1.SHA256(bytes.NewReader(img.rawManifest)); err != nil {
		return nil, err
	}
	img.open = func(h v1.Hash) (io.ReadCloser, error) { return d.files.open(byDigest[h]) }
	return partial.CompressedToImage(img)
}

// layer describes a layer's file. What the config says of one that is not compressed is
// believed here: it is compared when it is sent.
func (d dockerFormat) layer(file string, diffID v1.Hash) (v1.Descriptor, error) {
	if desc, ok := d.layers[file]; ok {
		return desc, nil
	}
	size, err := d.files.size(file)
	if err != nil {
		return v1.Descriptor{}, err
	}
	rc, err := d.files.open(file)
	if err != nil {
		return v1.Descriptor{}, err
	}
	defer rc.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(rc, head); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return v1.Descriptor{}, err
	}
	desc := v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: size, Digest: diffID}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		desc.MediaType = types.DockerLayer
	case bytes.Equal(head, zstdMagic):
		desc.MediaType = types.OCILayerZStd
	}
	if desc.MediaType != types.DockerUncompressedLayer {
		if desc.Digest, _, err = v1.SHA256(io.MultiReader(bytes.NewReader(head), rc)); err != nil {
			return v1.Descriptor{}, err
		}
	}
	d.layers[file] = desc
	return desc, nil
}

package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"

	"github.com/org/spire-vault-99-action/internal/filelock"
)

// refName is the annotation under which index.json keeps an image's key.
const refName = "org.opencontainers.image.ref.name"

// ErrNotCached is wrapped by the error of Check: the image is absent, or
// not whole.
var ErrNotCached = errors.New("not in the cache")

// Cache keeps images on disk as an OCI image layout (oci-layout, index.json,
// blobs/sha256). A key is any non-empty string, an image reference or a recipe
// digest say. Blobs are shared between images.
//
// A Cache may be used by several goroutines and several processes at once. An
// image is visible whole or not at all, whatever stops a Put.
type Cache struct{ dir string }

// OpenCache opens the cache in dir and makes it where it does not exist. What
// a killed process left half written is removed. There is nothing to close.
func OpenCache(dir string) (*Cache, error) {
	c := &Cache{dir: dir}
	if err := c.init(); err != nil {
		return nil, fmt.Errorf("open image cache %s: %w", dir, diskHint(dir, err))
	}
	return c, nil
}

func (c *Cache) init() error {
	if err := os.MkdirAll(c.blobDir(), 0o755); err != nil {
		return err
	}
	unlock, err := c.lock(context.Background(), indexLock, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	for name, content := range map[string]string{
		"oci-layout": layoutVersion,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		if _, err := os.Stat(filepath.Join(c.dir, name)); errors.Is(err, fs.ErrNotExist) {
			if err := writeFileAtomic(filepath.Join(c.dir, name), []byte(content)); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	// Nobody else replaces index.json now, so its temporary files are left-overs.
	stale, err := filepath.Glob(filepath.Join(c.dir, tempPrefix+"*"))
	if err != nil {
		return err
	}
	for _, name := range stale {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	// Only where nobody writes right now can a half blob be told from one in use.
	if unlock, err := filelock.Try(filepath.Join(c.dir, blobLock), filelock.Exclusive); err == nil {
		defer unlock()
		return c.removeBlobs(func(name string) bool { return strings.HasPrefix(name, tempPrefix) })
	}
	return nil
}

// Dir returns the folder of the layout.
func (c *Cache) Dir() string { return c.dir }

// Get returns the image under key. An image of which a blob is missing or has
// the wrong size counts as absent: false, and no error; Check says why. An error
// means that the cache itself cannot be read.
func (c *Cache) Get(key string) (v1.Image, bool, error) {
	img, err := c.open(key)
	if errors.Is(err, ErrNotCached) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	return img, true, nil
}

// Check returns nil when the image under key is there with every blob in its
// right size, and otherwise an error that names what is missing and wraps
// ErrNotCached. Contents are not read: they were verified when they came in.
func (c *Cache) Check(key string) error {
	_, err := c.open(key)
	return err
}

func (c *Cache) open(key string) (v1.Image, error) {
	index, err := c.readIndex()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[refName] == key })
	if i < 0 {
		return nil, fmt.Errorf("image %q in cache %s: %w", key, c.dir, ErrNotCached)
	}
	img, err := c.openImage(index.Manifests[i])
	if err != nil {
		return nil, fmt.Errorf("image %q in cache %s: %w", key, c.dir, err)
	}
	return img, nil
}

// Put stores the image under key, in place of what was there, and returns it
// re-read from disk. Blobs that the cache has are not read again. Every new blob
// is checked against its digest and synced to disk before the image becomes
// visible; after an error (disk full, ctx cancelled, digest wrong) the cache
// holds what it held before.
func (c *Cache) Put(ctx context.Context, key string, img v1.Image) (v1.Image, error) {
	stored, err := c.put(ctx, key, img)
	if err != nil {
		return nil, fmt.Errorf("put image %q into cache %s: %w", key, c.dir, diskHint(c.dir, err))
	}
	return stored, nil
}

func (c *Cache) put(ctx context.Context, key string, img v1.Image) (v1.Image, error) {
	if key == "" {
		return nil, errors.New("the key is empty")
	}
	// Shared: any number of Puts at once, but no Prune in between, which would
	// take the new blobs for garbage.
	unlock, err := c.lock(ctx, blobLock, filelock.Shared)
	if err != nil {
		return nil, err
	}
	defer unlock()

	desc, err := c.writeImage(ctx, img)
	if err != nil {
		return nil, err
	}
	desc.Annotations = map[string]string{refName: key}
	if err := syncDir(c.blobDir()); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	err = c.editIndex(ctx, func(index *v1.IndexManifest) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Annotations[refName] == key })
		index.Manifests = append(index.Manifests, desc)
		slices.SortFunc(index.Manifests, func(a, b v1.Descriptor) int {
			return strings.Compare(a.Annotations[refName], b.Annotations[refName])
		})
	})
	if err != nil {
		return nil, err
	}
	return c.openImage(desc)
}

// writeImage writes the image's blobs, the manifest last.
func (c *Cache) writeImage(ctx context.Context, img v1.Image) (v1.Descriptor, error) {
	layers, err := img.Layers()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("list layers: %w", err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(max(2, runtime.NumCPU()))
	seen := map[v1.Hash]bool{}
	for _, l := range layers {
		digest, err := l.Digest()
		if err != nil {
			return v1.Descriptor{}, fmt.Errorf("digest of a layer: %w", err)
		}
		size, err := l.Size()
		if err != nil {
			return v1.Descriptor{}, fmt.Errorf("size of layer %s: %w", digest, err)
		}
		// An image may hold the same layer twice.
		if seen[digest] {
			continue
		}
		seen[digest] = true
		g.Go(func() error {
			if err := c.writeBlob(gctx, digest, size, l.Compressed); err != nil {
				return fmt.Errorf("layer %s: %w", digest, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		// The group's own cancellation is not the cause.
		if ctx.Err() != nil {
			return v1.Descriptor{}, ctx.Err()
		}
		return v1.Descriptor{}, err
	}

	manifest, err := img.Manifest()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("read manifest: %w", err)
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("read config: %w", err)
	}
	if err := c.writeBlob(ctx, manifest.Config.Digest, int64(len(config)), bytesOpener(config)); err != nil {
		return v1.Descriptor{}, fmt.Errorf("config: %w", err)
	}
	raw, err := img.RawManifest()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("read manifest: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("digest of the manifest: %w", err)
	}
	if err := c.writeBlob(ctx, digest, int64(len(raw)), bytesOpener(raw)); err != nil {
		return v1.Descriptor{}, fmt.Errorf("manifest: %w", err)
	}
	mediaType, err := img.MediaType()
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("media type of the manifest: %w", err)
	}
	return v1.Descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(raw))}, nil
}

// Keys returns the keys in the cache, sorted, of half-lost images too.
func (c *Cache) Keys() ([]string, error) {
	index, err := c.readIndex()
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, d := range index.Manifests {
		if key := d.Annotations[refName]; key != "" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// Prune forgets the images whose key keep refuses (nil keeps all) and deletes
// every blob that no image uses. It waits for the Puts under way. Images
// that were opened before and are pruned can be read no more.
func (c *Cache) Prune(keep func(key string) bool) error {
	if err := c.prune(context.Background(), keep); err != nil {
		return fmt.Errorf("prune image cache %s: %w", c.dir, diskHint(c.dir, err))
	}
	return nil
}

func (c *Cache) prune(ctx context.Context, keep func(key string) bool) error {
	unlock, err := c.lock(ctx, blobLock, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	used := map[string]bool{}
	err = c.editIndex(ctx, func(index *v1.IndexManifest) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d v1.Descriptor) bool {
			return keep != nil && !keep(d.Annotations[refName])
		})
		for _, d := range index.Manifests {
			used[d.Digest.Hex] = true
			// A manifest that cannot be read keeps nothing alive but itself.
			img, err := c.readImage(d)
			if err != nil {
				continue
			}
			for _, b := range img.blobs() {
				used[b.Digest.Hex] = true
			}
		}
	})
	if err != nil {
		return err
	}
	return c.removeBlobs(func(name string) bool { return !used[name] })
}

func (c *Cache) removeBlobs(unwanted func(name string) bool) error {
	entries, err := os.ReadDir(c.blobDir())
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if unwanted(e.Name()) {
			errs = append(errs, os.Remove(filepath.Join(c.blobDir(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

func (c *Cache) blobDir() string { return filepath.Join(c.dir, "blobs", "sha256") }

func (c *Cache) blobPath(h v1.Hash) string { return filepath.Join(c.dir, "blobs", h.Algorithm, h.Hex) }

func (c *Cache) readIndex() (v1.IndexManifest, error) {
	var index v1.IndexManifest
	name := filepath.Join(c.dir, "index.json")
	raw, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(raw, &index)
	}
	if err != nil {
		return index, fmt.Errorf("read index of image cache %s: %w; if the file is damaged, delete the folder, the cache is made anew", c.dir, err)
	}
	return index, nil
}

// editIndex changes index.json under its lock and puts it in place in one step.
func (c *Cache) editIndex(ctx context.Context, edit func(*v1.IndexManifest)) error {
	unlock, err := c.lock(ctx, indexLock, filelock.Exclusive)
	if err != nil {
		return err
	}
	defer unlock()
	index, err := c.readIndex()
	if err != nil {
		return err
	}
	edit(&index)
	if index.Manifests == nil {
		index.Manifests = []v1.Descriptor{}
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(c.dir, "index.json"), raw)
}

// storedImage is an image on disk, in the cache or elsewhere, its manifest and config
// in memory. It does not depend on index.json any more.
type storedImage struct {
	open        func(v1.Hash) (io.ReadCloser, error) // of a layer
	desc        v1.Descriptor
	rawManifest []byte
	rawConfig   []byte
	manifest    *v1.Manifest
	config      *v1.ConfigFile
}

func (c *Cache) openImage(desc v1.Descriptor) (v1.Image, error) {
	img, err := c.readImage(desc)
	if err != nil {
		return nil, err
	}
	for _, b := range img.blobs() {
		info, err := os.Stat(c.blobPath(b.Digest))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("%w: blob %s (%d bytes) is missing", ErrNotCached, b.Digest, b.Size)
		case err != nil:
			return nil, err
		case info.Size() != b.Size:
			return nil, fmt.Errorf("%w: blob %s has %d bytes, not %d", ErrNotCached, b.Digest, info.Size(), b.Size)
		}
	}
	return partial.CompressedToImage(img)
}

// readImage reads manifest and config and checks both against their digests.
func (c *Cache) readImage(desc v1.Descriptor) (*storedImage, error) {
	img := &storedImage{desc: desc, open: func(h v1.Hash) (io.ReadCloser, error) { return os.Open(c.blobPath(h)) }}
	var err error
	if img.rawManifest, err = c.readBlob(desc); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if img.manifest, err = v1.ParseManifest(bytes.NewReader(img.rawManifest)); err != nil {
		return nil, fmt.Errorf("%w: manifest %s: %w", ErrNotCached, desc.Digest, err)
	}
	if img.rawConfig, err = c.readBlob(img.manifest.Config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	if img.config, err = v1.ParseConfigFile(bytes.NewReader(img.rawConfig)); err != nil {
		return nil, fmt.Errorf("%w: config %s: %w", ErrNotCached, img.manifest.Config.Digest, err)
	}
	return img, nil
}

func (c *Cache) readBlob(desc v1.Descriptor) ([]byte, error) {
	raw, err := os.ReadFile(c.blobPath(desc.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: blob %s (%d bytes) is missing", ErrNotCached, desc.Digest, desc.Size)
	}
	if err != nil {
		return nil, err
	}
	if got, _, err := v1.SHA256(bytes.NewReader(raw)); err != nil || got != desc.Digest {
		return nil, fmt.Errorf("%w: blob %s is damaged: its content has digest %s", ErrNotCached, desc.Digest, got)
	}
	return raw, nil
}

// blobs lists the config and the layers.
func (s *storedImage) blobs() []v1.Descriptor {
	return append([]v1.Descriptor{s.manifest.Config}, s.manifest.Layers...)
}

func (s *storedImage) RawManifest() ([]byte, error)   { return s.rawManifest, nil }
func (s *storedImage) RawConfigFile() ([]byte, error) { return s.rawConfig, nil }

func (s *storedImage) MediaType() (types.MediaType, error) {
	if s.manifest.MediaType != "" {
		return s.manifest.MediaType, nil
	}
	return s.desc.MediaType, nil
}

func (s *storedImage) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for i, d := range s.blobs() {
		if d.Digest != h {
			continue
		}
		l := &storedLayer{desc: d, open: s.open}
		// blobs starts with the config, which has no diff ID.
		if i > 0 && len(s.config.RootFS.DiffIDs) == len(s.manifest.Layers) {
			l.diffID = s.config.RootFS.DiffIDs[i-1]
		} else {
			l.diffID = h
		}
		return l, nil
	}
	return nil, fmt.Errorf("image %s has no blob %s", s.desc.Digest, h)
}

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// tempPrefix starts the name of a blob that is still being written.
const tempPrefix = "tmp-"

// writeBlob stores what open gives under its digest, unless it is there. The
// content reaches its name only when it is whole, right and on disk.
func (c *Cache) writeBlob(ctx context.Context, digest v1.Hash, size int64, open func() (io.ReadCloser, error)) (err error) {
	if digest.Algorithm != "sha256" {
		return fmt.Errorf("digest %s: only sha256 can be kept", digest)
	}
	if info, err := os.Stat(c.blobPath(digest)); err == nil && info.Size() == size {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close()
	f, err := os.CreateTemp(c.blobDir(), tempPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()

	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), contextReader{ctx, rc})
	if err != nil {
		return err
	}
	if got := sum(h); n != size || got != digest {
		return fmt.Errorf("content has %d bytes and digest %s, wanted %d bytes and %s", n, got, size, digest)
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), c.blobPath(digest))
}

// storedLayer is a layer on disk.
type storedLayer struct {
	desc   v1.Descriptor
	diffID v1.Hash
	open   func(v1.Hash) (io.ReadCloser, error)
}

func (l *storedLayer) Digest() (v1.Hash, error)            { return l.desc.Digest, nil }
func (l *storedLayer) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *storedLayer) Size() (int64, error)                { return l.desc.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) { return l.desc.MediaType, nil }
func (l *storedLayer) Compressed() (io.ReadCloser, error)  { return l.open(l.desc.Digest) }
func (l *storedLayer) Descriptor() (*v1.Descriptor, error) { return l.desc.DeepCopy(), nil }

// contextReader stops a copy when ctx ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func bytesOpener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// writeFileAtomic replaces the file in one step, on disk before it is visible.
func writeFileAtomic(name string, content []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), tempPrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes renames in the folder last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// diskHint adds what to do to an error that comes from a lack of room.
func diskHint(dir string, err error) error {
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		if errors.Is(err, full) {
			return fmt.Errorf("%w: no room for it under %s; free disk space, or prune the cache, and run again", err, dir)
		}
	}
	return err
}

package images

import (
	"context"
	"path/filepath"

	"github.com/org/spire-vault-99-action/internal/filelock"
)

// The cache's lock files. blobLock is held shared while blobs are added and
// exclusive while they are removed; indexLock is held for the moment in which
// index.json is replaced. Whoever needs both takes blobLock first.
const (
	blobLock  = "blobs.lock"
	indexLock = "index.lock"
)

// lock takes the lock, or returns ctx's error.
func (c *Cache) lock(ctx context.Context, name string, mode filelock.Mode) (unlock func(), err error) {
	return filelock.Take(ctx, filepath.Join(c.dir, name), mode, nil)
}

package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The cache's lock files. blobLock is held shared while blobs are added and
// exclusive while they are removed; indexLock is held for the moment in which
// index.json is replaced. Whoever needs both takes blobLock first.
const (
	blobLock  = "blobs.lock"
	indexLock = "index.lock"
)

// lock takes the lock, or returns ctx's error. The kernel gives it back when
// the process dies.
func (c *Cache) lock(ctx context.Context, name string, exclusive bool) (unlock func(), err error) {
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	// flock can block, but then not be cancelled: so ask, and ask again.
	const interval = 20 * time.Millisecond
	path := filepath.Join(c.dir, name)
	for {
		unlock, err := flock(path, how)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for lock %s, which another process or goroutine holds: %w", path, ctx.Err())
		case <-time.After(interval):
		}
	}
}

// tryLock takes the lock exclusively, or fails with EWOULDBLOCK at once.
func tryLock(path string) (unlock func(), err error) { return flock(path, unix.LOCK_EX) }

func flock(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil // closing gives the lock back
}

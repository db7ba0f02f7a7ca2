// Package filelock has locks between processes, and between goroutines of one, on files.
// The kernel gives a lock back when its process dies.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Mode is how a lock is held.
type Mode int

// The modes: any number may hold a lock Shared, or one alone Exclusive.
const (
	Exclusive Mode = unix.LOCK_EX
	Shared    Mode = unix.LOCK_SH
)

// ErrHeld says that somebody else holds the lock.
var ErrHeld = errors.New("another process or goroutine holds it")

// Try takes the lock on a file, which it makes along with its folder, or fails with
// ErrHeld at once. unlock gives it back; the file stays.
func Try(path string, mode Mode) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), int(mode)|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err == nil {
		return func() { _ = f.Close() }, nil // closing gives the lock back
	}
	_ = f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrHeld
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// Take is Try that waits until the lock is free or ctx ends. waiting, unless nil, is
// called once if it must wait.
func Take(ctx context.Context, path string, mode Mode, waiting func()) (unlock func(), err error) {
	// A flock that blocks cannot be cancelled: so ask, and ask again.
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for first := true; ; first = false {
		unlock, err := Try(path, mode)
		if !errors.Is(err, ErrHeld) {
			return unlock, err
		}
		if first && waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: waited for it: %w", err, ctx.Err())
		case <-tick.C:
		}
	}
}

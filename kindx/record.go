package kindx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/org/spire-vault-99-action/internal/filelock"
)

// record is this machine's note that a cluster is being made or removed. It is
// there only in between, so a cluster without a marker beside a record is a
// leftover of ours. Its zero value keeps nothing.
type record struct{ path string }

func newRecord(stateDir, cluster string) record {
	if stateDir == "" {
		return record{}
	}
	return record{filepath.Join(stateDir, cluster+".unfinished")}
}

func (r record) begin() error {
	if r.path == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return fmt.Errorf("note that the cluster is being worked on: %w", err)
	}
	// Only that the file is there counts; the time is for who finds it.
	if err := os.WriteFile(r.path, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
		return fmt.Errorf("note that the cluster is being worked on: %w", err)
	}
	return nil
}

func (r record) begun() bool {
	if r.path == "" {
		return false
	}
	_, err := os.Stat(r.path)
	return err == nil
}

func (r record) end() error {
	if r.path == "" {
		return nil
	}
	if err := os.Remove(r.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("note that the cluster is no longer being worked on: %w", err)
	}
	return nil
}

// lockCluster keeps other runs away from a cluster.
func lockCluster(ctx context.Context, cfg Config) (unlock func(), err error) {
	if cfg.StateDir == "" {
		return func() {}, nil
	}
	return filelock.Take(ctx, filepath.Join(cfg.StateDir, cfg.Name+".lock"), filelock.Exclusive, func() {
		sink{cfg.Name, cfg.OnEvent}.say("waiting for another run that works on it")
	})
}

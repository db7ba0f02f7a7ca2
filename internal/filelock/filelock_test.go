package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "lock")
	unlock, err := Take(t.Context(), path, Exclusive, func() { t.Error("nobody held it") })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waited := 0
	for _, mode := range []Mode{Exclusive, Shared} {
		if _, err := Take(ctx, path, mode, func() { waited++; cancel() }); !errors.Is(err, context.Canceled) || !errors.Is(err, ErrHeld) {
			t.Errorf("mode %d: %v", mode, err)
		}
		if _, err := Try(path, mode); !errors.Is(err, ErrHeld) {
			t.Errorf("mode %d: %v", mode, err)
		}
	}
	if waited != 2 {
		t.Errorf("told %d times that it waits", waited)
	}
	waiting := make(chan struct{})
	got := make(chan error)
	go func() {
		again, err := Take(t.Context(), path, Shared, func() { close(waiting) })
		if err == nil {
			defer again()
		}
		got <- err
	}()
	<-waiting
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the file stays, or two could lock two of the same name: %v", err)
	}
}

func TestShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	one, err := Try(path, Shared)
	if err != nil {
		t.Fatal(err)
	}
	two, err := Try(path, Shared)
	if err != nil {
		t.Fatal(err)
	}
	one()
	if _, err := Try(path, Exclusive); !errors.Is(err, ErrHeld) {
		t.Errorf("exclusive beside shared: %v", err)
	}
	two()
	all, err := Try(path, Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	all()
}

func TestNoFile(t *testing.T) {
	folder := t.TempDir()
	if _, err := Try(folder, Exclusive); err == nil || errors.Is(err, ErrHeld) {
		t.Errorf("a folder was locked: %v", err)
	}
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Try(filepath.Join(file, "lock"), Exclusive); err == nil {
		t.Error("a file below a file was locked")
	}
}

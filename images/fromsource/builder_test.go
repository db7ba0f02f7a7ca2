package fromsource

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/internal/filelock"
)

// What one builder builds no other one removes, nor builds beside it.
func TestOneBuilderAtATime(t *testing.T) {
	dir := t.TempDir()
	cache, err := images.OpenCache(filepath.Join(dir, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	var said []string
	builder := func() *Builder {
		b, err := New(t.Context(), Config{Dir: dir, Cache: cache, OnEvent: func(e Event) { said = append(said, e.String()) }})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	busy, other := builder(), builder()
	if err := busy.own(t.Context()); err != nil {
		t.Fatal(err)
	}
	module := filepath.Join(busy.modCache(), "module")
	if err := os.MkdirAll(module, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err != nil {
		t.Errorf("closing beside one that builds: %v", err)
	}
	if _, err := os.Stat(module); err != nil {
		t.Errorf("a module is gone that another process builds with: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := other.own(ctx); !errors.Is(err, filelock.ErrHeld) {
		t.Errorf("two build at once: %v", err)
	}
	if len(said) != 1 || !strings.Contains(said[0], "waiting for another process that builds") || !strings.Contains(said[0], "0s so far") {
		t.Errorf("said %q", said)
	}
	if err := busy.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(module); !os.IsNotExist(err) {
		t.Errorf("the module stayed: %v", err)
	}
	if err := other.own(t.Context()); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

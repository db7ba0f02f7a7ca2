// Package sourcetest gives tests real programs to run: files out of the images
// that package fromsource builds. It is for tests alone. It needs what building
// needs, unless the images are built already.
package sourcetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
	"github.com/org/spire-vault-99-action/internal/filelock"
)

// File is one regular file of an image.
type File struct {
	Image string // its reference, which a recipe of fromsource makes
	Path  string // in the image, absolute
}

// Binaries returns a folder that holds the files under their base names. It is
// shared by all tests and stays: do not write to it. An image is taken from the
// project's cache, below [os.UserCacheDir], or built into it, which can take
// many minutes; progress goes to the test's log. What fails fails the test.
func Binaries(tb testing.TB, files ...File) string {
	tb.Helper()
	dir, err := binaries(tb.Context(), tb.Logf, files)
	if err != nil {
		tb.Fatalf("programs for the test: %v", err)
	}
	return dir
}

// SPIRE returns a folder with spire-server and spire-agent: the one that the variable
// SPIRE_BIN_DIR names, which may be of any version, or that of the programs which the project
// installs, as Binaries has them.
func SPIRE(tb testing.TB) string {
	tb.Helper()
	if dir := os.Getenv("SPIRE_BIN_DIR"); dir != "" {
		return dir
	}
	return Binaries(tb,
		File{Image: "ghcr.io/spiffe/spire-server:1.13.3", Path: "/opt/spire/bin/spire-server"},
		File{Image: "ghcr.io/spiffe/spire-agent:1.13.3", Path: "/opt/spire/bin/spire-agent"})
}

type logf func(format string, args ...any)

func binaries(ctx context.Context, log logf, files []File) (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	base = filepath.Join(base, "spire-vault-99")
	store := filepath.Join(base, "test-binaries")
	if err := os.MkdirAll(store, 0o755); err != nil {
		return "", err
	}
	// Tests of several packages run at once, each in its process.
	name := filepath.Join(store, "lock")
	unlock, err := filelock.Take(ctx, name, filelock.Exclusive, func() {
		log("waiting for %s: another test looks for its programs, or builds them", name)
	})
	if err != nil {
		return "", err
	}
	defer unlock()
	found, err := find(ctx, base, log, files)
	if err != nil {
		return "", err
	}
	return place(ctx, store, files, found)
}

// find returns the files' images by reference, and builds what is not cached,
// in one go: they may share what is compiled.
func find(ctx context.Context, base string, log logf, files []File) (map[string]v1.Image, error) {
	cache, err := images.OpenCache(filepath.Join(base, "images")) //nolint:contextcheck // it waits for nothing long
	if err != nil {
		return nil, err
	}
	builder, err := fromsource.New(ctx, fromsource.Config{
		Dir: filepath.Join(base, "fromsource"), Cache: cache, OnEvent: sparse(log, time.Minute),
	})
	if err != nil {
		return nil, err
	}
	found := map[string]v1.Image{}
	var missing []string
	for _, f := range files {
		if found[f.Image] != nil || slices.Contains(missing, f.Image) {
			continue
		}
		img, cached, err := builder.Cached(f.Image)
		if err == nil && !cached {
			img, cached, err = cache.Get(f.Image) // pulled from a registry before
		}
		switch {
		case err != nil:
			return nil, err
		case cached:
			found[f.Image] = img
		default:
			missing = append(missing, f.Image)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	log("building %q from source: they are not in %s", missing, cache.Dir())
	built, err := builder.Images(ctx, missing...)
	if err != nil {
		return nil, err // what is compiled so far stays for the next run
	}
	for _, ref := range missing {
		found[ref] = built[ref]
	}
	return found, builder.Close()
}

// place extracts the files to a folder of store that is named by what it holds,
// unless it is there. The folder is whole or absent. The caller holds the lock.
func place(ctx context.Context, store string, files []File, found map[string]v1.Image) (string, error) {
	names := map[string]bool{}
	paths := map[string][]string{}
	var content []string
	for _, f := range files {
		name := path.Base(f.Path)
		if names[name] {
			return "", fmt.Errorf("two files are named %s: they cannot lie in one folder", name)
		}
		names[name] = true
		digest, err := found[f.Image].Digest()
		if err != nil {
			return "", fmt.Errorf("image %s: %w", f.Image, err)
		}
		paths[f.Image] = append(paths[f.Image], f.Path)
		content = append(content, digest.String()+" "+f.Path)
	}
	slices.Sort(content)
	sum := sha256.Sum256([]byte(fmt.Sprintf("%q", content)))
	dir := filepath.Join(store, hex.EncodeToString(sum[:16]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}

	half := dir + ".part"
	if err := errors.Join(os.RemoveAll(half), os.Mkdir(half, 0o755)); err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(half) }()
	for ref, wanted := range paths {
		if err := extract(ctx, found[ref], half, wanted); err != nil {
			return "", fmt.Errorf("files of image %s: %w", ref, err)
		}
	}
	return dir, os.Rename(half, dir)
}

// sparse logs an event that is about something new, and of the others one an
// interval: the builder tells of something each second.
func sparse(log logf, interval time.Duration) func(fromsource.Event) {
	var what string
	var last time.Time
	return func(e fromsource.Event) {
		if e.What == what && time.Since(last) < interval {
			return
		}
		what, last = e.What, time.Now()
		log("%s", e)
	}
}

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/org/spire-vault-99-action/internal/filelock"
)

// The test binary plays a second process when asked to.
func TestMain(m *testing.M) {
	switch os.Getenv("IMAGES_TEST_CHILD") {
	case "":
		os.Exit(m.Run())
	case "full-disk":
		os.Exit(childPutOnFullDisk(os.Getenv("IMAGES_TEST_DIR")))
	case "docker":
		os.Exit(childDocker(os.Args[1:], os.Getenv("IMAGES_TEST_DIR")))
	case "engine":
		os.Exit(childEngine(os.Args[1:], os.Getenv("IMAGES_TEST_DIR")))
	case "put-many":
		os.Exit(childPutMany(os.Getenv("IMAGES_TEST_DIR")))
	}
	os.Exit(99)
}

func child(t *testing.T, what, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "IMAGES_TEST_CHILD="+what, "IMAGES_TEST_DIR="+dir)
	return cmd
}

func openTestCache(t *testing.T) *Cache {
	t.Helper()
	c, err := OpenCache(filepath.Join(t.TempDir(), "cache"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustPut(t *testing.T, c *Cache, key string, img v1.Image) v1.Image {
	t.Helper()
	got, err := c.Put(t.Context(), key, img)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCacheRoundTrip(t *testing.T) {
	for _, comp := range compressions {
		c := openTestCache(t)
		want := testImage(t, comp, "one", "two", "one")
		put := mustPut(t, c, "example.org/a:1", want)
		// Another opening, as of a later process.
		c, err := OpenCache(c.Dir())
		if err != nil {
			t.Fatal(err)
		}
		got, ok, err := c.Get("example.org/a:1")
		if err != nil || !ok {
			t.Fatalf("Get: %v, %v", ok, err)
		}
		for _, img := range []v1.Image{put, got} {
			if a, b := digestOf(t, img), digestOf(t, want); a != b {
				t.Errorf("digest %s, want %s", a, b)
			}
			assertWhole(t, img)
		}
		// The folder is a layout that other tools can read.
		p, err := layout.FromPath(c.Dir())
		if err != nil {
			t.Fatal(err)
		}
		ii, err := p.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		m, err := ii.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		img, err := ii.Image(m.Manifests[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		assertWhole(t, img)
		if _, ok, err := c.Get("example.org/a:2"); ok || err != nil {
			t.Errorf("unknown key: %v, %v", ok, err)
		}
	}
}

func TestCachePutReplaces(t *testing.T) {
	c := openTestCache(t)
	mustPut(t, c, "b", testImage(t, Gzip, "old"))
	mustPut(t, c, "a", testImage(t, Gzip, "other"))
	mustPut(t, c, "b", testImage(t, Gzip, "new"))
	keys, err := c.Keys()
	if err != nil || !slices.Equal(keys, []string{"a", "b"}) {
		t.Errorf("keys %q, %v", keys, err)
	}
	got, _, err := c.Get("b")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := digestOf(t, got), digestOf(t, testImage(t, Gzip, "new")); a != b {
		t.Errorf("got %s, want the new image %s", a, b)
	}
}

func TestCacheDamageIsAbsence(t *testing.T) {
	img := testImage(t, Gzip, "content")
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string]v1.Hash{"manifest": digestOf(t, img), "config": m.Config.Digest, "layer": m.Layers[0].Digest}
	for what, blob := range blobs {
		for how, damage := range map[string]func(string) error{
			"missing":   os.Remove,
			"truncated": func(name string) error { return os.Truncate(name, 10) },
		} {
			t.Run(what+" "+how, func(t *testing.T) {
				c := openTestCache(t)
				mustPut(t, c, "k", img)
				if err := damage(c.blobPath(blob)); err != nil {
					t.Fatal(err)
				}
				if _, ok, err := c.Get("k"); ok || err != nil {
					t.Errorf("Get: %v, %v; want absent and no error", ok, err)
				}
				err := c.Check("k")
				if !errors.Is(err, ErrNotCached) {
					t.Errorf("Check: %v", err)
				}
				wantError(t, err, blob.String(), `"k"`)
				// Put heals it.
				mustPut(t, c, "k", img)
				if err := c.Check("k"); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestCachePrune(t *testing.T) {
	c := openTestCache(t)
	mustPut(t, c, "keep", testImage(t, Gzip, "shared", "mine"))
	mustPut(t, c, "drop", testImage(t, Gzip, "shared", "yours"))
	if err := os.WriteFile(filepath.Join(c.blobDir(), tempPrefix+"1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Prune(func(key string) bool { return key == "keep" }); err != nil {
		t.Fatal(err)
	}
	if keys, err := c.Keys(); err != nil || !slices.Equal(keys, []string{"keep"}) {
		t.Errorf("keys %q, %v", keys, err)
	}
	if err := c.Check("keep"); err != nil {
		t.Error(err)
	}
	// manifest, config and two layers
	if got := blobNames(t, c); len(got) != 4 {
		t.Errorf("blobs left: %q", got)
	}
	if err := c.Prune(nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Check("keep"); err != nil {
		t.Error("Prune(nil) dropped an image:", err)
	}
}

func TestOpenCacheRemovesLeftOvers(t *testing.T) {
	c := openTestCache(t)
	for _, name := range []string{filepath.Join(c.blobDir(), tempPrefix+"1"), filepath.Join(c.Dir(), tempPrefix+"2")} {
		if err := os.WriteFile(name, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenCache(c.Dir()); err != nil {
		t.Fatal(err)
	}
	assertNoTemp(t, c)
}

func TestCachePutRefusesWrongDigest(t *testing.T) {
	c := openTestCache(t)
	// The file changes between the making of the layer and the Put.
	content := "first"
	l, err := Layer([]File{{Path: "f", Size: 5, Open: func() (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	}}}, Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	img, err := New(v1.ConfigFile{}, l)
	if err != nil {
		t.Fatal(err)
	}
	content = "other"
	_, err = c.Put(t.Context(), "k", img)
	wantError(t, err, `"k"`, digestOf(t, l).String())
	assertEmpty(t, c)
}

// cancelling is a layer whose reading cancels the context half-way.
type cancelling struct {
	v1.Layer
	cancel func()
}

func (l cancelling) Compressed() (io.ReadCloser, error) {
	rc, err := l.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(rc, 100), readerFunc(func([]byte) (int, error) { l.cancel(); return 0, io.EOF }), rc), rc}, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestCachePutCancelled(t *testing.T) {
	c := openTestCache(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	l, err := Layer([]File{FileFromBytes("f", 0o644, noise(1<<20))}, Gzip)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(testImage(t, Gzip, "base"), cancelling{l, cancel})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Put(ctx, "k", img); !errors.Is(err, context.Canceled) {
		t.Errorf("Put: %v, want the context's error", err)
	}
	assertNoTemp(t, c)
	if _, ok, err := c.Get("k"); ok || err != nil {
		t.Errorf("Get after a cancelled Put: %v, %v", ok, err)
	}
	// The next run goes through.
	mustPut(t, c, "k", img)
}

func TestCacheLockHonoursContext(t *testing.T) {
	c := openTestCache(t)
	unlock, err := c.lock(t.Context(), blobLock, filelock.Exclusive)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Put(ctx, "k", testImage(t, Gzip, "x"))
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("Put under a foreign lock: %v", err)
	}
	wantError(t, err, blobLock)
}

// TestCacheDiskFull runs Put in a process whose files may not grow beyond 64 KiB:
// the same failing write as on a full disk, without root and without a mount.
func TestCacheDiskFull(t *testing.T) {
	c := openTestCache(t)
	small := mustPut(t, c, "small", testImage(t, Gzip, "small"))
	before := blobNames(t, c)
	out, err := child(t, "full-disk", c.Dir()).CombinedOutput()
	if err != nil {
		t.Fatalf("child: %v\n%s", err, out)
	}
	for _, want := range []string{`put image "big"`, c.Dir(), "no room", "free disk space"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the error does not say %q: %s", want, out)
		}
	}
	assertNoTemp(t, c)
	if keys, err := c.Keys(); err != nil || !slices.Equal(keys, []string{"small"}) {
		t.Errorf("keys %q, %v", keys, err)
	}
	if got, ok, err := c.Get("small"); err != nil || !ok || digestOf(t, got) != digestOf(t, small) {
		t.Errorf("the image from before: %v, %v", ok, err)
	}
	if err := c.Prune(nil); err != nil {
		t.Fatal(err)
	}
	if after := blobNames(t, c); !slices.Equal(before, after) {
		t.Errorf("blobs before %q, after %q", before, after)
	}
}

func childPutOnFullDisk(dir string) int {
	fail := func(err error) int { fmt.Println("child:", err); return 1 }
	c, err := OpenCache(dir)
	if err != nil {
		return fail(err)
	}
	// Without this the kernel kills the process instead of failing the write.
	signal.Ignore(unix.SIGXFSZ)
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}); err != nil {
		return fail(err)
	}
	l, err := Layer([]File{FileFromBytes("f", 0o644, noise(1<<20))}, Gzip)
	if err != nil {
		return fail(err)
	}
	img, err := New(v1.ConfigFile{}, l)
	if err != nil {
		return fail(err)
	}
	if _, err = c.Put(context.Background(), "big", img); err == nil {
		return fail(errors.New("a 1 MiB blob was written"))
	}
	fmt.Println(err)
	if _, ok, err := c.Get("big"); ok || err != nil {
		return fail(fmt.Errorf("Get: %v, %w", ok, err))
	}
	return 0
}

const putMany = 12

func childPutMany(dir string) int {
	c, err := OpenCache(dir)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	var g errgroup.Group
	for i := range putMany {
		g.Go(func() error {
			l, err := Layer([]File{FileFromBytes("f", 0o644, fmt.Appendf(nil, "child %d", i))}, Zstd)
			if err != nil {
				return err
			}
			img, err := New(v1.ConfigFile{}, l)
			if err != nil {
				return err
			}
			_, err = c.Put(context.Background(), fmt.Sprintf("child-%d", i), img)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func TestCacheTwoProcesses(t *testing.T) {
	c := openTestCache(t)
	cmd := child(t, "put-many", c.Dir())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for i := range putMany {
		g.Go(func() {
			if _, err := c.Put(t.Context(), fmt.Sprintf("parent-%d", i), testImage(t, Zstd, fmt.Sprint("parent ", i))); err != nil {
				t.Error(err)
			}
			if i%4 == 0 {
				if err := c.Prune(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	if err := cmd.Wait(); err != nil {
		t.Fatalf("child: %v\n%s", err, &out)
	}
	keys, err := c.Keys()
	if err != nil || len(keys) != 2*putMany {
		t.Fatalf("%d keys %q, %v; want %d", len(keys), keys, err, 2*putMany)
	}
	for _, k := range keys {
		if err := c.Check(k); err != nil {
			t.Error(err)
		}
	}
	assertNoTemp(t, c)
}

func TestCacheDamagedIndex(t *testing.T) {
	c := openTestCache(t)
	if err := os.WriteFile(filepath.Join(c.Dir(), "index.json"), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := c.Get("k")
	wantError(t, err, c.Dir(), "delete the folder")
	if errors.Is(err, ErrNotCached) {
		t.Error("an unreadable cache counts as absence")
	}
}

func blobNames(t *testing.T, c *Cache) []string {
	t.Helper()
	entries, err := os.ReadDir(c.blobDir())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func assertNoTemp(t *testing.T, c *Cache) {
	t.Helper()
	err := filepath.WalkDir(c.Dir(), func(p string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), tempPrefix) {
			t.Errorf("left over: %s", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func assertEmpty(t *testing.T, c *Cache) {
	t.Helper()
	if names := blobNames(t, c); len(names) != 0 {
		t.Errorf("blobs in the cache: %q", names)
	}
	if keys, err := c.Keys(); err != nil || len(keys) != 0 {
		t.Errorf("keys %q, %v", keys, err)
	}
}

// noise does not compress.
func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(b)
	return b
}

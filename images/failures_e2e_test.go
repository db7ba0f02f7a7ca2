//go:build e2e

package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Like those of containerd_e2e_test.go, these are the tests of load_e2e_test.go.

// pool is layers to make images of.
type pool struct {
	random *rand.Rand
	layers []v1.Layer
}

func newPool(t *testing.T, seed uint64, layers, size int) *pool {
	t.Helper()
	t.Logf("seed %d", seed)
	p := &pool{random: rand.New(rand.NewPCG(seed, 0))}
	for i := range layers {
		content := make([]byte, 1+p.random.IntN(size))
		for j := range content {
			content[j] = byte(p.random.Uint32())
		}
		l, err := Layer([]File{FileFromBytes(fmt.Sprintf("f%d", i), 0o644, content)}, compressions[p.random.IntN(len(compressions))])
		if err != nil {
			t.Fatal(err)
		}
		p.layers = append(p.layers, l)
	}
	return p
}

// image is of one to five layers in any order.
func (p *pool) image(t *testing.T) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for _, i := range p.random.Perm(len(p.layers))[:1+p.random.IntN(min(5, len(p.layers)))] {
		layers = append(layers, p.layers[i])
	}
	img, err := New(v1.ConfigFile{}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// namesOf are the images below example.org/ that the node lists.
func namesOf(t *testing.T, n Node) map[string]string {
	t.Helper()
	all, err := (ctr{namespace: "k8s.io"}).targets(context.WithoutCancel(t.Context()), n)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(all, func(name, _ string) bool { return !strings.HasPrefix(name, "example.org/") })
	return all
}

// LoadRandomly loads random images under random names into a node from which content
// and names go between the loads; some of the images are damaged. The node then lists
// exactly what was loaded, and that whole.
func LoadRandomly(t *testing.T, bin string) {
	node := startContainerd(t, bin)
	p := newPool(t, 99, 12, 200_000)
	want := map[string]string{} // name → digest
	refused, again := 0, 0
	for round := range 25 {
		var batch []NamedImage
		loaded := map[string]string{}
		for range 1 + p.random.IntN(3) {
			name := fmt.Sprintf("example.org/app%d:v1", p.random.IntN(6))
			img := p.image(t)
			if loaded[name] == "" {
				batch = append(batch, NamedImage{Ref: name, Image: img})
				loaded[name] = digestOf(t, img).String()
			}
		}
		damaged := p.random.IntN(4) == 0
		if damaged {
			_, _, layers := parts(t, batch[0].Image)
			batch[0].Image = damagedImage{batch[0].Image, layers[p.random.IntN(len(layers))], func(b []byte) []byte {
				b = slices.Clone(b)
				b[p.random.IntN(len(b))] ^= 0x55
				return b
			}}
		}
		_, err := Load(t.Context(), []Node{node}, batch, LoadConfig{ahead: int64(round % 2), OnEvent: func(e Event) {
			if e.Verb == "load again" {
				again++
			}
		}})
		switch {
		// A damaged layer that the node has already is not sent, and so not seen.
		case err != nil && (!damaged || !errors.Is(err, ErrCorrupt)):
			t.Fatalf("round %d: %v", round, err)
		case err != nil:
			refused++
		default:
			maps.Copy(want, loaded)
			states, err := (ctr{namespace: "k8s.io"}).check(t.Context(), node, filters(mustWanted(t, batch)))
			if err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
			for name := range loaded {
				if !states[name].usable() {
					t.Errorf("round %d: %s is %s", round, name, states[name].line)
				}
			}
		}
		if got := namesOf(t, node); !maps.Equal(got, want) {
			t.Fatalf("round %d: the node lists %v, want %v", round, got, want)
		}
		p.spoil(t, node, want)
	}
	wantNothingLoading(t, node)
	t.Logf("%d loads refused for damage, %d done again", refused, again)
	if refused == 0 {
		t.Error("no damaged layer was ever sent: the test shows less than it should")
	}
}

func mustWanted(t *testing.T, all []NamedImage) []wantedImage {
	t.Helper()
	w, err := wantedImages(all, false)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// spoil removes a name, with its content, or a blob behind containerd's back, or nothing.
func (p *pool) spoil(t *testing.T, node Node, want map[string]string) {
	t.Helper()
	c := ctr{namespace: "k8s.io"}
	switch p.random.IntN(3) {
	case 0:
		if len(want) == 0 {
			return
		}
		name := slices.Sorted(maps.Keys(want))[p.random.IntN(len(want))]
		if err := node.Exec(t.Context(), nil, nil, c.argv("images", "rm", "--sync", name)...); err != nil {
			t.Fatal(err)
		}
		delete(want, name)
	case 1:
		blobs, err := c.blobs(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		all := slices.DeleteFunc(slices.Sorted(maps.Keys(blobs)), func(d string) bool {
			return slices.Contains(slices.Collect(maps.Values(want)), d) // a node lists no image without its manifest
		})
		if len(all) == 0 {
			return
		}
		if err := node.Exec(t.Context(), nil, nil, c.argv("content", "rm", all[p.random.IntN(len(all))])...); err != nil {
			t.Fatal(err)
		}
	}
}

// breaking is a layer that does something when half of it is read.
type breaking struct {
	v1.Layer
	half func() error
}

func (b breaking) Compressed() (io.ReadCloser, error) {
	rc, err := b.Layer.Compressed()
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(rc)
	if err != nil {
		return nil, err
	}
	first, rest := bytes.NewReader(raw[:len(raw)/2]), bytes.NewReader(raw[len(raw)/2:])
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(first, then{b.half}, rest), rc}, nil
}

type then struct{ do func() error }

func (t then) Read([]byte) (int, error) {
	if err := t.do(); err != nil {
		return 0, err
	}
	return 0, io.EOF
}

func breakingImage(t *testing.T, p *pool, half func() error) v1.Image {
	t.Helper()
	img, err := New(v1.ConfigFile{}, p.layers[0], breaking{p.layers[1], half})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// LoadBreaksOff ends loads half-way: the source fails, the caller gives up, the node is
// killed. Each time the name means what it meant, and the next load is well.
func LoadBreaksOff(t *testing.T, bin string) {
	for _, ahead := range []int64{0, 1} {
		t.Run(fmt.Sprint("ahead ", ahead), func(t *testing.T) { loadBreaksOff(t, bin, ahead) })
	}
}

func loadBreaksOff(t *testing.T, bin string, ahead int64) {
	node := newContainerd(t, bin, 0)
	p := newPool(t, 4, 3, 2_000_000)
	old, err := New(v1.ConfigFile{}, p.layers[2])
	if err != nil {
		t.Fatal(err)
	}
	const name = "example.org/app:v1"
	load := func(ctx context.Context, img v1.Image) error {
		_, err := Load(ctx, []Node{node}, []NamedImage{{Ref: name, Image: img}}, LoadConfig{ahead: ahead})
		return err
	}
	if err := load(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	want := namesOf(t, node)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, tt := range []struct {
		what string
		ctx  context.Context
		half func() error
		err  string
	}{
		{"source", t.Context(), func() error { return errors.New("the disk cannot be read") }, "the disk cannot be read"},
		{"caller", ctx, func() error { cancel(); return nil }, "context canceled"},
		{"node", t.Context(), func() error { node.stop(syscall.SIGKILL); return nil }, "load images into node local"},
	} {
		if err := load(tt.ctx, breakingImage(t, p, tt.half)); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.what, err, tt.err)
		}
		if tt.what == "node" {
			node.start(t)
		}
		if got := namesOf(t, node); !maps.Equal(got, want) {
			t.Errorf("%s: the node lists %v, want %v", tt.what, got, want)
		}
		if err := load(t.Context(), old); err != nil {
			t.Errorf("%s: what it had: %v", tt.what, err)
		}
	}
	whole := breakingImage(t, p, func() error { return nil })
	if err := load(t.Context(), whole); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	wantNothingLoading(t, node)
	if got := namesOf(t, node)[name]; got != digestOf(t, whole).String() {
		t.Errorf("afterwards the name is %s, want %s", got, digestOf(t, whole))
	}
}

// LoadDiskFull loads what does not fit, be it that its content does not or that unpacked it
// does not.
func LoadDiskFull(t *testing.T, bin string) {
	for _, tt := range []struct {
		what  string
		megs  int
		ahead int64
	}{{"content", 40, 0}, {"content at once", 40, 1 << 30}, {"unpacked", 14, 1}, {"unpacked at once", 14, 1 << 30}} {
		t.Run(tt.what, func(t *testing.T) { loadDiskFull(t, bin, tt.megs, tt.ahead) })
	}
}

func loadDiskFull(t *testing.T, bin string, megs int, ahead int64) {
	node := newContainerd(t, bin, 24<<20)
	p := newPool(t, 7, 2, 1_000_000)
	small, err := New(v1.ConfigFile{}, p.layers[0])
	if err != nil {
		t.Fatal(err)
	}
	l, err := Layer([]File{FileFromBytes("large", 0o644, noise(megs<<20))}, Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	large, err := New(v1.ConfigFile{}, p.layers[0], l)
	if err != nil {
		t.Fatal(err)
	}
	load := func(img v1.Image) error {
		_, err := Load(t.Context(), []Node{node}, []NamedImage{{Ref: "example.org/app:v1", Image: img}}, LoadConfig{ahead: ahead})
		return err
	}
	if err := load(small); err != nil {
		t.Fatal(err)
	}
	want := namesOf(t, node)
	wantError(t, load(large), "no space left on device", "disk is full", "as they were", "load again")
	if got := namesOf(t, node); !maps.Equal(got, want) {
		t.Errorf("the node lists %v, want %v", got, want)
	}
	if got, err := Missing(t.Context(), []Node{node}, []NamedImage{{Ref: "example.org/app:v1", Image: small}}, LoadConfig{}); err != nil || len(got) != 0 {
		t.Errorf("what it had: %v, %v", got, err)
	}
	// The half that came is collected as garbage in a moment, and then what fits is loaded,
	// under the same name too.
	other, err := New(v1.ConfigFile{}, p.layers...)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(15 * time.Second); ; <-time.After(200 * time.Millisecond) {
		if err = load(other); err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		t.Errorf("what fits: %v", err)
	}
	wantNothingLoading(t, node)
}

// LoadTwiceAtOnce loads overlapping images into one node from two sides.
func LoadTwiceAtOnce(t *testing.T, bin string) {
	node := startContainerd(t, bin)
	p := newPool(t, 11, 6, 1_500_000)
	var sides [2][]NamedImage
	want := map[string]string{}
	for side := range sides {
		for i := range 4 {
			n := NamedImage{Ref: fmt.Sprintf("example.org/side%d/app%d:v1", side, i), Image: p.image(t)}
			sides[side] = append(sides[side], n)
			want[n.Ref] = digestOf(t, n.Image).String()
		}
		// And one that both load.
		both, err := New(v1.ConfigFile{}, p.layers...)
		if err != nil {
			t.Fatal(err)
		}
		sides[side] = append(sides[side], NamedImage{Ref: "example.org/both:v1", Image: both})
		want["example.org/both:v1"] = digestOf(t, both).String()
	}
	var all sync.WaitGroup
	var errs [2]error
	for side, batch := range sides {
		all.Go(func() { _, errs[side] = Load(t.Context(), []Node{node}, batch, LoadConfig{ahead: int64(side)}) })
	}
	all.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	if got := namesOf(t, node); !maps.Equal(got, want) {
		t.Errorf("the node lists %v, want %v", got, want)
	}
	for _, batch := range sides {
		if missing, err := Missing(t.Context(), []Node{node}, batch, LoadConfig{}); err != nil || len(missing) != 0 {
			t.Errorf("missing %v, %v", missing, err)
		}
	}
}

package images

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// fakeNode is a node whose ctr does what containerd 2's does with the commands that
// Load uses; loadConformance holds it to that.
type fakeNode struct {
	name string

	mu       sync.Mutex
	content  map[string][]byte // digest → blob
	images   map[string]string // name → manifest digest
	unpacked map[string]bool   // manifest digest
	argv     [][]string
	streams  [][]string // names in each tar that came

	afterList   func()       // runs once, after content was listed
	afterImport func()       // runs after each import
	failImport  func() error // runs instead of reading the tar
	failTag     func() error // runs instead of tagging
	failRemove  func() error // runs instead of removing
	noLocal     bool         // ctr is containerd 1's
	uname       string       // default: this machine's
	noCtr       bool
	containers  []string // the images of the node's containers
	failCrictl  error
}

func newFakeNode(name string) *fakeNode {
	return &fakeNode{name: name, content: map[string][]byte{}, images: map[string]string{}, unpacked: map[string]bool{}}
}

func (n *fakeNode) Name() string { return n.name }

func (n *fakeNode) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.argv = append(n.argv, argv)
	if n.noCtr {
		return errors.New("ctr: executable file not found in $PATH")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if stdout == nil {
		stdout = io.Discard
	}
	if slices.Equal(argv, []string{"uname", "-m"}) {
		fmt.Fprintln(stdout, n.machine())
		return nil
	}
	if slices.Equal(argv, []string{"crictl", "ps", "--all", "--output", "json"}) {
		fmt.Fprint(stdout, `{"containers": []}`)
		return n.failCrictl
	}
	if len(argv) < 5 || !slices.Equal(argv[:3], []string{"ctr", "--namespace", "k8s.io"}) {
		return fmt.Errorf("unknown command %q", argv)
	}
	switch args := argv[5:]; argv[3] + " " + argv[4] {
	case "content ls":
		if !slices.Equal(args, []string{"--quiet"}) {
			return fmt.Errorf("unknown arguments %q", argv)
		}
		for _, d := range slices.Sorted(maps.Keys(n.content)) {
			fmt.Fprintln(stdout, d)
		}
		if n.afterList != nil {
			n.afterList()
			n.afterList = nil
		}
		return nil
	case "images check":
		return n.check(stdout, args)
	case "images import":
		platform, ahead := "", ""
		if len(args) > 2 && slices.Equal(args[:2], []string{"--local", "--no-unpack"}) {
			if n.noLocal {
				return errors.New("ctr: flag provided but not defined: -local")
			}
			// --index-name NAME --label containerd.io/gc.expire=TIME -
			at := len(args) - 5
			if args[at] != "--index-name" || args[at+2] != "--label" || !strings.HasPrefix(args[at+3], "containerd.io/gc.expire=") {
				return fmt.Errorf("unknown arguments %q", argv)
			}
			ahead = args[at+1]
			args = append(slices.Clone(args[2:at]), args[at+4])
		}
		switch {
		case slices.Equal(args, []string{"--all-platforms", "-"}):
		case len(args) == 3 && args[0] == "--platform" && args[2] == "-":
			platform = args[1]
		default:
			return fmt.Errorf("unknown arguments %q", argv)
		}
		if n.failImport != nil {
			return n.failImport()
		}
		if err := n.load(stdin, platform, ahead); err != nil {
			return fmt.Errorf("ctr: %w", err)
		}
		if n.afterImport != nil {
			n.afterImport()
		}
		return nil
	case "images ls":
		fmt.Fprintln(stdout, "REF TYPE DIGEST SIZE PLATFORMS LABELS ")
		for name, digest := range n.images {
			fmt.Fprintln(stdout, name, types.OCIManifestSchema1, digest, "1.0 KiB linux/amd64 -")
		}
		return nil
	case "containers ls":
		fmt.Fprintln(stdout, "CONTAINER IMAGE RUNTIME")
		for _, image := range n.containers {
			fmt.Fprintln(stdout, "0123 ", image, "io.containerd.runc.v2")
		}
		return nil
	case "images tag":
		return n.tag(args)
	case "images rm":
		if n.failRemove != nil {
			return n.failRemove()
		}
		for _, name := range slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "--sync" }) {
			delete(n.images, name)
		}
		return nil
	}
	return fmt.Errorf("unknown command %q", argv)
}

func (n *fakeNode) check(stdout io.Writer, filters []string) error {
	var names []string
	for _, f := range filters {
		field, quoted, ok := strings.Cut(f, "==")
		value, err := strconv.Unquote(quoted)
		if !ok || err != nil || (field != "name" && field != "target.digest") {
			return fmt.Errorf("ctr: parse error: [%s]: invalid argument", f)
		}
		for name, digest := range n.images {
			if (field == "name" && name == value || field == "target.digest" && digest == value) && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	fmt.Fprintln(stdout, "REF TYPE DIGEST STATUS SIZE UNPACKED ")
	for _, name := range names {
		digest := n.images[name]
		blobs, err := n.children(digest)
		if err != nil {
			fmt.Fprintf(stdout, "%s %s %s unavailable (0/?) 0.0 B/? false\n", name, types.OCIManifestSchema1, digest)
			continue
		}
		present := 1
		for _, b := range blobs {
			if n.content[b] != nil {
				present++
			}
		}
		status := "complete"
		if present < len(blobs)+1 {
			status = "incomplete"
		}
		fmt.Fprintf(stdout, "%s  %s %s %s (%d/%d) 1.0 KiB/1.0 KiB %t\n", name, types.OCIManifestSchema1, digest, status, present, len(blobs)+1, n.unpacked[digest])
	}
	return nil
}

func (n *fakeNode) machine() string {
	if n.uname != "" {
		return n.uname
	}
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
}

// tag is ctr images tag.
func (n *fakeNode) tag(args []string) error {
	if n.failTag != nil {
		return n.failTag()
	}
	if len(args) < 3 || args[0] != "--force" {
		return fmt.Errorf("unknown arguments %q", args)
	}
	digest, ok := n.images[args[1]]
	if !ok {
		return fmt.Errorf("ctr: image %q: not found", args[1])
	}
	for _, name := range args[2:] {
		n.images[name] = digest
	}
	return nil
}

// children returns config and layers of a manifest in the store, and of an index that
// of the node's platform and its.
func (n *fakeNode) children(digest string) ([]string, error) {
	raw := n.content[digest]
	if raw == nil {
		return nil, fmt.Errorf("content digest %s: not found", digest)
	}
	if index, err := v1.ParseIndexManifest(bytes.NewReader(raw)); err == nil && len(index.Manifests) > 0 {
		p, err := parseMachine(n.machine())
		if err != nil {
			return nil, err
		}
		for _, d := range index.Manifests {
			if d.Platform.Equals(p) {
				blobs, err := n.children(d.Digest.String())
				return append([]string{d.Digest.String()}, blobs...), err
			}
		}
		return nil, errors.New("no match for platform in manifest: not found")
	}
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	blobs := []string{m.Config.Digest.String()}
	for _, l := range m.Layers {
		blobs = append(blobs, l.Digest.String())
	}
	return blobs, nil
}

// load is ctr images import, which names the images or, ahead of them, all that came.
func (n *fakeNode) load(stdin io.Reader, platform, ahead string) error {
	var names []string
	var layout, index []byte
	for r := tar.NewReader(stdin); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		names = append(names, h.Name)
		switch h.Name {
		case "oci-layout":
			layout = body
		case "index.json":
			index = body
		default:
			digest, _, err := v1.SHA256(bytes.NewReader(body))
			if err != nil {
				return err
			}
			// As containerd does, whatever the name says.
			n.content[digest.String()] = body
		}
	}
	n.streams = append(n.streams, names)
	if !bytes.Contains(layout, []byte(`"imageLayoutVersion":"1.0.0"`)) {
		return errors.New("unrecognized image format")
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		return err
	}
	for _, d := range m.Manifests {
		if d.MediaType.IsIndex() && platform == "" {
			return errors.New("content digest of another platform: not found")
		}
		blobs, err := n.children(d.Digest.String())
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if n.content[b] == nil && !n.unpacked[d.Digest.String()] {
				return fmt.Errorf("content digest %s: not found", b)
			}
		}
	}
	if ahead != "" {
		digest, _, err := v1.SHA256(bytes.NewReader(index))
		n.images[ahead], n.content[digest.String()] = digest.String(), index
		return err
	}
	for _, d := range m.Manifests {
		n.images[d.Annotations["io.containerd.image.name"]] = d.Digest.String()
		n.unpacked[d.Digest.String()] = true
	}
	return nil
}

// preload puts images on the node as an earlier load would have.
func (n *fakeNode) preload(t *testing.T, images ...NamedImage) *fakeNode {
	t.Helper()
	if _, err := Load(t.Context(), []Node{n}, images, LoadConfig{}); err != nil {
		t.Fatal(err)
	}
	n.argv, n.streams = nil, nil
	return n
}

func (n *fakeNode) commands() []string {
	var all []string
	for _, a := range n.argv {
		if a[0] != "ctr" {
			all = append(all, a[0])
			continue
		}
		all = append(all, a[3]+" "+a[4])
	}
	return all
}

func tarName(h v1.Hash) string { return "blobs/sha256/" + h.Hex }

// parts are the digests of manifest, config and layers.
func parts(t *testing.T, img v1.Image) (manifest, config v1.Hash, layers []v1.Hash) {
	t.Helper()
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range m.Layers {
		layers = append(layers, l.Digest)
	}
	return digestOf(t, img), m.Config.Digest, layers
}

func mustLoad(t *testing.T, nodes []Node, images ...NamedImage) LoadResult {
	t.Helper()
	got, err := Load(t.Context(), nodes, images, LoadConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestLoadIntoEmptyNodes(t *testing.T) {
	c := openTestCache(t)
	for _, comp := range compressions {
		img := mustPut(t, c, comp.String(), testImage(t, comp, "one", "two"))
		nodes := []Node{newFakeNode("a"), newFakeNode("b"), newFakeNode("c")}
		var events []Event
		got, err := Load(t.Context(), nodes, []NamedImage{{Ref: "team/app:v1", Image: img}}, LoadConfig{OnEvent: func(e Event) { events = append(events, e) }})
		if err != nil {
			t.Fatal(err)
		}
		manifest, config, layers := parts(t, img)
		want := []string{tarName(manifest), tarName(config), tarName(layers[0]), tarName(layers[1]), "oci-layout", "index.json"}
		for i, n := range nodes {
			n := n.(*fakeNode)
			if !slices.EqualFunc(n.streams, [][]string{want}, slices.Equal) {
				t.Errorf("%s was sent %q, want %q", n.name, n.streams, want)
			}
			if n.images["docker.io/team/app:v1"] != manifest.String() {
				t.Errorf("%s has images %q", n.name, n.images)
			}
			r := got.Nodes[i]
			var size int64
			for _, b := range n.content {
				size += int64(len(b))
			}
			if r.Node != n.name || r.BytesSent != size || r.BytesSkipped != 0 || r.Duration <= 0 {
				t.Errorf("result %+v, want %d bytes", r, size)
			}
			if diff := cmp.Diff([]ImageResult{{Ref: "team/app:v1", Name: "docker.io/team/app:v1", Digest: manifest, BytesSent: size}}, r.Images); diff != "" {
				t.Error(diff)
			}
		}
		if len(events) != 6 {
			t.Errorf("events %v, want two for each node", events)
		}
	}
}

func TestLoadAgainIsOneCommand(t *testing.T) {
	img := testImage(t, Zstd, "x")
	n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: img})
	got := mustLoad(t, []Node{n}, NamedImage{Ref: "app:v1", Image: img})
	if r := got.Nodes[0]; !r.Images[0].Already || r.BytesSent != 0 || r.BytesSkipped == 0 || r.Images[0].BytesSkipped != r.BytesSkipped {
		t.Errorf("result %+v", r)
	}
	if cmds := n.commands(); !slices.Equal(cmds, []string{"images check"}) {
		t.Errorf("commands %q", cmds)
	}
}

func TestLoadSendsMissingBlobsOnly(t *testing.T) {
	old := testImage(t, Zstd, "base", "old")
	changed, other := testImage(t, Zstd, "base", "new"), testImage(t, Zstd, "base", "new", "more")
	full := newFakeNode("has-old").preload(t, NamedImage{Ref: "app:v1", Image: old})
	bare := newFakeNode("bare")
	got := mustLoad(t, []Node{full, bare}, NamedImage{Ref: "app:v2", Image: changed}, NamedImage{Ref: "app:v1", Image: old}, NamedImage{Ref: "other:v1", Image: other}, NamedImage{Ref: "app:v2", Image: changed})

	m1, c1, l1 := parts(t, changed)
	m2, c2, l2 := parts(t, other)
	m0, c0, l0 := parts(t, old)
	want := []string{tarName(m1), tarName(c1), tarName(l1[1]), tarName(m2), tarName(c2), tarName(l2[2]), "oci-layout", "index.json"}
	if !slices.EqualFunc(full.streams, [][]string{want}, slices.Equal) {
		t.Errorf("sent %q, want %q", full.streams, want)
	}
	want = []string{tarName(m1), tarName(c1), tarName(l1[0]), tarName(l1[1]), tarName(m0), tarName(c0), tarName(l0[1]), tarName(m2), tarName(c2), tarName(l2[2]), "oci-layout", "index.json"}
	if !slices.EqualFunc(bare.streams, [][]string{want}, slices.Equal) {
		t.Errorf("sent %q, want %q", bare.streams, want)
	}
	for i, already := range []bool{false, true, false} {
		if r := got.Nodes[0].Images[i]; r.Already != already {
			t.Errorf("%+v, want already %v", r, already)
		}
	}
	if !maps.Equal(full.images, bare.images) || len(full.images) != 3 {
		t.Errorf("images %q and %q", full.images, bare.images)
	}
}

func TestLoadTagsWhatIsThere(t *testing.T) {
	img := testImage(t, Zstd, "x")
	manifest, _, _ := parts(t, img)
	for what, before := range map[string]NamedImage{
		"new name":   {Ref: "app:v1", Image: img},
		"moved name": {Ref: "app:v2", Image: testImage(t, Zstd, "x", "y")},
	} {
		n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: img}, before)
		got := mustLoad(t, []Node{n}, NamedImage{Ref: "app:v2", Image: img}).Nodes[0].Images[0]
		if want := []string{"images check", "images tag", "images check"}; !slices.Equal(n.commands(), want) || !got.Tagged || got.Digest != manifest {
			t.Errorf("%s: commands %q, want %q; %+v", what, n.commands(), want, got)
		}
		if n.images["docker.io/library/app:v2"] != manifest.String() {
			t.Errorf("%s: images %q", what, n.images)
		}
	}
	// The other name is gone when it is to be taken: the image is sent.
	n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: img})
	n.failTag = func() error { return errors.New("ctr: image: not found") }
	if got := mustLoad(t, []Node{n}, NamedImage{Ref: "app:v2", Image: img}).Nodes[0].Images[0]; got.Tagged || got.BytesSent == 0 || len(n.streams) != 1 {
		t.Errorf("tag fails: %+v, streams %q", got, n.streams)
	}
	// There, but not unpacked.
	n = newFakeNode("a").preload(t, NamedImage{Ref: "app:v2", Image: img})
	clear(n.unpacked)
	if got := mustLoad(t, []Node{n}, NamedImage{Ref: "app:v2", Image: img}); got.Nodes[0].Images[0].Already || len(n.unpacked) != 1 {
		t.Errorf("not unpacked: %+v", got)
	}
}

func TestLoadAfterGarbageCollection(t *testing.T) {
	img := testImage(t, Zstd, "base", "top")
	manifest, _, layers := parts(t, img)
	t.Run("between list and import", func(t *testing.T) {
		n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: testImage(t, Zstd, "base")})
		n.afterList = func() { delete(n.content, layers[0].String()) }
		got := mustLoad(t, []Node{n}, NamedImage{Ref: "app:v2", Image: img})
		if len(n.streams) != 2 || !slices.Contains(n.streams[1], tarName(layers[0])) || n.images["docker.io/library/app:v2"] != manifest.String() {
			t.Errorf("streams %q, images %q", n.streams, n.images)
		}
		if got.Nodes[0].BytesSkipped != 0 {
			t.Errorf("result %+v", got.Nodes[0])
		}
	})
	t.Run("after import", func(t *testing.T) {
		n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: testImage(t, Zstd, "base")})
		n.afterImport = func() {
			if len(n.streams) == 1 {
				delete(n.content, layers[0].String())
			}
		}
		mustLoad(t, []Node{n}, NamedImage{Ref: "app:v2", Image: img})
		if len(n.streams) != 2 {
			t.Errorf("streams %q", n.streams)
		}
	})
	t.Run("long before", func(t *testing.T) {
		n := newFakeNode("a").preload(t, NamedImage{Ref: "app:v1", Image: img})
		delete(n.content, layers[1].String())
		mustLoad(t, []Node{n}, NamedImage{Ref: "app:v1", Image: img})
		if want := []string{tarName(manifest), tarName(layers[1]), "oci-layout", "index.json"}; !slices.EqualFunc(n.streams, [][]string{want}, slices.Equal) {
			t.Errorf("sent %q, want %q", n.streams, want)
		}
	})
}

func TestLoadFailures(t *testing.T) {
	img := testImage(t, Gzip, "x")
	manifest, _, layers := parts(t, img)
	for what, tt := range map[string]struct {
		sabotage func(*fakeNode)
		want     []string
	}{
		"no ctr":         {func(n *fakeNode) { n.noCtr = true }, []string{"list the blobs", "must run containerd", "not found in $PATH"}},
		"import fails":   {func(n *fakeNode) { n.failImport = func() error { return errors.New("no space left on device") } }, []string{"import the images", "no space left"}},
		"nothing listed": {func(n *fakeNode) { n.afterImport = func() { clear(n.images) } }, []string{"does not list image docker.io/library/app:v1"}},
		"other digest": {func(n *fakeNode) {
			n.afterImport = func() { n.images["docker.io/library/app:v1"] = "sha256:0" }
		}, []string{"has digest sha256:0 on the node", manifest.String()}},
		"content lost": {func(n *fakeNode) { n.afterImport = func() { delete(n.content, layers[0].String()) } }, []string{"not whole on the node", "incomplete (2/3)"}},
	} {
		t.Run(what, func(t *testing.T) {
			bad, good := newFakeNode("bad"), newFakeNode("good")
			tt.sabotage(bad)
			got, err := Load(t.Context(), []Node{bad, good}, []NamedImage{{Ref: "app:v1", Image: img}}, LoadConfig{})
			wantError(t, err, append(tt.want, "into node bad")...)
			if strings.Contains(err.Error(), "node good") || good.images["docker.io/library/app:v1"] != manifest.String() {
				t.Errorf("the good node: %v, images %q", err, good.images)
			}
			if got.Nodes[0].Images != nil || len(got.Nodes[1].Images) != 1 {
				t.Errorf("result %+v", got)
			}
			if len(bad.streams) > 1 {
				t.Error("sent everything twice")
			}
		})
	}
}

func TestLoadSourceFails(t *testing.T) {
	c := openTestCache(t)
	img := mustPut(t, c, "k", testImage(t, Gzip, "x"))
	_, _, layers := parts(t, img)
	if err := c.Prune(func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	n := newFakeNode("a")
	_, err := Load(t.Context(), []Node{n}, []NamedImage{{Ref: "app:v1", Image: img}}, LoadConfig{})
	wantError(t, err, "into node a", "send blob "+layers[0].String())
	if len(n.images) != 0 {
		t.Errorf("images %q", n.images)
	}
}

func TestLoadRefusesInput(t *testing.T) {
	img := testImage(t, Gzip, "x")
	n := []Node{newFakeNode("a")}
	for want, call := range map[string]func() (LoadResult, error){
		"no nodes": func() (LoadResult, error) {
			return Load(t.Context(), nil, []NamedImage{{Ref: "app:v1", Image: img}}, LoadConfig{})
		},
		"latest": func() (LoadResult, error) {
			return Load(t.Context(), n, []NamedImage{{Ref: "app", Image: img}}, LoadConfig{})
		},
		"given twice": func() (LoadResult, error) {
			return Load(t.Context(), n, []NamedImage{{Ref: "app:v1", Image: img}, {Ref: "docker.io/library/app:v1", Image: testImage(t, Gzip, "y")}}, LoadConfig{})
		},
		"Image is nil": func() (LoadResult, error) { return Load(t.Context(), n, []NamedImage{{Ref: "app:v1"}}, LoadConfig{}) },
	} {
		_, err := call()
		wantError(t, err, want)
	}
	if got, err := Load(t.Context(), n, nil, LoadConfig{}); err != nil || len(got.Nodes) != 1 {
		t.Errorf("no images: %+v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Load(ctx, n, []NamedImage{{Ref: "app:v1", Image: img}}, LoadConfig{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A load that is cancelled while it sends ends, with the context's error, and
// leaves no goroutine writing into a pipe that nobody reads.
func TestLoadCancelledHalfWay(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Layer([]File{FileFromBytes("f", 0o644, noise(1<<20))}, Gzip)
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(testImage(t, Gzip, "base"), cancelling{l, cancel})
	if err != nil {
		t.Fatal(err)
	}
	n := newFakeNode("a")
	if _, err = Load(ctx, []Node{n}, []NamedImage{{Ref: "app:v1", Image: img}}, LoadConfig{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(n.images) != 0 {
		t.Errorf("images %q", n.images)
	}
}

func TestNodeName(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for ref, want := range map[string]string{
		"alpine:3":                        "docker.io/library/alpine:3",
		"kindest/node:v1.37.2":            "docker.io/kindest/node:v1.37.2",
		"docker.io/kindest/node:v1":       "docker.io/kindest/node:v1",
		"index.docker.io/library/x:1":     "docker.io/library/x:1",
		"quay.io/cilium/cilium:v1.20.2":   "quay.io/cilium/cilium:v1.20.2",
		"localhost:5000/a:1":              "localhost:5000/a:1",
		"quay.io/a/b:1" + digest:          "quay.io/a/b" + digest,
		"app" + digest:                    "docker.io/library/app" + digest,
		"registry.k8s.io/pause:3.10":      "registry.k8s.io/pause:3.10",
		"example.org/a/b/c:" + "abc-12de": "example.org/a/b/c:abc-12de",
	} {
		if got, err := nodeName(ref, false); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", ref, got, err, want)
		}
	}
}

func TestParseCheck(t *testing.T) {
	// As printed by ctr of containerd v2.
	got := parseCheck(`REF                        TYPE                                       DIGEST     STATUS         SIZE              UNPACKED
docker.io/library/a:1      application/vnd.oci.image.manifest.v1+json sha256:aaa complete (3/3) 1.2 MiB/1.2 MiB   true
registry.k8s.io/pause:3.10 application/vnd.oci.image.manifest.v1+json sha256:bbb incomplete (2/3) 1.0 KiB/1.2 MiB false
example.org/b:1            application/vnd.oci.image.manifest.v1+json sha256:ccc unavailable (0/?) 0.0 B/? false
example.org/c:1            application/vnd.oci.image.manifest.v1+json sha256:ddd error - false
`)
	for name, want := range map[string]imageState{
		"docker.io/library/a:1":      {digest: "sha256:aaa", complete: true, unpacked: true},
		"registry.k8s.io/pause:3.10": {digest: "sha256:bbb"},
		"example.org/b:1":            {digest: "sha256:ccc"},
		"example.org/c:1":            {digest: "sha256:ddd"},
	} {
		s := got[name]
		s.line = ""
		if s != want {
			t.Errorf("%s: %+v, want %+v", name, s, want)
		}
	}
	if len(got) != 4 || len(parseCheck("")) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestCtrArgv(t *testing.T) {
	c := ctr{"ns", "native"}
	if diff := cmp.Diff([]string{"ctr", "--namespace", "ns", "images", "import", "--all-platforms", "--snapshotter", "native", "--local", "-"}, c.importArgv("")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ctr", "--namespace", "ns", "images", "import", "--platform", "linux/arm/v7", "-"}, ctr{namespace: "ns"}.importArgv("linux/arm/v7")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ctr", "--namespace", "ns", "images", "check", "--snapshotter", "native", `name=="a"`, `target.digest=="b"`}, c.checkArgv([]string{nameIs("a"), targetIs("b")})); diff != "" {
		t.Error(diff)
	}
}

func TestStreamIndexNamesImages(t *testing.T) {
	img := testImage(t, Gzip, "x")
	digest := digestOf(t, img)
	wanted, err := wantedImages([]NamedImage{{Ref: "app:v1", Image: img}, {Ref: "quay.io/a/b@" + digest.String(), Image: img}}, false)
	if err != nil {
		t.Fatal(err)
	}
	s := planStream(wanted, nil)
	raw, err := json.Marshal(s.index)
	if err != nil {
		t.Fatal(err)
	}
	m, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	want := []map[string]string{
		{"io.containerd.image.name": "docker.io/library/app:v1", "org.opencontainers.image.ref.name": "v1"},
		{"io.containerd.image.name": "quay.io/a/b@" + digest.String(), "org.opencontainers.image.ref.name": digest.String()},
	}
	for i, d := range m.Manifests {
		if diff := cmp.Diff(want[i], d.Annotations); diff != "" || d.Digest != digest || d.MediaType != types.OCIManifestSchema1 {
			t.Errorf("%+v: %s", d, diff)
		}
	}
	if len(s.blobs) != 3 || s.images[1].sent != 0 || s.images[0].sent != s.sent {
		t.Errorf("plan %+v", s)
	}
}

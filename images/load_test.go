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
	noCtr       bool
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
		if !slices.Equal(args, []string{"--all-platforms", "-"}) {
			return fmt.Errorf("unknown arguments %q", argv)
		}
		if n.failImport != nil {
			return n.failImport()
		}
		if err := n.load(stdin); err != nil {
			return fmt.Errorf("ctr: %w", err)
		}
		if n.afterImport != nil {
			n.afterImport()
		}
		return nil
	}
	return fmt.Errorf("unknown command %q", argv)
}

func (n *fakeNode) check(stdout io.Writer, filters []string) error {
	var names []string
	for _, f := range filters {
		quoted, ok := strings.CutPrefix(f, "name==")
		name, err := strconv.Unquote(quoted)
		if !ok || err != nil {
			return fmt.Errorf("ctr: parse error: [%s]: invalid argument", f)
		}
		if _, ok := n.images[name]; ok {
			names = append(names, name)
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

// children returns config and layers of a manifest in the store.
func (n *fakeNode) children(digest string) ([]string, error) {
	raw := n.content[digest]
	if raw == nil {
		return nil, fmt.Errorf("content digest %s: not found", digest)
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

// load is ctr images import.
func (n *fakeNode) load(stdin io.Reader) error {
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
			// containerd would store it under whatever digest it has.
			if want := "blobs/sha256/" + digest.Hex; h.Name != want {
				return fmt.Errorf("%s holds the content of %s", h.Name, want)
			}
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
		got, err := Load(t.Context(), nodes, []NamedImage{{"team/app:v1", img}}, LoadConfig{OnEvent: func(e Event) { events = append(events, e) }})
		if err != nil {
			t.Fatal(err)
		}
		manifest, config, layers := parts(t, img)
		want := []string{"oci-layout", "index.json", tarName(manifest), tarName(config), tarName(layers[0]), tarName(layers[1])}
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
	n := newFakeNode("a").preload(t, NamedImage{"app:v1", img})
	got := mustLoad(t, []Node{n}, NamedImage{"app:v1", img})
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
	full := newFakeNode("has-old").preload(t, NamedImage{"app:v1", old})
	bare := newFakeNode("bare")
	got := mustLoad(t, []Node{full, bare}, NamedImage{"app:v2", changed}, NamedImage{"app:v1", old}, NamedImage{"other:v1", other}, NamedImage{"app:v2", changed})

	m1, c1, l1 := parts(t, changed)
	m2, c2, l2 := parts(t, other)
	m0, c0, l0 := parts(t, old)
	want := []string{"oci-layout", "index.json", tarName(m1), tarName(c1), tarName(l1[1]), tarName(m2), tarName(c2), tarName(l2[2])}
	if !slices.EqualFunc(full.streams, [][]string{want}, slices.Equal) {
		t.Errorf("sent %q, want %q", full.streams, want)
	}
	want = []string{"oci-layout", "index.json", tarName(m1), tarName(c1), tarName(l1[0]), tarName(l1[1]), tarName(m0), tarName(c0), tarName(l0[1]), tarName(m2), tarName(c2), tarName(l2[2])}
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
		"new name":   {"app:v1", img},
		"moved name": {"app:v2", testImage(t, Zstd, "x", "y")},
	} {
		n := newFakeNode("a").preload(t, NamedImage{"app:v1", img}, before)
		mustLoad(t, []Node{n}, NamedImage{"app:v2", img})
		if want := []string{"oci-layout", "index.json", tarName(manifest)}; !slices.EqualFunc(n.streams, [][]string{want}, slices.Equal) {
			t.Errorf("%s: sent %q, want %q", what, n.streams, want)
		}
		if n.images["docker.io/library/app:v2"] != manifest.String() {
			t.Errorf("%s: images %q", what, n.images)
		}
	}
	// There, but not unpacked.
	n := newFakeNode("a").preload(t, NamedImage{"app:v2", img})
	clear(n.unpacked)
	if got := mustLoad(t, []Node{n}, NamedImage{"app:v2", img}); got.Nodes[0].Images[0].Already || len(n.unpacked) != 1 {
		t.Errorf("not unpacked: %+v", got)
	}
}

func TestLoadAfterGarbageCollection(t *testing.T) {
	img := testImage(t, Zstd, "base", "top")
	manifest, _, layers := parts(t, img)
	t.Run("between list and import", func(t *testing.T) {
		n := newFakeNode("a").preload(t, NamedImage{"app:v1", testImage(t, Zstd, "base")})
		n.afterList = func() { delete(n.content, layers[0].String()) }
		got := mustLoad(t, []Node{n}, NamedImage{"app:v2", img})
		if len(n.streams) != 2 || !slices.Contains(n.streams[1], tarName(layers[0])) || n.images["docker.io/library/app:v2"] != manifest.String() {
			t.Errorf("streams %q, images %q", n.streams, n.images)
		}
		if got.Nodes[0].BytesSkipped != 0 {
			t.Errorf("result %+v", got.Nodes[0])
		}
	})
	t.Run("after import", func(t *testing.T) {
		n := newFakeNode("a").preload(t, NamedImage{"app:v1", testImage(t, Zstd, "base")})
		n.afterImport = func() {
			if len(n.streams) == 1 {
				delete(n.content, layers[0].String())
			}
		}
		mustLoad(t, []Node{n}, NamedImage{"app:v2", img})
		if len(n.streams) != 2 {
			t.Errorf("streams %q", n.streams)
		}
	})
	t.Run("long before", func(t *testing.T) {
		n := newFakeNode("a").preload(t, NamedImage{"app:v1", img})
		delete(n.content, layers[1].String())
		mustLoad(t, []Node{n}, NamedImage{"app:v1", img})
		if want := []string{"oci-layout", "index.json", tarName(manifest), tarName(layers[1])}; !slices.EqualFunc(n.streams, [][]string{want}, slices.Equal) {
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
			got, err := Load(t.Context(), []Node{bad, good}, []NamedImage{{"app:v1", img}}, LoadConfig{})
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
	_, err := Load(t.Context(), []Node{n}, []NamedImage{{"app:v1", img}}, LoadConfig{})
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
			return Load(t.Context(), nil, []NamedImage{{"app:v1", img}}, LoadConfig{})
		},
		"latest": func() (LoadResult, error) {
			return Load(t.Context(), n, []NamedImage{{"app", img}}, LoadConfig{})
		},
		"given twice": func() (LoadResult, error) {
			return Load(t.Context(), n, []NamedImage{{"app:v1", img}, {"docker.io/library/app:v1", testImage(t, Gzip, "y")}}, LoadConfig{})
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
	if _, err := Load(ctx, n, []NamedImage{{"app:v1", img}}, LoadConfig{}); !errors.Is(err, context.Canceled) {
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
	if _, err = Load(ctx, []Node{n}, []NamedImage{{"app:v1", img}}, LoadConfig{}); !errors.Is(err, context.Canceled) {
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
		if got, err := nodeName(ref); err != nil || got != want {
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
	if diff := cmp.Diff([]string{"ctr", "--namespace", "ns", "images", "import", "--all-platforms", "--snapshotter", "native", "--local", "-"}, c.importArgv()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"ctr", "--namespace", "ns", "images", "check", "--snapshotter", "native", `name=="a"`, `name=="b"`}, c.checkArgv([]wantedImage{{name: "a"}, {name: "b"}})); diff != "" {
		t.Error(diff)
	}
}

func TestStreamIndexNamesImages(t *testing.T) {
	img := testImage(t, Gzip, "x")
	digest := digestOf(t, img)
	wanted, err := wantedImages([]NamedImage{{"app:v1", img}, {"quay.io/a/b@" + digest.String(), img}})
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

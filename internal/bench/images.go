package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	kokind "github.com/google/ko/pkg/publish/kind"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
)

// repository is below which all images lie that are loaded here.
const repository = "zerotrust.local/load-bench"

// job is what is brought to nodes: images that are in the cache, in the engine and in an
// archive, under the same names.
type job struct {
	refs    []string
	images  []images.NamedImage
	archive string
}

// way is one way to bring it there.
type way struct {
	name  string
	limit bool
	// whole: it knows all nodes of the cluster or none.
	whole bool
	run   func(ctx context.Context, j job, nodes []*kindx.Node) error
}

// imagesBench is a run.
type imagesBench struct {
	config
	sizes      []int // how many nodes are loaded into
	megabytes  int   // of the image, unpacked
	dir        string
	cache      *images.Cache
	kind, load string // programs
	nodes      []*kindx.Node
	table      Table
	seed       uint64
	// names and blobs are what each node had at first.
	names, blobs map[string][]string
}

// cluster is the one whose nodes are loaded into.
const cluster = "bench-images"

// loaded measures how long images take into the nodes of a kind cluster, by this module and by
// other ways, on the same nodes. It needs a container engine.
func loaded(ctx context.Context, c config) ([]Table, error) {
	b := &imagesBench{config: c, sizes: []int{1, 3, 5}, megabytes: 378, names: map[string][]string{}, blobs: map[string][]string{}}
	if c.short {
		b.sizes, b.megabytes = []int{1}, 24
	}
	b.table = Table{
		SizeName: "nodes",
		Notes: []string{
			"Times are those of a process from start to end, but for images.Load and ko, which are called. Archives are written beforehand and not counted.",
			"ko's publisher loads into all nodes of a cluster, so it is measured with the most nodes alone.",
		},
	}
	err := b.measure(ctx)
	return b.parts(), err
}

// parts are the tables that what was measured is told in.
func (b *imagesBench) parts() []Table {
	var parts []Table
	for _, p := range []struct {
		name, title string
		what        []string
	}{
		{"images-cold", fmt.Sprintf("An image of %d MB into nodes that have nothing of it", b.megabytes), []string{"cold"}},
		{"images-again", fmt.Sprintf("An image of %d MB into nodes that have it (present), under another name (retag), or but for 5 MB (changed)", b.megabytes), []string{"changed", "present", "retag"}},
		{"images-ten", fmt.Sprintf("Ten images with %d MB in common into nodes that have nothing of them", b.megabytes/6), []string{"ten"}},
	} {
		t := b.table
		t.Name, t.Title, t.Rows = p.name, p.title, nil
		for _, r := range b.table.Rows {
			if slices.Contains(p.what, r.What) {
				t.Rows = append(t.Rows, r)
			}
		}
		if len(t.Rows) > 0 {
			parts = append(parts, t)
		}
	}
	return parts
}

func (b *imagesBench) measure(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "load-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	if b.cache, err = images.OpenCache(filepath.Join(b.dir, "cache")); err != nil {
		return err
	}
	if err := b.programs(ctx); err != nil {
		return err
	}
	nodes, remove, err := newCluster(ctx, b.config, cluster, slices.Max(b.sizes)-1, b.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	b.nodes = nodes
	if err := b.wipe(ctx); err != nil { // nothing yet: it takes note of what there is
		return err
	}
	for _, what := range []struct {
		name string
		run  func(context.Context, int) error
	}{{"cold", b.cold}, {"changed", b.changed}, {"ten", b.ten}} {
		if b.short && what.name == "ten" {
			continue
		}
		for _, n := range b.sizes {
			b.log("%s, %d nodes", what.name, n)
			if err := what.run(ctx, n); err != nil {
				return fmt.Errorf("%s, %d nodes: %w", what.name, n, err)
			}
		}
	}
	return nil
}

// programs builds kind's and ours, of the versions that go.mod names.
func (b *imagesBench) programs(ctx context.Context) error {
	b.kind, b.load = filepath.Join(b.dir, "kind"), filepath.Join(b.dir, "load")
	for out, pkg := range map[string]string{b.kind: "sigs.k8s.io/kind", b.load: "github.com/org/spire-vault-99-action/examples/load"} {
		if err := command(ctx, "go", "build", "-o", out, pkg); err != nil {
			return fmt.Errorf("%w; run it in its own folder, as go -C internal/bench run .", err)
		}
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.Contains([]string{"sigs.k8s.io/kind", "github.com/google/ko"}, m.Path) {
				b.table.Versions = append(b.table.Versions, filepath.Base(m.Path)+" "+m.Version)
			}
		}
	}
	return nil
}

func (b *imagesBench) ways() []way {
	flags := func(nodes []*kindx.Node) []string {
		var names []string
		for _, n := range nodes {
			names = append(names, n.Name())
		}
		return []string{"--name", cluster, "--nodes", strings.Join(names, ",")}
	}
	process := func(program string, what string, of func(j job) []string) func(context.Context, job, []*kindx.Node) error {
		return func(ctx context.Context, j job, nodes []*kindx.Node) error {
			return command(ctx, slices.Concat([]string{program, "load"}[:map[bool]int{true: 1, false: 2}[program == b.load]], []string{what}, of(j), flags(nodes))...)
		}
	}
	refs := func(j job) []string { return j.refs }
	archive := func(j job) []string { return []string{j.archive} }
	return []way{
		{name: "images.Load", limit: true, run: func(ctx context.Context, j job, nodes []*kindx.Node) error {
			var all []images.Node
			for _, n := range nodes {
				all = append(all, n)
			}
			_, err := images.Load(ctx, all, j.images, images.LoadConfig{})
			return err
		}},
		{name: "examples/load docker-image", run: process(b.load, "docker-image", refs)},
		{name: "kind load docker-image", run: process(b.kind, "docker-image", refs)},
		{name: "examples/load image-archive", run: process(b.load, "image-archive", archive)},
		{name: "kind load image-archive", run: process(b.kind, "image-archive", archive)},
		{name: "ko's kind publisher", whole: true, run: func(ctx context.Context, j job, _ []*kindx.Node) error {
			if err := os.Setenv("KIND_CLUSTER_NAME", cluster); err != nil {
				return err
			}
			for _, n := range j.images {
				tag, err := name.NewTag(n.Ref)
				if err != nil {
					return err
				}
				if err := kokind.Write(ctx, tag, n.Image); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

// job prepares images under fresh names.
func (b *imagesBench) job(ctx context.Context, tag string, all ...v1.Image) (job, error) {
	var j job
	for i, img := range all {
		ref := fmt.Sprintf("%s/app%d:%s", repository, i, tag)
		img, err := b.cache.Put(ctx, ref, img)
		if err != nil {
			return j, err
		}
		n := images.NamedImage{Ref: ref, Image: img}
		if err := images.LoadEngine(ctx, n, images.LoadConfig{}); err != nil {
			return j, err
		}
		j.refs, j.images = append(j.refs, ref), append(j.images, n)
	}
	j.archive = filepath.Join(b.dir, tag+".tar")
	return j, command(ctx, slices.Concat([]string{"docker", "save", "--output", j.archive}, j.refs)...)
}

// forget removes what a job left on this machine.
func (b *imagesBench) forget(ctx context.Context, j job) error {
	return errors.Join(os.RemoveAll(j.archive), command(ctx, slices.Concat([]string{"docker", "image", "rm", "--force"}, j.refs)...))
}

// one measures a way, and looks at what became of it on every node.
func (b *imagesBench) one(ctx context.Context, what string, nodes []*kindx.Node, w way, j job) error {
	// What was prepared, or came before, is to be on disk: nobody pays for another's writes.
	syscall.Sync()
	began := time.Now()
	if err := w.run(ctx, j, nodes); err != nil {
		return fmt.Errorf("%s: %w", w.name, err)
	}
	row := Row{What: what, Size: len(nodes), Way: w.name, Limit: w.limit, Seconds: time.Since(began).Seconds()}
	b.log("  %-28s %-8s %6.2f s", w.name, what, row.Seconds)
	row.Wrong = b.wrong(ctx, nodes, j)
	for i, r := range b.table.Rows {
		if r.What == row.What && r.Size == row.Size && r.Way == row.Way {
			row.Seconds = min(r.Seconds, row.Seconds)
			b.table.Rows[i] = row
			return nil
		}
	}
	b.table.Rows = append(b.table.Rows, row)
	return nil
}

// wrong is what a node's runtime has in the images' place, or "".
func (b *imagesBench) wrong(ctx context.Context, nodes []*kindx.Node, j job) string {
	for _, n := range nodes {
		for _, img := range j.images {
			want, err := img.Image.ConfigName()
			if err != nil {
				return err.Error()
			}
			var last string
			// The runtime hears of it a moment later.
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
				var out bytes.Buffer
				err := n.Exec(ctx, nil, &out, "crictl", "inspecti", "--output", "go-template", "--template", "{{.status.id}}", img.Ref)
				if last = strings.TrimSpace(out.String()); err == nil && last == want.String() {
					break
				}
				if time.Now().After(end) || ctx.Err() != nil {
					return fmt.Sprintf("node %s has %q as %s, want %s", n.Name(), last, img.Ref, want)
				}
			}
		}
	}
	return ""
}

// wipe takes from the nodes all images, and their content, that they did not have at first:
// the ways leave names of their own besides, and the nodes' runtime others.
func (b *imagesBench) wipe(ctx context.Context) error {
	for _, n := range b.nodes {
		var out bytes.Buffer
		if err := n.Exec(ctx, nil, &out, "ctr", "--namespace", "k8s.io", "images", "ls", "--quiet"); err != nil {
			return err
		}
		names := strings.Fields(out.String())
		if b.names[n.Name()] == nil {
			b.names[n.Name()] = names
		}
		left := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return slices.Contains(b.names[n.Name()], name) })
		if len(left) > 0 {
			// A removal that waits for the garbage to go.
			if err := n.Exec(ctx, nil, nil, append([]string{"ctr", "--namespace", "k8s.io", "images", "rm", "--sync"}, left...)...); err != nil {
				return err
			}
		}
		if err := b.clean(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// clean waits until the node has no more blobs than before the first measurement.
func (b *imagesBench) clean(ctx context.Context, n *kindx.Node) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		have, err := content(ctx, n)
		if err != nil {
			return err
		}
		if b.blobs[n.Name()] == nil {
			b.blobs[n.Name()] = have
		}
		left := slices.DeleteFunc(slices.Clone(have), func(blob string) bool { return slices.Contains(b.blobs[n.Name()], blob) })
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("node %s still has %s, and so would not be loaded cold", n.Name(), strings.Join(left, " "))
		}
	}
}

func content(ctx context.Context, n *kindx.Node) ([]string, error) {
	var out bytes.Buffer
	err := n.Exec(ctx, nil, &out, "ctr", "--namespace", "k8s.io", "content", "ls", "--quiet")
	return strings.Fields(out.String()), err
}

func (b *imagesBench) next() uint64 { b.seed += 100; return b.seed }

func (b *imagesBench) at(size int, w way) ([]*kindx.Node, bool) {
	return b.nodes[:size], !w.whole || size == len(b.nodes)
}

// cold loads an image of which the nodes have nothing.
func (b *imagesBench) cold(ctx context.Context, size int) error {
	img, err := base(1, b.megabytes)
	if err != nil {
		return err
	}
	j, err := b.job(ctx, fmt.Sprintf("cold%d", size), img)
	if err != nil {
		return err
	}
	return b.coldly(ctx, "cold", size, j)
}

// coldly has each way load the job into nodes that have nothing of it.
func (b *imagesBench) coldly(ctx context.Context, what string, size int, j job) error {
	for range b.repeat {
		for _, w := range b.ways() {
			nodes, ok := b.at(size, w)
			if !ok {
				continue
			}
			if err := b.wipe(ctx); err != nil {
				return err
			}
			if err := b.one(ctx, what, nodes, w, j); err != nil {
				return err
			}
		}
	}
	return errors.Join(b.wipe(ctx), b.forget(ctx, j))
}

// changed loads an image of which the nodes have all but one layer, then the same again,
// then under another name.
func (b *imagesBench) changed(ctx context.Context, size int) error {
	img, err := base(1, b.megabytes)
	if err != nil {
		return err
	}
	// An earlier version is there in each of the two kinds of content, as images.Load and as
	// an engine bring it: layers compressed and not. Two versions, or the second would be found
	// to be there.
	for i, w := range b.ways()[:2] {
		before, err := withLayer(img, b.next(), 5)
		if err != nil {
			return err
		}
		old, err := b.job(ctx, fmt.Sprintf("old%d-%d", size, i), before)
		if err != nil {
			return err
		}
		if err := errors.Join(w.run(ctx, old, b.nodes[:size]), b.forget(ctx, old)); err != nil {
			return err
		}
	}
	for i := range b.repeat {
		for k, w := range b.ways() {
			nodes, ok := b.at(size, w)
			if !ok {
				continue
			}
			// A layer of its own, or one way would find the work of another done.
			after, err := withLayer(img, b.next(), 5)
			if err != nil {
				return err
			}
			tag := fmt.Sprintf("new%d-%d-%d", size, i, k)
			j, err := b.job(ctx, tag, after)
			if err != nil {
				return err
			}
			again, err := b.job(ctx, tag+"-again", after)
			if err != nil {
				return err
			}
			if err := errors.Join(b.one(ctx, "changed", nodes, w, j), b.one(ctx, "present", nodes, w, j), b.one(ctx, "retag", nodes, w, again)); err != nil {
				return err
			}
			if err := errors.Join(b.forget(ctx, j), b.forget(ctx, again)); err != nil {
				return err
			}
		}
	}
	return b.wipe(ctx)
}

// ten loads ten images of one base, a sixth of the large image, and a layer of their own.
func (b *imagesBench) ten(ctx context.Context, size int) error {
	img, err := base(50, b.megabytes/6)
	if err != nil {
		return err
	}
	var all []v1.Image
	for range 10 {
		one, err := withLayer(img, b.next(), 1)
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	j, err := b.job(ctx, fmt.Sprintf("ten%d", size), all...)
	if err != nil {
		return err
	}
	return b.coldly(ctx, "ten", size, j)
}

// command runs it, and tells what it said if it fails.
func command(ctx context.Context, argv ...string) error {
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv[:min(3, len(argv))], " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

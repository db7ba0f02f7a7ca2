package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Node is a machine with containerd and its client ctr, as Load needs it.
type Node interface {
	// Name names the node in results, events and errors.
	Name() string
	// Exec runs argv on the node and waits for it. A nil stdin is empty and a nil
	// stdout dropped; the error holds what the command wrote to stderr.
	Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error
}

// NamedImage is an image and the reference under which it is to be found.
type NamedImage struct {
	Ref   string
	Image v1.Image
}

// LoadConfig tunes Load and LoadEngine. The zero value fits a Kubernetes node and
// a Docker engine.
type LoadConfig struct {
	// Namespace is containerd's; default "k8s.io", which is the kubelet's.
	Namespace string
	// Snapshotter unpacks on the node; default: containerd's own default. To name
	// one needs containerd 2.
	Snapshotter string
	// Engine is the engine's command line client, for LoadEngine; default "docker".
	Engine string
	// OnEvent receives progress.
	OnEvent func(Event)
}

// LoadResult has one entry for each node, in the order given.
type LoadResult struct{ Nodes []NodeResult }

// NodeResult is what a node got.
type NodeResult struct {
	Node string
	// BytesSent and BytesSkipped count the bytes of blobs, each blob once.
	BytesSent, BytesSkipped int64
	Duration                time.Duration
	// Images has one entry for each image, in the order given. It is nil if the
	// node failed.
	Images []ImageResult
}

// ImageResult is one image on one node, verified there.
type ImageResult struct {
	Ref string
	// Name is the full name that containerd and the kubelet use.
	Name   string
	Digest v1.Hash
	// Already is true if the node had it, whole and unpacked, under this name.
	Already bool
	// BytesSent and BytesSkipped count blobs; one that several images share is
	// counted for the first.
	BytesSent, BytesSkipped int64
}

// Load brings the images to all nodes at once. Each node is sent, in one stream,
// only the blobs that it lacks; an image that is there already costs one short
// command. Afterwards every image is verified on every node: its name, its
// digest, and that all its content is there.
//
// A node that fails does not stop the others. The error joins all failures; the
// result tells what the other nodes got.
//
// Images are read once for every node, so they should come from a Cache.
func Load(ctx context.Context, nodes []Node, images []NamedImage, cfg LoadConfig) (LoadResult, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "k8s.io"
	}
	if len(nodes) == 0 {
		return LoadResult{}, errors.New("load images: no nodes given")
	}
	wanted, err := wantedImages(images)
	if err != nil {
		return LoadResult{}, fmt.Errorf("load images: %w", err)
	}
	emit := oneAtATime(cfg.OnEvent)
	result := LoadResult{Nodes: make([]NodeResult, len(nodes))}
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	for i, node := range nodes {
		all.Go(func() {
			l := nodeLoad{node: node, wanted: wanted, ctr: ctr{cfg.Namespace, cfg.Snapshotter}, emit: emit, began: time.Now()}
			result.Nodes[i], errs[i] = l.run(ctx)
			if errs[i] != nil {
				errs[i] = fmt.Errorf("load images into node %s: %w", node.Name(), errs[i])
			}
		})
	}
	all.Wait()
	return result, errors.Join(errs...)
}

// wantedImage is an image with all that is sent of it.
type wantedImage struct {
	ref, name string
	desc      v1.Descriptor // of the manifest
	blobs     []blob        // manifest, config, layers
}

type blob struct {
	digest v1.Hash
	size   int64
	open   func() (io.ReadCloser, error)
}

func wantedImages(images []NamedImage) ([]wantedImage, error) {
	byName := map[string]v1.Hash{}
	var wanted []wantedImage
	for _, i := range images {
		w, err := newWantedImage(i)
		if err != nil {
			return nil, err
		}
		if have, ok := byName[w.name]; ok && have != w.desc.Digest {
			return nil, fmt.Errorf("%s is given twice, with digest %s and %s", w.name, have, w.desc.Digest)
		} else if !ok {
			byName[w.name] = w.desc.Digest
			wanted = append(wanted, w)
		}
	}
	return wanted, nil
}

func newWantedImage(i NamedImage) (wantedImage, error) {
	fail := func(err error) (wantedImage, error) {
		return wantedImage{}, fmt.Errorf("read image %s: %w", i.Ref, err)
	}
	full, err := nodeName(i.Ref)
	if err != nil {
		return wantedImage{}, err
	}
	if i.Image == nil {
		return fail(errors.New("NamedImage.Image is nil"))
	}
	raw, err := i.Image.RawManifest()
	if err != nil {
		return fail(err)
	}
	digest, err := i.Image.Digest()
	if err != nil {
		return fail(err)
	}
	mediaType, err := i.Image.MediaType()
	if err != nil {
		return fail(err)
	}
	manifest, err := i.Image.Manifest()
	if err != nil {
		return fail(err)
	}
	config, err := i.Image.RawConfigFile()
	if err != nil {
		return fail(err)
	}
	layers, err := i.Image.Layers()
	if err != nil {
		return fail(err)
	}
	w := wantedImage{ref: i.Ref, name: full, desc: v1.Descriptor{MediaType: mediaType, Digest: digest, Size: int64(len(raw))}}
	w.blobs = append(w.blobs, blob{digest, int64(len(raw)), bytesOpener(raw)}, blob{manifest.Config.Digest, int64(len(config)), bytesOpener(config)})
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			return fail(err)
		}
		size, err := l.Size()
		if err != nil {
			return fail(err)
		}
		w.blobs = append(w.blobs, blob{d, size, l.Compressed})
	}
	return w, nil
}

// nodeName is the reference as the kubelet asks containerd for it: fully
// qualified, and by digest alone where there is one.
func nodeName(ref string) (string, error) {
	parsed, err := parseRef(ref)
	if err != nil {
		return "", err
	}
	repo := strings.Replace(parsed.Context().Name(), name.DefaultRegistry+"/", "docker.io/", 1)
	if _, ok := parsed.(name.Digest); ok {
		return repo + "@" + parsed.Identifier(), nil
	}
	return repo + ":" + parsed.Identifier(), nil
}

// nodeLoad is the work on one node.
type nodeLoad struct {
	node   Node
	wanted []wantedImage
	ctr    ctr
	emit   func(Event)
	began  time.Time
}

func (l nodeLoad) run(ctx context.Context) (NodeResult, error) {
	result := NodeResult{Node: l.node.Name()}
	if len(l.wanted) == 0 {
		return result, nil
	}
	missing, err := l.missing(ctx)
	if err != nil {
		return result, err
	}
	plan := stream{}
	if len(missing) > 0 {
		have, err := l.ctr.blobs(ctx, l.node)
		if err != nil {
			return result, err
		}
		plan = planStream(missing, have)
		err = l.send(ctx, plan, missing)
		if err != nil && ctx.Err() == nil && plan.skipped > 0 {
			// A blob that no image on the node holds may be collected as garbage
			// after it was listed. So once more, with everything.
			l.emit(Event{Verb: "load again", Node: l.node.Name(), Detail: err.Error(), Elapsed: time.Since(l.began)})
			plan = planStream(missing, nil)
			err = l.send(ctx, plan, missing)
		}
		if err != nil {
			return result, err
		}
	}
	result.BytesSent, result.BytesSkipped = plan.sent, plan.skipped
	for _, w := range l.wanted {
		r := ImageResult{Ref: w.ref, Name: w.name, Digest: w.desc.Digest}
		if i := slices.IndexFunc(missing, func(m wantedImage) bool { return m.name == w.name }); i >= 0 {
			r.BytesSent, r.BytesSkipped = plan.images[i].sent, plan.images[i].skipped
		} else {
			r.Already = true
			for _, b := range w.blobs {
				r.BytesSkipped += b.size
			}
			result.BytesSkipped += r.BytesSkipped
		}
		result.Images = append(result.Images, r)
	}
	result.Duration = time.Since(l.began)
	l.emit(Event{Verb: "loaded", Ref: refs(l.wanted), Node: l.node.Name(), Elapsed: result.Duration,
		Detail: fmt.Sprintf("sent %s, already there %s", byteCount(result.BytesSent), byteCount(result.BytesSkipped))})
	return result, nil
}

// missing returns the images that the node lacks or has in another state than wanted.
func (l nodeLoad) missing(ctx context.Context) ([]wantedImage, error) {
	// ctr's status goes bad over any one image that it cannot read; what it
	// printed stands all the same, and the others are sent.
	states, err := l.ctr.check(ctx, l.node, l.wanted)
	if ctx.Err() != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(l.wanted), func(w wantedImage) bool {
		s := states[w.name]
		return s.digest == w.desc.Digest.String() && s.complete && s.unpacked
	}), nil
}

// send streams the plan into the node and verifies what became of it.
func (l nodeLoad) send(ctx context.Context, plan stream, images []wantedImage) error {
	l.emit(Event{Verb: "load", Ref: refs(images), Node: l.node.Name(), Total: plan.sent})
	const interval = time.Second
	last := time.Now()
	progress := func(done int64) {
		if now := time.Now(); now.Sub(last) >= interval {
			last = now
			l.emit(Event{Verb: "load", Node: l.node.Name(), Done: done, Total: plan.sent, Elapsed: time.Since(l.began)})
		}
	}
	if err := l.ctr.load(ctx, l.node, func(w io.Writer) error { return plan.write(ctx, w, progress) }); err != nil {
		return err
	}
	states, err := l.ctr.check(ctx, l.node, images)
	if err != nil {
		return err
	}
	var errs []error
	for _, w := range images {
		s, ok := states[w.name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("after the import, the node does not list image %s", w.name))
		case s.digest != w.desc.Digest.String():
			errs = append(errs, fmt.Errorf("after the import, image %s has digest %s on the node, want %s", w.name, s.digest, w.desc.Digest))
		case !s.complete:
			errs = append(errs, fmt.Errorf("after the import, the content of image %s is not whole on the node: %s", w.name, s.line))
		}
	}
	return errors.Join(errs...)
}

func refs(images []wantedImage) string {
	var s []string
	for _, w := range images {
		s = append(s, w.ref)
	}
	return strings.Join(s, " ")
}

package images

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

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

// LoadConfig tunes Load and LoadEngine. The zero value fits a Kubernetes node and
// a Docker engine.
type LoadConfig struct {
	// Namespace is containerd's; default "k8s.io", which is the kubelet's.
	Namespace string
	// Snapshotter unpacks on the node; default: containerd's own default. To name
	// one needs containerd 2.
	Snapshotter string
	// Latest lets in references with the tag latest, or with none, which means the
	// same. Without it they are refused, as they can be another image tomorrow.
	Latest bool
	// Engine is the engine's command line client, for LoadEngine; default "docker".
	Engine string
	// OnEvent receives progress.
	OnEvent func(Event)

	ahead int64 // for tests; default muchContent
}

// muchContent is what takes longer to import than two commands more on a node.
const muchContent = 32 << 20

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
	// Tagged is true if the node had it, whole and unpacked, under another name, and
	// was told to name it so.
	Tagged bool
	// BytesSent and BytesSkipped count blobs; one that several images share is
	// counted for the first.
	BytesSent, BytesSkipped int64
}

// Load brings the images to all nodes at once. Each node is sent each blob that it lacks, once,
// and nothing else; an image that is there already costs one short
// command, and one that is there under another name is named, not sent. Afterwards
// every image is verified on every node: its name, its digest, and that all its
// content is there.
//
// A name means its former image, or the new one whole: a load that fails, wherever, has
// not changed it. A node that fails does not stop the others. The error joins all
// failures; the result tells what the other nodes got.
//
// Images are read once for every node, so they should come from a Cache, a file or an
// engine.
func Load(ctx context.Context, nodes []Node, images []NamedImage, cfg LoadConfig) (LoadResult, error) {
	if cfg.Namespace == "" {
		cfg.Namespace = "k8s.io"
	}
	if len(nodes) == 0 {
		return LoadResult{}, errors.New("load images: no nodes given")
	}
	wanted, err := wantedImages(images, cfg.Latest)
	if err != nil {
		return LoadResult{}, fmt.Errorf("load images: %w", err)
	}
	emit := oneAtATime(cfg.OnEvent)
	result := LoadResult{Nodes: make([]NodeResult, len(nodes))}
	errs := make([]error, len(nodes))
	loads := make([]nodeLoad, len(nodes))
	found := make([][]finding, len(nodes))
	onEach := func(do func(i int) error) {
		var all sync.WaitGroup
		for i, node := range nodes {
			if errs[i] != nil {
				continue
			}
			all.Go(func() {
				if err := do(i); err != nil {
					errs[i] = fmt.Errorf("load images into node %s: %w", node.Name(), err)
				}
			})
		}
		all.Wait()
	}
	for i, node := range nodes {
		result.Nodes[i].Node = node.Name()
		loads[i] = nodeLoad{node: node, wanted: wanted, ctr: ctr{cfg.Namespace, cfg.Snapshotter}, emit: emit, began: time.Now(), ahead: cmp.Or(cfg.ahead, muchContent)}
	}
	onEach(func(i int) (err error) {
		found[i], err = loads[i].look(ctx)
		return err
	})
	// What comes out of an engine does so in one piece, for all nodes.
	if err := saveAbsent(ctx, found); err != nil {
		return result, fmt.Errorf("load images: %w", errors.Join(append(errs, err)...))
	}
	onEach(func(i int) (err error) {
		result.Nodes[i], err = loads[i].run(ctx, found[i])
		return err
	})
	return result, errors.Join(errs...)
}

// nodeLoad is the work on one node.
type nodeLoad struct {
	node   Node
	wanted []wantedImage
	ctr    ctr
	emit   func(Event)
	began  time.Time
	ahead  int64 // so many bytes are sent ahead of the import
}

// standing is what a node has of an image.
type standing int

const (
	absent  standing = iota // not all of it, or under another digest
	renamed                 // all of it, under another name
	present                 // all of it, under its name
)

// finding is an image and what a node has of it.
type finding struct {
	image    wantedImage
	standing standing
	from     string // a name under which the node has it, if it is renamed
	digest   string // of what the node has, if that is the image
}

// filters ask a node for all that judge needs to know.
func filters(wanted []wantedImage) []string {
	var all []string
	for _, w := range wanted {
		all = append(all, nameIs(w.name), targetIs(w.identity()))
		if w.engine != nil {
			// The node's CRI gives every image its config's digest as a name besides.
			all = append(all, nameIs(w.engine.id))
		}
	}
	return all
}

// judge decides what a node has of an image, from the images that it lists.
func judge(w wantedImage, states map[string]imageState) finding {
	f := finding{image: w}
	is := func(s imageState) bool {
		if !s.usable() {
			return false
		}
		if s.digest == w.identity() {
			return true
		}
		byID, ok := states[w.identity()]
		return w.engine != nil && ok && byID.digest == s.digest
	}
	if s, ok := states[w.name]; ok && is(s) {
		f.standing, f.from, f.digest = present, w.name, s.digest
		return f
	}
	for name, s := range states {
		if is(s) && (f.from == "" || better(name, f.from)) {
			f.standing, f.from, f.digest = renamed, name, s.digest
		}
	}
	return f
}

// better prefers a name that was given to one that is a digest, and the lesser one: the
// same each time.
func better(a, b string) bool {
	if x, y := strings.HasPrefix(a, "sha256:"), strings.HasPrefix(b, "sha256:"); x != y {
		return y
	}
	return a < b
}

// look finds out what the node has of the images.
func (l nodeLoad) look(ctx context.Context) ([]finding, error) {
	if len(l.wanted) == 0 {
		return nil, nil
	}
	// ctr's status goes bad over any one image that it cannot read; what it
	// printed stands all the same, and the others are sent.
	states, err := l.ctr.check(ctx, l.node, filters(l.wanted))
	if ctx.Err() != nil {
		return nil, err
	}
	var found []finding
	for _, w := range l.wanted {
		found = append(found, judge(w, states))
	}
	return found, nil
}

func (l nodeLoad) run(ctx context.Context, found []finding) (NodeResult, error) {
	result := NodeResult{Node: l.node.Name()}
	if len(found) == 0 {
		return result, nil
	}
	todo := slices.DeleteFunc(slices.Clone(found), func(f finding) bool { return f.standing == present })
	var done map[string]ImageResult
	if len(todo) > 0 {
		var err error
		if done, err = l.bring(ctx, todo); err != nil {
			return result, err
		}
	}
	for _, f := range found {
		r, ok := done[f.image.name]
		if !ok {
			r = f.result()
		}
		result.Images = append(result.Images, r)
		result.BytesSent += r.BytesSent
		result.BytesSkipped += r.BytesSkipped
	}
	result.Duration = time.Since(l.began)
	l.emit(Event{Verb: "loaded", Ref: refs(l.wanted), Node: l.node.Name(), Elapsed: result.Duration,
		Detail: fmt.Sprintf("sent %s, already there %s", byteCount(result.BytesSent), byteCount(result.BytesSkipped))})
	return result, nil
}

// bring makes the node have the images, and returns what that took by their names.
func (l nodeLoad) bring(ctx context.Context, todo []finding) (map[string]ImageResult, error) {
	done, relied, err := l.try(ctx, todo)
	if err == nil || ctx.Err() != nil || !relied || !worthAgain(err) {
		return done, err
	}
	// What no image on the node holds may be collected as garbage after it was seen.
	// So once more, with everything.
	l.emit(Event{Verb: "load again", Node: l.node.Name(), Detail: err.Error(), Elapsed: time.Since(l.began)})
	nothing := make([]finding, len(todo))
	for i, f := range todo {
		nothing[i] = finding{image: f.image}
	}
	done, err = l.send(ctx, nothing, nil)
	if err == nil {
		err = l.verify(ctx, done)
	}
	return done, err
}

// try names those images that the node has, sends the others, and verifies all of them. It
// relied on what the node had if it did not send everything.
func (l nodeLoad) try(ctx context.Context, todo []finding) (done map[string]ImageResult, relied bool, err error) {
	named, rest := l.tagAll(ctx, todo)
	var have map[string]bool
	if len(rest) > 0 {
		if have, err = l.ctr.blobs(ctx, l.node); err != nil {
			return nil, false, err
		}
	}
	if done, err = l.send(ctx, rest, have); err != nil {
		return nil, len(have) > 0, err
	}
	relied = len(named) > 0
	for _, r := range done {
		relied = relied || r.BytesSkipped > 0
	}
	maps.Copy(done, named)
	return done, relied, l.verify(ctx, done)
}

// tagAll gives the images that the node has under another name their own. Those with
// which that fails, and those that it does not have, are the rest.
func (l nodeLoad) tagAll(ctx context.Context, todo []finding) (named map[string]ImageResult, rest []finding) {
	named = map[string]ImageResult{}
	bySource := map[string][]finding{}
	for _, f := range todo {
		if f.standing == renamed {
			bySource[f.from] = append(bySource[f.from], f)
		} else {
			rest = append(rest, f)
		}
	}
	for _, from := range slices.Sorted(maps.Keys(bySource)) {
		var names []string
		for _, f := range bySource[from] {
			names = append(names, f.image.name)
		}
		if err := l.ctr.tag(ctx, l.node, from, names); err != nil {
			l.emit(Event{Verb: "not tagged", Node: l.node.Name(), Detail: err.Error()})
			rest = append(rest, bySource[from]...)
			continue
		}
		for _, f := range bySource[from] {
			named[f.image.name] = f.result()
		}
	}
	return named, rest
}

// result is what is told of an image of which nothing was sent.
func (f finding) result() ImageResult {
	r := ImageResult{Ref: f.image.ref, Name: f.image.name, Already: f.standing == present, Tagged: f.standing == renamed, BytesSkipped: f.image.size()}
	r.Digest, _ = v1.NewHash(f.digest) // it is equal to one, or printed by containerd
	return r
}

// send streams what the node lacks of the images, if it has those blobs.
func (l nodeLoad) send(ctx context.Context, todo []finding, have map[string]bool) (map[string]ImageResult, error) {
	done := map[string]ImageResult{}
	if len(todo) == 0 {
		return done, nil
	}
	images, platform, err := l.resolve(ctx, todo)
	if err != nil {
		return nil, err
	}
	plan := planStream(images, have)
	l.emit(Event{Verb: "load", Ref: refs(images), Node: l.node.Name(), Total: plan.sent})
	const interval = time.Second
	last := time.Now()
	progress := func(sent int64) {
		if now := time.Now(); now.Sub(last) >= interval {
			last = now
			l.emit(Event{Verb: "load", Node: l.node.Name(), Done: sent, Total: plan.sent, Elapsed: time.Since(l.began)})
		}
	}
	if err := l.stream(ctx, images, platform, have, plan, progress); err != nil {
		if diskFull(err) {
			err = fmt.Errorf("%w; the node's disk is full and its images are as they were: make room there (crictl rmi --prune, images.Prune) and load again", err)
		}
		return nil, err
	}
	for i, w := range images {
		done[w.name] = ImageResult{Ref: w.ref, Name: w.name, Digest: w.desc.Digest, BytesSent: plan.images[i].sent, BytesSkipped: plan.images[i].skipped}
	}
	return done, nil
}

// stream writes the plan into the node, for the images, if it has those blobs.
//
// The import that containerd's transfer service does is the one wanted: a name changes when all
// is unpacked, and not before. But that service takes a stream in pieces of 32 KiB, with a message
// and an answer for each, which costs about twice what all the rest does. So what is much goes
// ahead, by the import that ctr itself does and that names nothing yet; what follows is small.
func (l nodeLoad) stream(ctx context.Context, images []wantedImage, platform string, have map[string]bool, plan stream, progress func(int64)) error {
	whole := func(w io.Writer) error { return plan.write(ctx, w, progress) }
	if plan.sent < l.ahead || l.ctr.snapshotter != "" {
		return l.ctr.load(ctx, l.node, l.ctr.importArgv(platform), whole)
	}
	// Under a name, so that it is not collected as garbage before the images hold it. The name is
	// of this load alone and goes with it or, if this ends too early, when its time is over.
	name := "zerotrust.local/loading:" + rand.Text()
	err := l.ctr.load(ctx, l.node, l.ctr.aheadArgv(platform, name, time.Now().Add(time.Hour)), func(w io.Writer) error {
		return plan.nameless().write(ctx, w, progress)
	})
	if noLocal(err) {
		return l.ctr.load(ctx, l.node, l.ctr.importArgv(platform), whole)
	}
	if err != nil {
		return err
	}
	now := map[string]bool{}
	maps.Copy(now, have)
	for _, b := range plan.blobs {
		now[b.digest.String()] = true
	}
	err = l.ctr.load(ctx, l.node, l.ctr.importArgv(platform), func(w io.Writer) error {
		return planStream(images, now).write(ctx, w, func(int64) {})
	})
	if failed := l.ctr.remove(ctx, l.node, name); failed != nil {
		l.emit(Event{Verb: "not removed", Node: l.node.Name(), Detail: failed.Error()})
	}
	return err
}

// resolve finds out what is to be sent of each image. The platform is the node's if any
// of the images is an index, and otherwise empty.
func (l nodeLoad) resolve(ctx context.Context, todo []finding) (images []wantedImage, platform string, err error) {
	for _, f := range todo {
		w, err := f.image.opened(ctx)
		if err != nil {
			return nil, "", sourceError{err}
		}
		images = append(images, w)
	}
	if !slices.ContainsFunc(images, func(w wantedImage) bool { return w.index != nil }) {
		return images, "", nil
	}
	p, err := nodePlatform(ctx, l.node)
	if err != nil {
		return nil, "", err
	}
	for i, w := range images {
		if images[i], err = w.onto(p); err != nil {
			return nil, "", sourceError{err}
		}
	}
	return images, p.String(), nil
}

// verify asks the node for what became of the images.
func (l nodeLoad) verify(ctx context.Context, done map[string]ImageResult) error {
	var filters []string
	for _, name := range slices.Sorted(maps.Keys(done)) {
		filters = append(filters, nameIs(name))
	}
	states, err := l.ctr.check(ctx, l.node, filters)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(done)) {
		want := done[name].Digest.String()
		s, ok := states[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("afterwards, the node does not list image %s", name))
		case s.digest != want:
			errs = append(errs, fmt.Errorf("afterwards, image %s has digest %s on the node, want %s: is somebody else loading another one?", name, s.digest, want))
		case !s.complete:
			errs = append(errs, fmt.Errorf("afterwards, the content of image %s is not whole on the node: %s", name, s.line))
		}
	}
	return errors.Join(errs...)
}

// worthAgain is false where sending more cannot help.
func worthAgain(err error) bool {
	_, source := errors.AsType[sourceError](err)
	return !source && !diskFull(err)
}

// diskFull knows the words in which a node says so: its error is a text by then.
func diskFull(err error) bool {
	return strings.Contains(err.Error(), "no space left on device") || strings.Contains(err.Error(), "disk quota exceeded")
}

func refs(images []wantedImage) string {
	var s []string
	for _, w := range images {
		s = append(s, w.ref)
	}
	return strings.Join(s, " ")
}

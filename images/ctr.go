package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// ctr speaks to a node's containerd by its command line client, which is on every
// node that has containerd. Flags and output are alike in containerd 1.7 and 2.x.
type ctr struct{ namespace, snapshotter string }

func (c ctr) argv(args ...string) []string {
	return append([]string{"ctr", "--namespace", c.namespace}, args...)
}

// checkArgv asks for the images that fit any of the filters.
func (c ctr) checkArgv(filters []string) []string {
	return append(c.argv(c.withSnapshotter("images", "check")...), filters...)
}

// Filters in containerd's syntax.
func nameIs(name string) string     { return fmt.Sprintf("name==%q", name) }
func targetIs(digest string) string { return fmt.Sprintf("target.digest==%q", digest) }

// importArgv is for a stream of images; with a platform, for one that has indexes of
// which that platform's images alone are there.
func (c ctr) importArgv(platform string) []string {
	// Without --all-platforms, the layers of an image whose manifest names no
	// platform would not be marked as used. With it, nothing of an index may be missing.
	which := []string{"--all-platforms"}
	if platform != "" {
		which = []string{"--platform", platform}
	}
	args := c.withSnapshotter(append([]string{"images", "import"}, which...)...)
	if c.snapshotter != "" {
		// containerd's own import (the transfer service) unpacks with the snapshotters
		// in its configuration alone, and fails for any other.
		args = append(args, "--local")
	}
	return append(c.argv(args...), "-")
}

func (c ctr) withSnapshotter(args ...string) []string {
	if c.snapshotter != "" {
		args = append(args, "--snapshotter", c.snapshotter)
	}
	return args
}

// blobs returns the digests in the node's content store.
func (c ctr) blobs(ctx context.Context, n Node) (map[string]bool, error) {
	var out bytes.Buffer
	if err := n.Exec(ctx, nil, &out, c.argv("content", "ls", "--quiet")...); err != nil {
		return nil, fmt.Errorf("list the blobs it has (the node must run containerd and have ctr): %w", err)
	}
	have := map[string]bool{}
	for _, digest := range strings.Fields(out.String()) {
		have[digest] = true
	}
	return have, nil
}

// tag gives an image of the node more names, and takes them from others.
func (c ctr) tag(ctx context.Context, n Node, from string, to []string) error {
	if err := n.Exec(ctx, nil, nil, c.argv(append([]string{"images", "tag", "--force", from}, to...)...)...); err != nil {
		return fmt.Errorf("name image %s %s: %w", from, strings.Join(to, " "), err)
	}
	return nil
}

// imageState is an image as the node has it.
type imageState struct {
	digest             string
	complete, unpacked bool
	line               string // as ctr printed it
}

// usable is true for one that a pod can be started from.
func (s imageState) usable() bool { return s.complete && s.unpacked }

// check returns the state, by name, of the images on the node that fit any of the
// filters. What was understood is returned beside an error too.
func (c ctr) check(ctx context.Context, n Node, filters []string) (map[string]imageState, error) {
	var out bytes.Buffer
	err := n.Exec(ctx, nil, &out, c.checkArgv(filters)...)
	if err != nil {
		err = fmt.Errorf("check its images: %w", err)
	}
	return parseCheck(out.String()), err
}

// parseCheck reads the table of ctr images check: REF TYPE DIGEST STATUS SIZE
// UNPACKED, of which STATUS ("complete (5/5)") and SIZE ("1.0 MiB/1.0 MiB") hold
// spaces. Nothing is printed when no image matches.
func parseCheck(table string) map[string]imageState {
	states := map[string]imageState{}
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] == "REF" {
			continue
		}
		states[f[0]] = imageState{digest: f[2], complete: f[3] == "complete", unpacked: f[len(f)-1] == "true", line: strings.Join(f, " ")}
	}
	return states
}

// load runs the import and feeds it what write writes.
func (c ctr) load(ctx context.Context, n Node, platform string, write func(io.Writer) error) error {
	stdin := newFeed(write)
	err := n.Exec(ctx, stdin, nil, c.importArgv(platform)...)
	// The cause goes before its consequence, an import that was cut short.
	if cause := stdin.close(); cause != nil {
		return sourceError{cause}
	}
	if err != nil {
		return fmt.Errorf("import the images: %w", err)
	}
	return nil
}

// sourceError is one of what is sent, not of where it goes.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// feed is a command's stdin, made by a func that writes.
type feed struct {
	pipe io.ReadCloser
	mu   sync.Mutex
	err  error
}

func newFeed(write func(io.Writer) error) *feed { return &feed{pipe: pipe(write)} }

func (f *feed) Read(p []byte) (int, error) {
	n, err := f.pipe.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.err = err
	}
	return n, err
}

// close ends the writer, should the command have stopped reading, and returns why
// the writer failed, if it did.
func (f *feed) close() error {
	f.pipe.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

package images

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
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
	args := c.withSnapshotter(slices.Concat([]string{"images", "import"}, ofPlatform(platform))...)
	if c.snapshotter != "" {
		// containerd's own import (the transfer service) unpacks with the snapshotters
		// in its configuration alone, and fails for any other.
		args = append(args, "--local")
	}
	return append(c.argv(args...), "-")
}

// ofPlatform chooses from a stream. Without --all-platforms, the layers of an image whose
// manifest names no platform would not be marked as used. With it, nothing of an index may
// be missing.
func ofPlatform(platform string) []string {
	if platform != "" {
		return []string{"--platform", platform}
	}
	return []string{"--all-platforms"}
}

// aheadArgv is for a stream of content alone: what there is, is kept under the one name, which
// is void after that time.
func (c ctr) aheadArgv(platform, name string, until time.Time) []string {
	return c.argv(slices.Concat([]string{"images", "import", "--local", "--no-unpack"}, ofPlatform(platform),
		[]string{"--index-name", name, "--label", "containerd.io/gc.expire=" + until.UTC().Format(time.RFC3339), "-"})...)
}

// noLocal knows the words of a ctr that has no flag --local: containerd 1's, all of whose
// imports are such.
func noLocal(err error) bool {
	return err != nil && strings.Contains(err.Error(), "flag provided but not defined")
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

// load runs an import and feeds it what write writes.
func (c ctr) load(ctx context.Context, n Node, argv []string, write func(io.Writer) error) error {
	stdin, err := newFeed(write)
	if err != nil {
		return err
	}
	err = n.Exec(ctx, stdin.pipe, nil, argv...)
	// The cause goes before its consequence, an import that was cut short.
	if cause := stdin.close(); cause != nil {
		return sourceError{cause}
	}
	if err != nil {
		return fmt.Errorf("import the images: %w", err)
	}
	return nil
}

// remove takes a name from the node.
func (c ctr) remove(ctx context.Context, n Node, name string) error {
	if err := n.Exec(ctx, nil, nil, c.argv("images", "rm", name)...); err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// sourceError is one of what is sent, not of where it goes.
type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

// feed is a command's stdin, made by a func that writes: a pipe of the system, which a
// process reads with no copy between.
type feed struct {
	pipe *os.File
	mu   sync.Mutex
	err  error
}

func newFeed(write func(io.Writer) error) (*feed, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	f := &feed{pipe: r}
	go func() {
		out := &pipeWriter{w: w}
		b := bufio.NewWriterSize(out, 256<<10)
		err := write(b)
		if err == nil {
			err = b.Flush()
		}
		if err != nil && !out.failed {
			f.mu.Lock()
			f.err = err
			f.mu.Unlock()
		}
		// Last: who reads to the end, and fails on it, finds the cause there. Nothing is lost
		// by a pipe that fails to close.
		_ = w.Close()
	}()
	return f, nil
}

// close ends the writer, should the command have stopped reading, and returns why
// the writer failed, if it did.
func (f *feed) close() error {
	_ = f.pipe.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// pipeWriter knows whether it was the pipe that failed, which is its reader's doing.
type pipeWriter struct {
	w      *os.File
	failed bool
}

func (p *pipeWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.failed = p.failed || err != nil
	return n, err
}

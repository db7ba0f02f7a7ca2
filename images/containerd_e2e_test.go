//go:build e2e

package images

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/spire-vault-99-action/internal/run"
)

// LoadConformanceContainerd and LoadAfterGarbageCollection are the tests of
// load_e2e_test.go. They look inside this package; what finds containerd for them
// imports it, so it cannot be imported here. bin is the folder of containerd and
// ctr. Each runs a containerd of its own, apart from any other on this machine,
// which needs root.

// LoadConformanceContainerd has a real containerd keep what Load relies on.
func LoadConformanceContainerd(t *testing.T, bin string) {
	for _, snapshotter := range []string{"", "native"} {
		t.Run("snapshotter "+snapshotter, func(t *testing.T) {
			loadConformance(t, startContainerd(t, bin), LoadConfig{Snapshotter: snapshotter})
		})
	}
	t.Run("content ahead", func(t *testing.T) {
		node := startContainerd(t, bin)
		loadConformance(t, node, LoadConfig{ahead: 1})
		wantNothingLoading(t, node)
	})
}

// wantNothingLoading wants no name left of content that was sent ahead.
func wantNothingLoading(t *testing.T, node Node) {
	t.Helper()
	all, err := (ctr{namespace: "k8s.io"}).targets(context.WithoutCancel(t.Context()), node)
	if err != nil {
		t.Fatal(err)
	}
	for name := range all {
		if strings.Contains(name, "/loading:") {
			t.Errorf("the node still has %s", name)
		}
	}
}

// LoadAfterGarbageCollection removes a layer's content on the node behind
// containerd's image store, and loads again.
func LoadAfterGarbageCollection(t *testing.T, bin string) {
	node := startContainerd(t, bin)
	cfg := LoadConfig{}
	img := mustPut(t, openTestCache(t), "k", testImage(t, Zstd, "base", "top"))
	_, _, layers := parts(t, img)
	for i := range 2 {
		if _, err := Load(t.Context(), []Node{node}, []NamedImage{{Ref: "gc:v1", Image: img}}, cfg); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := node.Exec(t.Context(), nil, nil, "ctr", "--namespace", "k8s.io", "content", "rm", layers[0].String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	states, err := (ctr{namespace: "k8s.io"}).check(t.Context(), node, []string{nameIs("docker.io/library/gc:v1")})
	if err != nil || !states["docker.io/library/gc:v1"].complete {
		t.Errorf("%+v, %v", states, err)
	}
}

// LoadAfterGarbageCollectionMeanwhile removes a layer's content between the moment in
// which Load sees it and the import, which can do nothing without.
func LoadAfterGarbageCollectionMeanwhile(t *testing.T, bin string) {
	for _, ahead := range []int64{0, 1} {
		t.Run(fmt.Sprint("ahead ", ahead), func(t *testing.T) { loadAfterGarbageCollectionMeanwhile(t, bin, ahead) })
	}
}

func loadAfterGarbageCollectionMeanwhile(t *testing.T, bin string, ahead int64) {
	node := startContainerd(t, bin)
	older, newer := testImage(t, Zstd, "base"), testImage(t, Zstd, "base", "top")
	_, _, layers := parts(t, newer)
	if _, err := Load(t.Context(), []Node{node}, []NamedImage{{Ref: "gc:v1", Image: older}}, LoadConfig{}); err != nil {
		t.Fatal(err)
	}
	var said []string
	got, err := Load(t.Context(), []Node{collecting{node, layers[0]}}, []NamedImage{{Ref: "gc:v2", Image: newer}}, LoadConfig{ahead: ahead, OnEvent: func(e Event) { said = append(said, e.Verb) }})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(said, "load again") || got.Nodes[0].BytesSkipped != 0 {
		t.Errorf("events %q, result %+v", said, got)
	}
	if missing, err := Missing(t.Context(), []Node{node}, []NamedImage{{Ref: "gc:v2", Image: newer}}, LoadConfig{}); err != nil || len(missing) != 0 {
		t.Errorf("missing %v, %v", missing, err)
	}
}

// collecting loses a blob as soon as it has listed its content.
type collecting struct {
	localNode
	lost v1.Hash
}

func (n collecting) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	err := n.localNode.Exec(ctx, stdin, stdout, argv...)
	if slices.Contains(argv, "content") && err == nil {
		err = n.localNode.Exec(ctx, nil, nil, "ctr", "--namespace", "k8s.io", "content", "rm", n.lost.String())
	}
	return err
}

type localNode struct{ ctr, socket string }

func (n localNode) Name() string { return "local" }

func (n localNode) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	if argv[0] != "ctr" {
		return run.Cmd{Argv: argv, Stdin: stdin, Stdout: stdout}.Run(ctx)
	}
	return run.Cmd{Argv: slices.Concat([]string{n.ctr, "--address", n.socket}, argv[1:]), Stdin: stdin, Stdout: stdout}.Run(ctx)
}

// containerd is one of the test's own, which can be killed and started again.
type containerd struct {
	localNode
	bin, dir string
	daemon   *exec.Cmd
}

func startContainerd(t *testing.T, bin string) localNode { return newContainerd(t, bin, 0).localNode }

// newContainerd starts one, on a disk of its own of that many bytes if they are not 0.
func newContainerd(t *testing.T, bin string, disk int) *containerd {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctrd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if disk > 0 {
		if err := syscall.Mount("tmpfs", root, "tmpfs", 0, fmt.Sprintf("size=%d", disk)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = syscall.Unmount(root, syscall.MNT_DETACH) })
	}
	c := &containerd{localNode: localNode{filepath.Join(bin, "ctr"), filepath.Join(dir, "c.sock")}, bin: bin, dir: dir}
	writeFile(t, filepath.Join(dir, "config.toml"), fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = %q
`, root, filepath.Join(dir, "state"), c.socket))
	t.Cleanup(func() {
		c.stop(syscall.SIGTERM)
		if t.Failed() {
			if raw, err := os.ReadFile(filepath.Join(dir, "log")); err == nil {
				t.Logf("containerd said:\n%s", raw[max(0, len(raw)-20000):])
			}
		}
	})
	c.start(t)
	return c
}

func (c *containerd) start(t *testing.T) {
	t.Helper()
	logs, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	c.daemon = exec.Command(filepath.Join(c.bin, "containerd"), "--config", filepath.Join(c.dir, "config.toml"))
	c.daemon.Stdout, c.daemon.Stderr = logs, logs
	c.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.daemon.Start(); err != nil {
		t.Fatal(err)
	}
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if last = c.Exec(t.Context(), nil, nil, "ctr", "version"); last == nil {
			return
		}
	}
	t.Fatalf("containerd does not answer: %v", last)
}

func (c *containerd) stop(s syscall.Signal) {
	_ = c.daemon.Process.Signal(s)
	_ = c.daemon.Wait() // how it ends is no matter
}

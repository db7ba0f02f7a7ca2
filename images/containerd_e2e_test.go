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
	"syscall"
	"testing"
	"time"

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

type localNode struct{ ctr, socket string }

func (n localNode) Name() string { return "local" }

func (n localNode) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	if argv[0] != "ctr" {
		return run.Cmd{Argv: argv, Stdin: stdin, Stdout: stdout}.Run(ctx)
	}
	return run.Cmd{Argv: slices.Concat([]string{n.ctr, "--address", n.socket}, argv[1:]), Stdin: stdin, Stdout: stdout}.Run(ctx)
}

func startContainerd(t *testing.T, bin string) localNode {
	t.Helper()
	dir, err := os.MkdirTemp("", "ctrd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	node := localNode{filepath.Join(bin, "ctr"), filepath.Join(dir, "c.sock")}
	writeFile(t, filepath.Join(dir, "config.toml"), fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), node.socket))
	logs, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(filepath.Join(bin, "containerd"), "--config", filepath.Join(dir, "config.toml"))
	daemon.Stdout, daemon.Stderr = logs, logs
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		daemon.Process.Signal(syscall.SIGTERM)
		daemon.Wait()
		logs.Close()
		if t.Failed() {
			if raw, err := os.ReadFile(logs.Name()); err == nil {
				t.Logf("containerd said:\n%s", raw)
			}
		}
	})
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if last = node.Exec(t.Context(), nil, nil, "ctr", "version"); last == nil {
			return node
		}
	}
	t.Fatalf("containerd does not answer: %v", last)
	return node
}

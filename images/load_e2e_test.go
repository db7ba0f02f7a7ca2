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

// TestLoadConformanceContainerd runs a containerd of its own, apart from any other on
// this machine. It needs root, and containerd and ctr in PATH or in the folder
// that E2E_CONTAINERD_DIR names.
func TestLoadConformanceContainerd(t *testing.T) {
	for _, snapshotter := range []string{"", "native"} {
		t.Run("snapshotter "+snapshotter, func(t *testing.T) {
			loadConformance(t, startContainerd(t), LoadConfig{Snapshotter: snapshotter})
		})
	}
}

// TestLoadAfterRealGarbageCollection removes a layer's content on the node behind
// containerd's image store, and loads again.
func TestLoadAfterRealGarbageCollection(t *testing.T) {
	node := startContainerd(t)
	cfg := LoadConfig{}
	img := mustPut(t, openTestCache(t), "k", testImage(t, Zstd, "base", "top"))
	_, _, layers := parts(t, img)
	for i := range 2 {
		if _, err := Load(t.Context(), []Node{node}, []NamedImage{{"gc:v1", img}}, cfg); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			if err := node.Exec(t.Context(), nil, nil, "ctr", "--namespace", "k8s.io", "content", "rm", layers[0].String()); err != nil {
				t.Fatal(err)
			}
		}
	}
	states, err := (ctr{namespace: "k8s.io"}).check(t.Context(), node, []wantedImage{{name: "docker.io/library/gc:v1"}})
	if err != nil || !states["docker.io/library/gc:v1"].complete {
		t.Errorf("%+v, %v", states, err)
	}
}

type localNode struct{ ctr, socket string }

func (n localNode) Name() string { return "local" }

func (n localNode) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	return run.Cmd{Argv: slices.Concat([]string{n.ctr, "--address", n.socket}, argv[1:]), Stdin: stdin, Stdout: stdout}.Run(ctx)
}

func startContainerd(t *testing.T) localNode {
	t.Helper()
	program := func(name string) string {
		if dir := os.Getenv("E2E_CONTAINERD_DIR"); dir != "" {
			return filepath.Join(dir, name)
		}
		p, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	dir, err := os.MkdirTemp("", "ctrd") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	node := localNode{program("ctr"), filepath.Join(dir, "c.sock")}
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
	daemon := exec.Command(program("containerd"), "--config", filepath.Join(dir, "config.toml"))
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

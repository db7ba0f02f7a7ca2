//go:build e2e

package kindx_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/kindx"
)

const e2eCluster = "kindx-e2e"

// smallConfig is a cluster of one node with an image that cannot be one: kind
// waits for it in vain while it waits, and fails when it ends.
func smallConfig(t *testing.T, does string) kindx.Config {
	t.Helper()
	if _, err := kindx.EnsureEngine(t.Context(), engineConfig(t)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return kindx.Config{
		Name: e2eCluster, Image: tinyImage(t, does), StateDir: filepath.Join(dir, "state"), Kubeconfig: filepath.Join(dir, "kubeconfig"),
		OnEvent: func(e kindx.Event) { t.Log(e) },
	}
}

func wantNoCluster(t *testing.T) {
	t.Helper()
	if nodes, err := kindx.Nodes(t.Context(), e2eCluster); !errors.Is(err, kindx.ErrNotFound) {
		t.Errorf("left nodes %v, %v", nodes, err)
	}
}

func TestE2EInterruptedCreationLeavesNothing(t *testing.T) {
	cfg := smallConfig(t, "wait")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	appeared := make(chan bool, 1)
	go func() {
		defer cancel()
		for ctx.Err() == nil {
			if nodes, err := kindx.Nodes(ctx, e2eCluster); err == nil && len(nodes) == 1 {
				appeared <- true
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	_, err := kindx.Ensure(ctx, cfg)
	cancel()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(appeared) != 1 {
		t.Error("the node never was there, so nothing was interrupted")
	}
	wantNoCluster(t)
	if left, err := filepath.Glob(filepath.Join(cfg.StateDir, "*.unfinished")); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestE2EFailedCreationLeavesLogs(t *testing.T) {
	cfg := smallConfig(t, "end")
	cfg.LogDir = t.TempDir()
	_, err := kindx.Ensure(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), e2eCluster) {
		t.Fatalf("an image that is no node: %v", err)
	}
	t.Log(err)
	wantNoCluster(t)
	logs, err := os.ReadDir(filepath.Join(cfg.LogDir, e2eCluster))
	if err != nil || len(logs) == 0 {
		t.Errorf("logs %v, %v", logs, err)
	}
}

func TestE2EForeignClusterIsLeftAlone(t *testing.T) {
	cfg := smallConfig(t, "wait")
	node := e2eCluster + "-control-plane"
	docker(t.Context(), t, "run", "-d", "--name", node, "--label", "io.x-k8s.kind.cluster="+e2eCluster, "--label", "io.x-k8s.kind.role=control-plane", cfg.Image)
	t.Cleanup(func() {
		if err := kindx.Delete(context.WithoutCancel(t.Context()), e2eCluster, cfg); err != nil {
			t.Error(err)
		}
	})
	for _, stopped := range []bool{false, true} {
		if stopped {
			docker(t.Context(), t, "stop", node)
		}
		if _, err := kindx.Ensure(t.Context(), cfg); !errors.Is(err, kindx.ErrNotOurs) {
			t.Errorf("stopped %v: %v", stopped, err)
		}
	}
	if _, err := kindx.REST(t.Context(), e2eCluster); err == nil || !strings.Contains(err.Error(), "exited") {
		t.Errorf("a stopped cluster: %v", err)
	}
	nodes, err := kindx.Nodes(t.Context(), e2eCluster)
	if err != nil || len(nodes) != 1 || nodes[0].Name() != node || nodes[0].Role() != "control-plane" {
		t.Fatalf("nodes %v, %v", nodes, err)
	}
	if err := nodes[0].Exec(t.Context(), nil, nil, "/tiny"); err == nil || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("exec must tell what docker said: %v", err)
	}
	for range 2 {
		if err := kindx.Delete(t.Context(), e2eCluster, cfg); err != nil {
			t.Error(err)
		}
	}
	wantNoCluster(t)
}

func TestE2ENothingIsMadeForABadConfig(t *testing.T) {
	good := smallConfig(t, "wait")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port, image := good, good
	port.PortMappings = []kindx.PortMapping{{HostPort: l.Addr().(*net.TCPAddr).Port, NodePort: 80}}
	image.Image = "127.0.0.1:1/no/such:image" // a port on which nobody listens
	for want, cfg := range map[string]kindx.Config{"address already in use": port, "cannot be pulled": image} {
		_, err := kindx.Ensure(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		wantNoCluster(t)
	}
}

func TestE2EPreflight(t *testing.T) {
	if _, err := kindx.EnsureEngine(t.Context(), engineConfig(t)); err != nil {
		t.Fatal(err)
	}
	findings, err := kindx.Preflight(t.Context(), kindx.PreflightConfig{Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Log(f)
	}
	if err := kindx.Failures(findings); err != nil {
		t.Error(err)
	}
}

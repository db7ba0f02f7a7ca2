//go:build e2e

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/kindx"
)

// compile builds a program out of a module of this repository, by its folder from the repository's root.
func compile(t *testing.T, module, program, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "-C", filepath.Join("..", "..", module), "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", out, program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", program, err, said)
	}
}

// startNerdctl has the command nerdctl, until the test ends, speak to a containerd of the test's
// own, apart from any other on this machine.
func startNerdctl(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("a containerd of the test's own needs root")
	}
	dir, err := os.MkdirTemp("", "nerdctl") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	began := time.Now()
	compile(t, "internal/nerdctl", "github.com/containerd/nerdctl/v2/cmd/nerdctl", filepath.Join(dir, "nerdctl"))
	t.Logf("nerdctl built in %s", time.Since(began).Round(time.Second))
	var programs []sourcetest.File
	// The node's runc is the one that starts privileged containers where CAP_SYS_RESOURCE is missing.
	for _, path := range []string{"/usr/local/bin/containerd", "/usr/local/bin/ctr", "/usr/local/bin/containerd-shim-runc-v2", "/usr/local/sbin/runc"} {
		programs = append(programs, sourcetest.File{Image: nodeImage, Path: path})
	}
	bin := sourcetest.Binaries(t, programs...)
	runc := filepath.Join(sourcetest.Binaries(t, sourcetest.File{Image: nodeImage, Path: "/usr/sbin/runc"}), "runc")

	const namespace = "load-e2e-nerdctl"
	t.Cleanup(func() {
		// What runc and its shim make for a namespace and leave, empty, behind its last container.
		left, _ := filepath.Glob("/sys/fs/cgroup/*/" + namespace)
		for _, folder := range append(left, "/sys/fs/cgroup/"+namespace, "/run/containerd/runc/"+namespace) {
			if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	})
	socket, config := filepath.Join(dir, "c.sock"), filepath.Join(dir, "containerd.toml")
	for file, text := range map[string]string{
		config: fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), socket),
		filepath.Join(dir, "nerdctl.toml"): fmt.Sprintf(`data_root = %q
cni_path = %q
cni_netconfpath = %q
cgroup_manager = "cgroupfs"
`, filepath.Join(dir, "data"), filepath.Join(dir, "cni"), filepath.Join(dir, "net.d")),
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Setenv("OCI_SHIM_RUNC", runc)
	t.Setenv("NERDCTL_TOML", filepath.Join(dir, "nerdctl.toml"))
	t.Setenv("CONTAINERD_ADDRESS", socket)
	t.Setenv("CONTAINERD_NAMESPACE", namespace)
	t.Setenv("CONTAINERD_SNAPSHOTTER", "overlayfs")

	said, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	daemon := exec.Command(filepath.Join(bin, "containerd"), "--config", config)
	daemon.Stdout, daemon.Stderr = said, said
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Signal(syscall.SIGTERM)
		_ = daemon.Wait() // how it ends is no matter
		if t.Failed() {
			raw, _ := os.ReadFile(said.Name())
			t.Logf("containerd said:\n%s", raw[max(0, len(raw)-20000):])
		}
	})
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if last = exec.CommandContext(t.Context(), "nerdctl", "ps").Run(); last == nil {
			return
		}
	}
	t.Fatalf("nerdctl ps against the test's containerd: %v", last)
}

// A node in nerdctl, and images of nerdctl's.
func TestNerdctl(t *testing.T) {
	startNerdctl(t)
	uname := filepath.Join(t.TempDir(), "uname")
	compile(t, ".", "./examples/load/testdata/uname", uname)
	f, err := images.FileFromDisk("bin/uname", uname)
	if err != nil {
		t.Fatal(err)
	}
	p := startProviderNode(t, kindx.Nerdctl, nil, f)
	first, _ := p.loadImages(t)
	p.loadArchive(t, "v3")
	p.loadSeveral(t)
	p.loadIndex(t)

	for want, args := range map[int][]string{
		noSource:  {p.ref("none"), "--name", p.cluster()},
		noCluster: {p.ref("v1"), "--name", "load-none"},
	} {
		var out, errs bytes.Buffer
		code := run(t.Context(), append([]string{"docker-image", "--provider", "nerdctl"}, args...), none, &out, &errs)
		said := map[int]string{noSource: "no such image", noCluster: "there is " + p.cluster()}[want]
		if code != want || !strings.Contains(errs.String(), said) {
			t.Errorf("%q: exit code %d, want %d and %q: %s", args, code, want, said, &errs)
		}
	}
	p.isNotOurs(t)
	p.has(t, p.ref("v1"), first)
	cfg := p.config(t)
	if err := kindx.Delete(t.Context(), p.cluster(), cfg); err != nil {
		t.Error(err)
	}
	if _, err := kindx.NodesOf(t.Context(), p.cluster(), cfg); !errors.Is(err, kindx.ErrNotFound) {
		t.Errorf("nodes of what is deleted: %v", err)
	}
}

// loadIndex loads an image for two platforms of which nerdctl has taken this machine's, as it
// does of whatever it pulls.
func (p provider) loadIndex(t *testing.T) {
	t.Helper()
	here, elsewhere := testImage(t, "here"), testImage(t, "elsewhere")
	other := "arm64"
	if runtime.GOARCH == other {
		other = "amd64"
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: elsewhere, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: other}}},
		mutate.IndexAddendum{Add: here, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	dir, file, ref := t.TempDir(), filepath.Join(t.TempDir(), "index.tar"), p.ref("index")
	l, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AppendIndex(index, layout.WithAnnotations(map[string]string{"io.containerd.image.name": ref})); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-cf", file, ".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	p.do(t, "load", "--input", file)
	t.Cleanup(func() { p.undo(t, "rmi", ref) })
	if said := p.load(t, "docker-image", ref); !strings.Contains(said, "already there 0 B") {
		t.Errorf("an index: %s", said)
	}
	p.has(t, ref, here)
	if said := p.load(t, "docker-image", ref); strings.Contains(said, "save") || !strings.Contains(said, "sent 0 B") {
		t.Errorf("an index that is there: %s", said)
	}
	p.do(t, "save", "--output", file, ref)
	if said := p.load(t, "image-archive", file); !strings.Contains(said, "sent 0 B") {
		t.Errorf("an archive of the index that is there: %s", said)
	}
}

func (p provider) config(t *testing.T) kindx.Config {
	return kindx.Config{
		Name: p.cluster(), Provider: p.name, Image: nodeImage,
		Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), StateDir: filepath.Join(t.TempDir(), "state"),
	}
}

// isNotOurs wants the node left alone by what makes clusters, whether it runs or not, and then
// one that is marked as made with other settings.
func (p provider) isNotOurs(t *testing.T) {
	t.Helper()
	cfg := p.config(t)
	for _, stopped := range []bool{false, true} {
		if stopped {
			p.do(t, "stop", "--time", "1", p.node.Name())
		}
		if _, err := kindx.Ensure(t.Context(), cfg); !errors.Is(err, kindx.ErrNotOurs) {
			t.Errorf("stopped %v: %v", stopped, err)
		}
	}
	marked := filepath.Join(t.TempDir(), "kind")
	if err := os.Mkdir(marked, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(marked, "precinct-config.json"), []byte(`{"format": 999}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.do(t, "cp", marked, p.node.Name()+":/")
	if _, err := kindx.Ensure(t.Context(), cfg); !differsBy(err, "format") {
		t.Errorf("a cluster of other settings: %v", err)
	}
	p.do(t, "start", p.node.Name())
}

func differsBy(err error, field string) bool {
	m, ok := errors.AsType[*kindx.MismatchError](err)
	return ok && len(m.Differences) == 1 && m.Differences[0].Field == field
}

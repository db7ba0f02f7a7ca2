//go:build e2e

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/kindx"
)

const podmanCluster = "load-e2e-podman"

func podman(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "podman", args...).CombinedOutput(); err != nil {
		t.Fatalf("podman %q: %v: %s", args, err, out)
	}
}

// startPodmanNode runs the programs of a node that images go through, and no Kubernetes, in a
// container with kind's labels. It goes with the test.
func startPodmanNode(t *testing.T) *kindx.Node {
	t.Helper()
	ctx := t.Context()
	if _, err := exec.LookPath("podman"); err != nil {
		t.Fatalf("%v: `make packages` installs it", err)
	}
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	// Podman has containers started by what starts Docker's: on a machine that lacks
	// CAP_SYS_RESOURCE, which --privileged asks for, that is a runtime which does without.
	if _, err := kindx.EnsureEngine(ctx, kindx.EngineConfig{StateDir: filepath.Join(base, "spire-vault-99", "engine")}); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx, "docker", "info", "--format", "{{(index .Runtimes .DefaultRuntime).Path}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	var files []images.File
	var binaries []sourcetest.File
	programs := []string{"containerd", "ctr", "crictl"}
	for _, name := range programs {
		binaries = append(binaries, sourcetest.File{Image: nodeImage, Path: "/usr/local/bin/" + name})
	}
	dir := sourcetest.Binaries(t, binaries...)
	for _, name := range programs {
		f, err := images.FileFromDisk("bin/"+name, filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	l, err := images.Layer(files, images.Uncompressed)
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.New(v1.ConfigFile{Config: v1.Config{Entrypoint: []string{"/bin/containerd"}, Env: []string{"PATH=/bin"}}}, l)
	if err != nil {
		t.Fatal(err)
	}
	ref := repository + "/node:v1"
	if err := images.LoadEngine(ctx, images.NamedImage{Ref: ref, Image: img}, images.LoadConfig{Engine: "podman"}); err != nil {
		t.Fatal(err)
	}
	name := podmanCluster + "-control-plane"
	remove := func() {
		ctx := context.WithoutCancel(ctx)
		// One that an earlier run left, or none.
		_ = exec.CommandContext(ctx, "podman", "rm", "--force", "--volumes", name).Run()
	}
	remove()
	t.Cleanup(func() {
		remove()
		_ = exec.CommandContext(context.WithoutCancel(ctx), "podman", "rmi", ref).Run()
	})
	// Its own limits are 2^20, which not every machine allows; these are enough here.
	podman(t, "--runtime", strings.TrimSpace(string(out)), "run", "--detach", "--name", name, "--privileged", "--network", "none",
		"--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096",
		"--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", "/var/lib/containerd",
		"--label", "io.x-k8s.kind.cluster="+podmanCluster, "--label", "io.x-k8s.kind.role=control-plane", ref)
	nodes, err := kindx.NodesOf(ctx, podmanCluster, kindx.Config{Provider: kindx.Podman})
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if last = nodes[0].Exec(ctx, nil, nil, "crictl", "version"); last == nil {
			return nodes[0]
		}
	}
	t.Fatalf("containerd does not answer in the container: %v", last)
	return nil
}

// A node in podman, and images of podman's.
func TestE2ELoadPodman(t *testing.T) {
	node := startPodmanNode(t)
	first, second := testImage(t, "base", "podman first"), testImage(t, "base", "podman second")
	app := map[string]v1.Image{repository + "/podman:v1": first, repository + "/podman:v2": second}
	for ref, img := range app {
		if err := images.LoadEngine(t.Context(), images.NamedImage{Ref: ref, Image: img}, images.LoadConfig{Engine: "podman"}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = exec.CommandContext(context.WithoutCancel(t.Context()), "podman", "rmi", ref).Run() })
	}
	// load returns what was told.
	load := func(args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(t.Context(), append(args, "--provider", "podman", "--name", podmanCluster), none, &out, &errs); code != loaded {
			t.Fatalf("%q: exit code %d: %s", args, code, &errs)
		}
		t.Logf("%q:\n%s", args, &errs)
		return errs.String()
	}
	has := func(ref string, img v1.Image) {
		t.Helper()
		want, err := img.ConfigName()
		if err != nil {
			t.Fatal(err)
		}
		var got string
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
			var out bytes.Buffer
			err = node.Exec(t.Context(), nil, &out, "crictl", "inspecti", "--output", "go-template", "--template", "{{.status.id}}", ref)
			if got = strings.TrimSpace(out.String()); err == nil && got == want.String() {
				return
			}
		}
		t.Errorf("the node has %q as %s, want %s (%v)", got, ref, want, err)
	}
	v1, v2 := repository+"/podman:v1", repository+"/podman:v2"
	if said := load("docker-image", v1); !strings.Contains(said, "already there 0 B") {
		t.Errorf("cold: %s", said)
	}
	has(v1, first)
	if said := load("docker-image", v1); strings.Contains(said, "save") || !strings.Contains(said, "sent 0 B") {
		t.Errorf("there already: %s", said)
	}
	// The layer that both have is not sent again.
	if said := load("docker-image", v2); strings.Contains(said, "already there 0 B") || strings.Contains(said, "sent 0 B") {
		t.Errorf("changed: %s", said)
	}
	has(v2, second)

	// Both formats that podman writes, and several images in one.
	for _, format := range []string{"docker-archive", "oci-archive"} {
		t.Run(format, func(t *testing.T) {
			ref := repository + "/podman:" + format
			podman(t, "tag", v1, ref)
			t.Cleanup(func() { _ = exec.CommandContext(context.WithoutCancel(t.Context()), "podman", "rmi", ref).Run() })
			file := filepath.Join(t.TempDir(), "a.tar")
			podman(t, "save", "--format", format, "--output", file, ref)
			load("image-archive", file)
			// Podman writes a config of its own for its OCI format: the file says which.
			a, err := images.OpenArchive(t.Context(), file, images.SourceConfig{})
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			has(ref, a.Images[0].Image)
		})
	}
	several := filepath.Join(t.TempDir(), "several.tar")
	podman(t, "save", "--multi-image-archive", "--output", several, v1, v2)
	if said := load("image-archive", several); !strings.Contains(said, "sent 0 B") {
		t.Errorf("an archive of what is there: %s", said)
	}
}

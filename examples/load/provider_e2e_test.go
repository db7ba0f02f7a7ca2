//go:build e2e

package main

import (
	"context"
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

// provider is a container engine other than Docker, with a node in it.
type provider struct {
	name kindx.Provider
	node *kindx.Node
}

func (p provider) cluster() string       { return "load-e2e-" + string(p.name) }
func (p provider) ref(tag string) string { return repository + "/" + string(p.name) + ":" + tag }

// do has the engine do something.
func (p provider) do(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), string(p.name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", p.name, args, err, out)
	}
}

// undo is do for what may not be there, when the test ends too.
func (p provider) undo(t *testing.T, args ...string) {
	_ = exec.CommandContext(context.WithoutCancel(t.Context()), string(p.name), args...).Run()
}

// put brings an image to the engine until the test ends.
func (p provider) put(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	if err := images.LoadEngine(t.Context(), images.NamedImage{Ref: ref, Image: img}, images.LoadConfig{Engine: string(p.name)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.undo(t, "rmi", ref) })
}

// startProviderNode runs the programs of a node that images go through, and no Kubernetes, in a
// container with kind's labels. It goes with the test. The flags are the engine's own; more files
// go into the node beside the programs.
func startProviderNode(t *testing.T, name kindx.Provider, flags []string, more ...images.File) provider {
	t.Helper()
	ctx := t.Context()
	p := provider{name: name}
	files := more
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
	p.put(t, ref, img)
	container := p.cluster() + "-control-plane"
	remove := func() { p.undo(t, "rm", "--force", "--volumes", container) }
	remove() // what an earlier run left
	t.Cleanup(remove)
	// The engine's own limits are 2^20, which not every machine allows; these are enough here.
	p.do(t, append(flags, "run", "--detach", "--name", container, "--privileged", "--network", "none",
		"--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096",
		"--tmpfs", "/run", "--tmpfs", "/tmp", "--volume", "/var/lib/containerd",
		"--label", "io.x-k8s.kind.cluster="+p.cluster(), "--label", "io.x-k8s.kind.role=control-plane", ref)...)
	nodes, err := kindx.NodesOf(ctx, p.cluster(), kindx.Config{Provider: name})
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 1 || nodes[0].Name() != container || nodes[0].Role() != "control-plane" {
		t.Fatalf("the nodes are %+v, want %s alone", nodes, container)
	}
	p.node = nodes[0]
	var last error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
		if last = p.node.Exec(ctx, nil, nil, "crictl", "version"); last == nil {
			return p
		}
	}
	t.Fatalf("containerd does not answer in the container: %v", last)
	return p
}

// load runs the program and returns what it told.
func (p provider) load(t *testing.T, args ...string) string {
	t.Helper()
	return runLoad(t, loaded, append(args, "--provider", string(p.name), "--name", p.cluster())...)
}

func (p provider) has(t *testing.T, ref string, img v1.Image) {
	t.Helper()
	nodeHas(t, p.node, ref, img)
}

// loadImages loads two images of the engine's, which stay in it under the tags v1 and v2.
func (p provider) loadImages(t *testing.T) (first, second v1.Image) {
	t.Helper()
	first, second = testImage(t, "base", string(p.name)+" first"), testImage(t, "base", string(p.name)+" second")
	p.put(t, p.ref("v1"), first)
	p.put(t, p.ref("v2"), second)
	if said := p.load(t, "docker-image", p.ref("v1")); !strings.Contains(said, "already there 0 B") {
		t.Errorf("cold: %s", said)
	}
	p.has(t, p.ref("v1"), first)
	if said := p.load(t, "docker-image", p.ref("v1")); strings.Contains(said, "save") || !strings.Contains(said, "sent 0 B") {
		t.Errorf("there already: %s", said)
	}
	// The layer that both have is not sent again.
	if said := p.load(t, "docker-image", p.ref("v2")); strings.Contains(said, "already there 0 B") || strings.Contains(said, "sent 0 B") {
		t.Errorf("changed: %s", said)
	}
	p.has(t, p.ref("v2"), second)
	return first, second
}

// loadArchive loads what the engine saves of v1 under a tag of its own, which the file describes.
func (p provider) loadArchive(t *testing.T, tag string, save ...string) {
	t.Helper()
	ref := p.ref(tag)
	p.do(t, "tag", p.ref("v1"), ref)
	t.Cleanup(func() { p.undo(t, "rmi", ref) })
	file := filepath.Join(t.TempDir(), "a.tar")
	p.do(t, append(append([]string{"save"}, save...), "--output", file, ref)...)
	p.load(t, "image-archive", file)
	// Podman writes a config of its own for its OCI format: the file says which.
	a, err := images.OpenArchive(t.Context(), file, images.SourceConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	p.has(t, ref, a.Images[0].Image)
}

// loadSeveral loads one archive of the two images, which the node has.
func (p provider) loadSeveral(t *testing.T, save ...string) {
	t.Helper()
	several := filepath.Join(t.TempDir(), "several.tar")
	p.do(t, append(append([]string{"save"}, save...), "--output", several, p.ref("v1"), p.ref("v2"))...)
	if said := p.load(t, "image-archive", several); !strings.Contains(said, "sent 0 B") {
		t.Errorf("an archive of what is there: %s", said)
	}
}

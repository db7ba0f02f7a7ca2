//go:build e2e

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource"
	"github.com/org/spire-vault-99-action/kindx"
)

const (
	cluster    = "load-e2e"
	nodeImage  = "kindest/node:v1.37.2"
	repository = "zerotrust.local/load-e2e"
)

// startNode makes a cluster of one node, without a network, which goes with the test.
func startNode(t *testing.T) *kindx.Node {
	t.Helper()
	ctx := t.Context()
	base, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	base = filepath.Join(base, "spire-vault-99")
	if _, err := kindx.EnsureEngine(ctx, kindx.EngineConfig{StateDir: filepath.Join(base, "engine")}); err != nil {
		t.Fatal(err)
	}
	cache, err := images.OpenCache(filepath.Join(base, "images"))
	if err != nil {
		t.Fatal(err)
	}
	source, err := fromsource.New(ctx, fromsource.Config{Dir: filepath.Join(base, "fromsource"), Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	built, err := source.Images(ctx, nodeImage)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.LoadEngine(ctx, images.NamedImage{Ref: nodeImage, Image: built[nodeImage]}, images.LoadConfig{}); err != nil {
		t.Fatal(err)
	}
	cfg := kindx.Config{
		Name: cluster, Image: nodeImage, DisableDefaultCNI: true, KubeProxyMode: "none",
		Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), StateDir: filepath.Join(t.TempDir(), "state"), Recreate: true,
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		if err := kindx.Delete(ctx, cluster, cfg); err != nil {
			t.Error(err)
		}
	})
	if _, err := kindx.Ensure(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	nodes, err := kindx.Nodes(ctx, cluster)
	if err != nil {
		t.Fatal(err)
	}
	return nodes[0]
}

func testImage(t *testing.T, texts ...string) v1.Image {
	t.Helper()
	var layers []v1.Layer
	for _, text := range texts {
		l, err := images.Layer([]images.File{images.FileFromBytes(text, 0o644, []byte(strings.Repeat(text, 10_000)))}, images.Gzip)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	img, err := images.New(v1.ConfigFile{}, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func docker(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "docker", args...).CombinedOutput(); err != nil {
		t.Fatalf("docker %q: %v: %s", args, err, out)
	}
}

func TestE2ELoad(t *testing.T) {
	node := startNode(t)
	dir := t.TempDir()
	first, second := testImage(t, "base", "first"), testImage(t, "base", "second")
	for ref, img := range map[string]v1.Image{repository + "/app:latest": first, repository + "/app:v2": second} {
		if err := images.LoadEngine(t.Context(), images.NamedImage{Ref: repository + "/app:v0", Image: img}, images.LoadConfig{}); err != nil {
			t.Fatal(err)
		}
		docker(t, "tag", repository+"/app:v0", ref)
		t.Cleanup(func() {
			_ = exec.CommandContext(context.WithoutCancel(t.Context()), "docker", "rmi", ref, repository+"/app:v0").Run()
		})
	}
	load := func(want int, args ...string) string {
		t.Helper()
		return runLoad(t, want, args...)
	}
	has := func(ref string, img v1.Image) {
		t.Helper()
		nodeHas(t, node, ref, img)
	}
	name := []string{"--name", cluster}

	// Out of the engine: sent, there already, and under a second name.
	load(loaded, append([]string{"docker-image", repository + "/app"}, name...)...)
	has(repository+"/app:latest", first)
	if said := load(loaded, append(name, "docker-image", repository+"/app")...); strings.Contains(said, "save") || !strings.Contains(said, "sent 0 B") {
		t.Errorf("there already: %s", said)
	}
	docker(t, "tag", repository+"/app:latest", repository+"/app:v1")
	if said := load(loaded, append([]string{"docker-image", repository + "/app:v1", repository + "/app:v2", "--nodes", node.Name()}, name...)...); !strings.Contains(said, "save "+repository+"/app:v2 (docker)") {
		t.Errorf("a second name is saved: %s", said)
	}
	has(repository+"/app:v1", first)
	has(repository+"/app:v2", second)

	// An archive of two, and a layout.
	archive := filepath.Join(dir, "a.tar")
	docker(t, "tag", repository+"/app:v2", repository+"/app:v3")
	docker(t, "save", "--output", archive, repository+"/app:v1", repository+"/app:v3")
	if said := load(loaded, append([]string{"image-archive", archive}, name...)...); !strings.Contains(said, "sent 0 B") {
		t.Errorf("an archive of what is there: %s", said)
	}
	has(repository+"/app:v3", second)
	p, err := layout.Write(filepath.Join(dir, "layout"), empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.AppendImage(first); err != nil {
		t.Fatal(err)
	}
	if said := load(noSource, append([]string{"oci-layout", string(p)}, name...)...); !strings.Contains(said, "--ref") {
		t.Error(said)
	}
	load(loaded, append([]string{"oci-layout", string(p), "--ref", repository + "/app:v4", "--quiet"}, name...)...)
	has(repository+"/app:v4", first)

	// What cannot be.
	if said := load(noCluster, "docker-image", repository+"/app", "--name", "load-none"); !strings.Contains(said, cluster) {
		t.Errorf("it does not say which clusters there are: %s", said)
	}
	if said := load(noCluster, append([]string{"docker-image", repository + "/app", "--nodes", "load-none"}, name...)...); !strings.Contains(said, node.Name()) {
		t.Errorf("it does not say which nodes there are: %s", said)
	}
	load(noSource, append([]string{"docker-image", repository + "/none:v1"}, name...)...)
	load(noSource, append([]string{"image-archive", filepath.Join(dir, "layout", "index.json")}, name...)...)

	// The earlier tags go again; what the control plane runs on stays.
	nodes := []images.Node{node}
	pruned, err := images.Prune(t.Context(), nodes, repository, []string{repository + "/app:v4"}, images.LoadConfig{})
	want := []string{repository + "/app:latest", repository + "/app:v1", repository + "/app:v2", repository + "/app:v3"}
	if err != nil || !slices.Equal(pruned.Nodes[0].Removed, want) {
		t.Errorf("pruned %+v, %v, want %q", pruned, err, want)
	}
	has(repository+"/app:v4", first)
	if pruned, err = images.Prune(t.Context(), nodes, "registry.k8s.io/etcd", nil, images.LoadConfig{}); err != nil || len(pruned.Nodes[0].Removed) != 0 || len(pruned.Nodes[0].InUse) == 0 {
		t.Errorf("of a running container: %+v, %v", pruned, err)
	}

	// A node that is stopped.
	docker(t, "stop", "--time", "1", node.Name())
	if said := load(notLoaded, append([]string{"image-archive", archive}, name...)...); !strings.Contains(said, "load images into node "+node.Name()) || !strings.Contains(said, "not running") {
		t.Error(said)
	}
}

// runLoad runs the program and returns what it told.
func runLoad(t *testing.T, want int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, none, &out, &errs); code != want {
		t.Fatalf("%q: exit code %d, want %d: %s", args, code, want, &errs)
	}
	t.Logf("%q:\n%s", args, &errs)
	return errs.String()
}

// nodeHas waits until the kubelet's runtime has the image under the name.
func nodeHas(t *testing.T, node *kindx.Node, ref string, img v1.Image) {
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

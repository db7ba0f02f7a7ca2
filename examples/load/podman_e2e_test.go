//go:build e2e

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/kindx"
)

// podmanRuntime is the engine's flag for a runtime that starts privileged containers here.
func podmanRuntime(t *testing.T) []string {
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
	return []string{"--runtime", strings.TrimSpace(string(out))}
}

// A node in podman, and images of podman's.
func TestE2ELoadPodman(t *testing.T) {
	p := startProviderNode(t, kindx.Podman, podmanRuntime(t))
	p.loadImages(t)
	// Both formats that podman writes, and several images in one.
	for _, format := range []string{"docker-archive", "oci-archive"} {
		t.Run(format, func(t *testing.T) { p.loadArchive(t, format, "--format", format) })
	}
	p.loadSeveral(t, "--multi-image-archive")
}

//go:build e2e

package kindx_test

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/kindx"
)

func engineConfig(t *testing.T) kindx.EngineConfig {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return kindx.EngineConfig{
		StateDir: filepath.Join(cache, "spire-vault-99", "engine"),
		OnEvent:  func(e kindx.Event) { t.Log(e) },
	}
}

func TestE2EEnsureEngine(t *testing.T) {
	first, err := kindx.EnsureEngine(t.Context(), engineConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	second, err := kindx.EnsureEngine(t.Context(), engineConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if second.Installed || second.Started {
		t.Errorf("the second call did something again: %+v", second)
	}
	if first.Version == "" || first.Version != second.Version || first.Shim != second.Shim {
		t.Errorf("first %+v, then %+v", first, second)
	}
}

// What a cluster's nodes ask of the engine: all capabilities, a negative OOM
// score, and processes started later with the same rights.
func TestE2EPrivilegedContainer(t *testing.T) {
	if _, err := kindx.EnsureEngine(t.Context(), engineConfig(t)); err != nil {
		t.Fatal(err)
	}
	const name = "kindx-tiny-test"
	image := tinyImage(t, "wait")
	t.Cleanup(func() { docker(context.WithoutCancel(t.Context()), t, "rm", "-f", name) })

	allowed := regexp.MustCompile(`CapEff:\s*([0-9a-f]+)`)
	plain := allowed.FindString(docker(t.Context(), t, "run", "--rm", image, "/tiny"))
	privileged := allowed.FindString(docker(t.Context(), t, "run", "--rm", "--privileged", "--oom-score-adj=-500", image, "/tiny"))
	if plain == "" || privileged == "" || plain == privileged {
		t.Errorf("plain container %q, privileged %q", plain, privileged)
	}
	docker(t.Context(), t, "run", "-d", "--name", name, "--privileged", image, "/tiny", "wait")
	if later := allowed.FindString(docker(t.Context(), t, "exec", "--privileged", name, "/tiny")); later != privileged {
		t.Errorf("exec --privileged has %q, the container %q", later, privileged)
	}
	t.Log("plain", strings.Fields(plain)[1], "privileged", strings.Fields(privileged)[1])
}

func docker(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	out, err := run.Output(ctx, append([]string{"docker"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// tinyImage is an image with one static program, which waits or says what it may.
func tinyImage(t *testing.T, does string) string {
	t.Helper()
	image := "zerotrust.local/kindx-tiny:" + does
	err := run.Cmd{
		Argv:  []string{"docker", "import", "--change", `CMD ["/tiny", "` + does + `"]`, "-", image},
		Stdin: bytes.NewReader(tinyRootfs(t)),
	}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { docker(context.WithoutCancel(t.Context()), t, "rmi", "-f", image) })
	return image
}

// tinyRootfs is a tar with one static program.
func tinyRootfs(t *testing.T) []byte {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "tiny")
	build := run.Cmd{Argv: []string{"go", "build", "-o", bin, "./testdata/tiny"}, Env: append(os.Environ(), "CGO_ENABLED=0")}
	if err := build.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: "tiny", Mode: 0o755, Size: int64(len(program))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

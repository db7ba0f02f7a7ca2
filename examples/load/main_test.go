package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/kindx"
)

func none(string) string { return "" }

func TestParse(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"KIND_CLUSTER_NAME": "of-env", "KIND_EXPERIMENTAL_PROVIDER": "podman"}[name]
	}
	for _, tt := range []struct {
		args   string
		getenv func(string) string
		want   options
	}{
		{"docker-image a:1", none, options{what: "docker-image", sources: []string{"a:1"}, cluster: "kind", provider: kindx.Docker}},
		{"docker-image a:1 b:2 a:1 --name c --nodes c-worker,c-worker2", none, options{what: "docker-image", sources: []string{"a:1", "b:2"}, cluster: "c", nodes: []string{"c-worker", "c-worker2"}, provider: kindx.Docker}},
		{"docker-image --name=c a:1 --nodes=x --nodes y -q b:2", none, options{what: "docker-image", sources: []string{"a:1", "b:2"}, cluster: "c", nodes: []string{"x", "y"}, quiet: true, provider: kindx.Docker}},
		{"-n c image-archive f.tar --ref a:1", none, options{what: "image-archive", sources: []string{"f.tar"}, cluster: "c", ref: "a:1", provider: kindx.Docker}},
		{"oci-layout d", env, options{what: "oci-layout", sources: []string{"d"}, cluster: "of-env", provider: kindx.Podman}},
		{"oci-layout d -n c --provider nerdctl", env, options{what: "oci-layout", sources: []string{"d"}, cluster: "c", provider: kindx.Nerdctl}},
		{"image-archive a -q -- -odd.tar --name", none, options{what: "image-archive", sources: []string{"a", "-odd.tar", "--name"}, cluster: "kind", quiet: true, provider: kindx.Docker}},
	} {
		got, err := parse(strings.Fields(tt.args), tt.getenv)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(options{})); diff != "" || err != nil {
			t.Errorf("%s: %v %s", tt.args, err, diff)
		}
	}
	for args, want := range map[string]string{
		"":                                "what is to be loaded is missing",
		"image a:1":                       `"image" cannot be loaded: say docker-image`,
		"docker-image":                    "docker-image: name at least one",
		"docker-image --name":             "flag needs an argument",
		"docker-image a:1 --cluster c":    "not defined: -cluster",
		"docker-image a:1 b:1 --ref c:1":  "2 images cannot all be named so",
		"docker-image a:1 --provider lxc": `provider "lxc"`,
	} {
		_, err := parse(strings.Fields(args), none)
		f, ok := errors.AsType[failure](err)
		if !ok || f.code != badArguments || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "load --help") {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
	for _, args := range []string{"-h", "docker-image --help", "docker-image a:1 -help"} {
		if _, err := parse(strings.Fields(args), none); !errors.Is(err, flag.ErrHelp) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

func TestHelpAndBadArguments(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, none, &out, &errs); code != loaded || !strings.Contains(out.String(), "Examples:") || errs.Len() != 0 {
		t.Errorf("exit code %d, %q, %q", code, &out, &errs)
	}
	out.Reset()
	if code := run(t.Context(), nil, none, &out, &errs); code != badArguments || out.Len() != 0 || !strings.HasPrefix(errs.String(), "load: ") {
		t.Errorf("exit code %d, %q, %q", code, &out, &errs)
	}
}

// What cannot be read is told before a cluster is looked for.
func TestNoSource(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no engine
	noArchive := filepath.Join(t.TempDir(), "no.tar")
	if err := os.WriteFile(noArchive, []byte(strings.Repeat("no tar ", 200)), 0o644); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"docker-image a:1":               "docker",
		"image-archive /nonexistent.tar": "/nonexistent.tar",
		"image-archive " + noArchive:     "read it as a tar",
		"oci-layout " + t.TempDir():      "index.json",
	} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), strings.Fields(args), none, &out, &errs); code != noSource || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: exit code %d, %q", args, code, &errs)
		}
	}
}

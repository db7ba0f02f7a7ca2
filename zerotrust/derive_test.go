package zerotrust

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// The derived YAML is what users put under GitOps: it changes on purpose only.
func TestDerivedYAML(t *testing.T) {
	in := Precinct99()
	policies, err := Policies(in)
	golden(t, "policies.yaml", policies, err)
	manifests, err := Manifests(in, map[string]string{"frontend": "r/w:1", "backend": "r/w:1", "intruder": "r/w:2"})
	golden(t, "manifests.yaml", manifests, err)
	entries, err := Entries(in)
	var text string
	for _, e := range entries {
		text += e.String() + "\n"
	}
	golden(t, "entries.txt", []byte(text), err)
}

func TestManifestsNeedEveryImage(t *testing.T) {
	if _, err := Manifests(Precinct99(), map[string]string{"frontend": "r/w:1"}); err == nil {
		t.Error("a workload without an image was accepted")
	}
}

func golden(t *testing.T, name string, got []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", file, d)
	}
}

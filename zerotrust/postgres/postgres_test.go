package postgres

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestManifests(t *testing.T) {
	got, err := Manifests(Config{Database: "orders", StorageClass: "local"})
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/postgres.yaml"
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
	if strings.Contains(string(got), "POSTGRES_PASSWORD,") || strings.Contains(string(got), "kind: Secret") {
		t.Error("a password is in the manifests")
	}
}

func TestBadConfig(t *testing.T) {
	_, err := Manifests(Config{Database: `x"; DROP`, Name: "a b"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"Config.Database", `Config.Name "a b"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin: %v", want, err)
		}
	}
}

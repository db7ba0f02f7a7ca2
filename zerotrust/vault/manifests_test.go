package vault

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestManifests(t *testing.T) {
	base := Config{ID: spiffeid.RequireFromString("spiffe://demo.local/ns/vault/sa/vault"), UnsealerImage: "r/unsealer:1", StorageClass: "local"}
	bao := base
	bao.Flavor = OpenBao
	for name, cfg := range map[string]Config{"vault": base, "openbao": bao} {
		got, err := Manifests(cfg)
		if err != nil {
			t.Fatal(err)
		}
		file := "testdata/" + name + ".yaml"
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
}

func TestBadConfig(t *testing.T) {
	_, err := Manifests(Config{Flavor: "consul", Name: "a b", StorageSize: "1\n"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{`flavor "consul"`, "Config.ID is required", `Config.Name "a b"`, "Config.StorageSize", "Config.UnsealerImage"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin: %v", want, err)
		}
	}
}

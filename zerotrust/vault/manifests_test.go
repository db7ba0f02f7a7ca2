package vault

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/golden"
)

func TestManifests(t *testing.T) {
	base := Config{ID: spiffeid.RequireFromString("spiffe://demo.local/ns/vault/sa/vault"), UnsealerImage: "r/unsealer:1", Tunnels: settings().Tunnels(), StorageClass: "local"}
	bao := base
	bao.Flavor = OpenBao
	for name, cfg := range map[string]Config{"vault": base, "openbao": bao} {
		got, err := Manifests(cfg)
		if err != nil {
			t.Fatal(err)
		}
		golden.Equal(t, "testdata/"+name+".yaml", got)
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

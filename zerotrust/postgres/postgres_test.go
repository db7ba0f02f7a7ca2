package postgres

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/golden"
)

func TestManifests(t *testing.T) {
	got, err := Manifests(Config{Database: "orders", Admin: spiffeid.RequireFromString("spiffe://demo.local/ns/vault/sa/vault"), StorageClass: "local"})
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "testdata/postgres.yaml", got)
	if strings.Contains(string(got), "POSTGRES_PASSWORD,") || strings.Contains(string(got), "kind: Secret") {
		t.Error("a password is in the manifests")
	}
}

func TestBadConfig(t *testing.T) {
	_, err := Manifests(Config{Database: `x"; DROP`, Name: "a b"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"Config.Database", "Config.Admin is required", `Config.Name "a b"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("not told: %s\nin: %v", want, err)
		}
	}
}

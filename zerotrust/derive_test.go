package zerotrust

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/org/spire-vault-99-action/internal/golden"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// The derived YAML is what users put under GitOps: it changes on purpose only.
func TestDerivedYAML(t *testing.T) {
	in := Precinct99()
	policies, err := Policies(in)
	derived(t, "policies.yaml", policies, err)
	namespaces, err := Namespaces(in)
	derived(t, "namespaces.yaml", namespaces, err)
	manifests, err := Manifests(in, map[string]string{"frontend": "r/f:1", "backend": "r/b:1", "githubstub": "r/g:1", "intruder": "r/w:2"})
	derived(t, "manifests.yaml", manifests, err)
	storage, err := volumeManifests(volumes(in, []string{"worker", "worker2"}))
	derived(t, "storage.yaml", storage, err)
	entries, err := Entries(in)
	var text string
	for _, e := range entries {
		text += fmt.Sprintf("%s %v\n", e, e.DNSNames)
	}
	derived(t, "entries.txt", []byte(text), err)
	settings, err := VaultSettings(in)
	objects, jsonErr := json.MarshalIndent(vault.Objects(settings), "", "  ")
	derived(t, "vault.json", append(objects, '\n'), errors.Join(err, jsonErr))
	var cells string
	for _, c := range Matrix(in) {
		cells += fmt.Sprintf("%s allowed=%t authenticated=%t\n", c, c.Allowed, c.Authenticated)
	}
	derived(t, "matrix.txt", []byte(cells), nil)
}

func TestManifestsNeedEveryImage(t *testing.T) {
	if _, err := Manifests(Precinct99(), map[string]string{"frontend": "r/w:1"}); err == nil {
		t.Error("a workload without an image was accepted")
	}
}

// A pod that is told of an edge must be told of it as the policies have it.
func TestEnvironmentTellsTheEdges(t *testing.T) {
	in := Precinct99()
	for _, w := range in.applications() {
		env, err := Environment(in, w)
		if err != nil {
			t.Fatal(err)
		}
		var edges []reach
		if err := json.Unmarshal([]byte(env["EDGES"]), &edges); err != nil {
			t.Fatal(err)
		}
		allowed := 0
		for _, e := range edges {
			if e.Allowed {
				allowed++
			}
		}
		want := 0
		for _, e := range in.Edges {
			if e.From == w.Name {
				want++
			}
		}
		if allowed != want || len(edges) == 0 {
			t.Errorf("%s is told of %d allowed edges of %d; want %d", w.Name, allowed, len(edges), want)
		}
	}
	backend, _ := in.Workload("backend")
	if env, _ := Environment(in, backend); env["ALLOWED_CALLERS"] != "spiffe://demo.local/ns/99-apps/sa/frontend" {
		t.Errorf("backend's callers: %s", env["ALLOWED_CALLERS"])
	}
	backend.Env = map[string]string{"TRUST_DOMAIN": "mine"}
	if env, _ := Environment(in, backend); env["TRUST_DOMAIN"] != "mine" {
		t.Error("the workload's own Env does not come last")
	}
}

// derived compares what was derived with a golden file.
func derived(t *testing.T, name string, got []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, filepath.Join("testdata", name), got)
}

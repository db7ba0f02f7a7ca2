package main

import (
	"path/filepath"
	"testing"

	"github.com/org/spire-vault-99-action/internal/run"
)

// TestActionlint has the workflows and the recipes linted.
func TestActionlint(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../.github/workflows/*.yml", "../examples/workflows/*.yml"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %v, %v", pattern, found, err)
		}
		files = append(files, found...)
	}
	// Without shellcheck and pyflakes, so that the verdict is the same on every machine.
	argv := append([]string{"go", "run", "github.com/rhysd/actionlint/cmd/actionlint@v1.7.12", "-shellcheck=", "-pyflakes="}, files...)
	if out, err := run.Output(t.Context(), argv...); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/internal/run"
)

// TestShim runs the shim's own tests. They need node, as every runner has it, and never skip.
func TestShim(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal("the shim's tests need node: apt-get install nodejs, or https://nodejs.org")
	}
	out, err := run.Output(t.Context(), "node", "--test", "--test-reporter", "spec", filepath.Join("shim", "test", "shim.test.mjs"))
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// Everything that goes into the program goes into the shim's hash of it: an old program is
// never run for a changed source.
func TestSourceHashKnowsTheProgram(t *testing.T) {
	known, err := run.Output(t.Context(), "node", "--input-type=module", "-e",
		`import { filesOf } from "./shim/source.mjs"; console.log(filesOf("..").join("\n"))`)
	if err != nil {
		t.Fatal(err)
	}
	files := strings.Split(known, "\n")
	base, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	out, err := run.Output(t.Context(), "go", "list", "-deps", "-json=Dir,ImportPath,GoFiles,EmbedFiles,CgoFiles,SFiles", ".")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var p struct {
			Dir, ImportPath                       string
			GoFiles, EmbedFiles, CgoFiles, SFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ImportPath, module+"/") {
			continue
		}
		for _, f := range slices.Concat(p.GoFiles, p.EmbedFiles, p.CgoFiles, p.SFiles) {
			name, err := filepath.Rel(base, filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			seen++
			if !slices.Contains(files, filepath.ToSlash(name)) {
				t.Errorf("%s goes into the program, and not into the shim's hash", name)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d files were seen", seen)
	}
}

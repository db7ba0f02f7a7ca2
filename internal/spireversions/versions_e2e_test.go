//go:build e2e

package spireversions

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// suites are the tests that run SPIRE's programs out of the folder SPIRE_BIN_DIR.
var suites = []struct {
	pattern  string
	packages []string
	passed   []string
}{
	{"^TestE2E(RealServer|Entries|Kill)$", []string{"./spire", "./examples/entries"}, []string{"TestE2ERealServer", "TestE2EEntries", "TestE2EKill"}},
	// The rest of these need the OIDC discovery provider.
	{"^TestE2ERealServer$/^(admin_connection|output_of_fetch_x509)$", []string{"./spire/deploy"},
		[]string{"TestE2ERealServer/admin_connection", "TestE2ERealServer/output_of_fetch_x509"}},
}

// TestVersions builds each version, which takes many minutes the first time, and runs the
// tests of package spire, of its connection into a cluster and of the program entries
// against it.
func TestVersions(t *testing.T) {
	modules, err := filepath.Glob("v*/go.mod")
	if err != nil || len(modules) == 0 {
		t.Fatalf("no version is here: %v", err)
	}
	for _, module := range modules {
		folder := filepath.Dir(module)
		t.Run(folder, func(t *testing.T) {
			bin := build(t, folder)
			for _, s := range suites {
				cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-tags", "e2e", "-count=1", "-v", "-run", s.pattern}, s.packages...)...)
				cmd.Dir = filepath.Join("..", "..")
				cmd.Env = append(os.Environ(), "SPIRE_BIN_DIR="+bin)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("against SPIRE %s: %v\n%s", folder, err, out)
					continue
				}
				for _, name := range s.passed {
					passed := regexp.MustCompile(`(?m)^ *--- PASS: ` + regexp.QuoteMeta(name) + ` .*$`).Find(out)
					if passed == nil {
						t.Errorf("%s did not run:\n%s", name, out)
					}
					t.Logf("%s", bytes.TrimSpace(passed))
				}
			}
		})
	}
}

// build compiles the programs that the module in folder pins.
func build(t *testing.T, folder string) (bin string) {
	t.Helper()
	began := time.Now()
	bin = t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "-C", folder, "build", "-mod=readonly", "-trimpath", "-ldflags=-s -w",
		"-tags=netgo,osusergo,sqlite_omit_load_extension", "-o", bin+"/", "github.com/spiffe/spire/cmd/spire-server", "github.com/spiffe/spire/cmd/spire-agent")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1") // sqlite is C
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build SPIRE %s: %v\n%s", folder, err, out)
	}
	for _, program := range []string{"spire-server", "spire-agent"} {
		said, err := exec.CommandContext(t.Context(), filepath.Join(bin, program), "--version").CombinedOutput()
		if err != nil || !bytes.HasPrefix(said, []byte(strings.TrimPrefix(folder, "v"))) {
			t.Fatalf("%s of SPIRE %s says it is %q, %v", program, folder, said, err)
		}
	}
	t.Logf("SPIRE %s built in %s", folder, time.Since(began).Round(time.Second))
	return bin
}

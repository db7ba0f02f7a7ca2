package zerotrust

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/internal/run"
)

// own is an intent whose workload is a package of another module than this one.
const own = `
version: 1
name: team
trustDomain: team.example
workloads:
  - {name: hello, namespace: team, ports: [8080], package: ./cmd/hello}
  - {name: vault, namespace: secrets, ports: [8200], runs: vault}
edges:
  - {from: outside, to: hello, port: 8080}
`

// writeFiles makes files below a folder.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// An intent in a module of its own, which does not know this one, has its packages built there
// and the programs that prove it here. Whatever workspace the user works in counts for theirs alone.
func TestProgramsOfTwoModules(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{
		"go.work":                    "go 1.26.0\nuse (\n\t./team\n\t./greeting\n)\n",
		"greeting/go.mod":            "module example.org/greeting\n\ngo 1.26.0\n",
		"greeting/greeting.go":       "package greeting\n\nconst Text = \"hello from the team\"\n",
		"team/go.mod":                "module example.org/team\n\ngo 1.26.0\n\nrequire example.org/greeting v0.0.0\n",
		"team/cmd/hello/main.go":     "package main\n\nimport \"example.org/greeting\"\n\nfunc main() { println(greeting.Text) }\n",
		"team/deploy/zerotrust.yaml": own,
	})
	t.Setenv("GOWORK", filepath.Join(dir, "go.work"))
	file := filepath.Join(dir, "team", "deploy", "zerotrust.yaml")
	intent, err := ReadIntent(file)
	if err != nil {
		t.Fatal(err)
	}
	source, err := ModuleOf(file)
	if err != nil || source != filepath.Join(dir, "team") {
		t.Fatalf("the intent's module is in %q, %v", source, err)
	}
	s, err := New(t.Context(), Config{Intent: intent, Dir: t.TempDir(), SourceDir: source, ProgramsDir: "..", Images: images.SourceRegistry})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.buildPrograms(t.Context()); err != nil {
		t.Fatal(err)
	}
	for pkg, name := range map[string]string{"./cmd/hello": "hello", proberPackage: "prober", unsealerPackage: "unsealer"} {
		p, err := s.program(t.Context(), pkg)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(s.nodeImages(), p.ref) || !strings.HasPrefix(p.ref, "zerotrust.local/team/"+name+":") {
			t.Errorf("%s is %s, and the nodes get %q", pkg, p.ref, s.nodeImages())
		}
		img, found, err := s.cache.Get(p.ref)
		if err != nil || !found {
			t.Fatalf("%s is not in the cache: %v", p.ref, err)
		}
		text, err := fileOf(img, "app/"+name)
		if err != nil {
			t.Fatalf("%s: %v", p.ref, err)
		}
		if name != "hello" {
			continue
		}
		program := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(program, text, 0o700); err != nil { //nolint:gosec // it is to be run
			t.Fatal(err)
		}
		var said strings.Builder
		if err := (run.Cmd{Argv: []string{program}, Stderr: &said}).Run(t.Context()); err != nil || said.String() != "hello from the team\n" {
			t.Errorf("the team's program says %q, %v", said.String(), err)
		}
	}
	if refs, err := s.appImages(t.Context()); err != nil || len(refs) != 1 || !strings.HasPrefix(refs["hello"], "zerotrust.local/team/hello:") {
		t.Errorf("the applications' images are %v, %v", refs, err)
	}
}

// Without ProgramsDir everything is built in SourceDir; what cannot be built is told by package and folder.
func TestProgramsWithoutAPlace(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"go.mod": "module example.org/team\n\ngo 1.26.0\n", "zerotrust.yaml": own})
	intent, err := ReadIntent(filepath.Join(dir, "zerotrust.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(t.Context(), Config{Intent: intent, Dir: t.TempDir(), SourceDir: dir, Images: images.SourceRegistry})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, pkg := range []string{proberPackage, "./cmd/hello"} {
		if _, err := s.program(t.Context(), pkg); err == nil || !strings.Contains(err.Error(), pkg) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v", pkg, err)
		}
	}
}

func TestModuleOf(t *testing.T) {
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"a/go.mod": "module a\n", "a/b/c/f": "", "a/b/go.mod/f": ""})
	for file, want := range map[string]string{"a/f": "a", "a/b/c/f": "a", "a/b/f": "a", "f": ""} {
		if want != "" {
			want = filepath.Join(dir, want)
		}
		if got, err := ModuleOf(filepath.Join(dir, file)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", file, got, err, want)
		}
	}
	here, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ModuleOf("precinct99.yaml"); err != nil || got != here {
		t.Errorf("a file here: %q, %v; want %q", got, err, here)
	}
}

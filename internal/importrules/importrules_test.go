package importrules

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/internal/run"
)

const root = "../.."

// TestModule holds the module to its rules.
func TestModule(t *testing.T) {
	// go test takes a result from its cache unless a file that the test read, or a
	// folder that it listed, has changed. So all of them are read here; what `go list`
	// reads does not count.
	pkgs := packages(t)
	for _, wrong := range check(rules, pkgs) {
		t.Error(wrong)
	}
	var paths []string
	for _, p := range pkgs {
		paths = append(paths, p.path)
	}
	// The list would hold nothing if nothing were found.
	for _, want := range []string{"internal/run", "internal/kube", "zerotrust/phase", "zerotrust/report"} {
		if !slices.Contains(paths, want) {
			t.Errorf("package %s was not found among %q", want, paths)
		}
	}
}

func packages(t *testing.T) []pkg {
	t.Helper()
	// With the tag of the tests that need a container engine, so that a package of such
	// tests alone is listed too. The sources are read whatever their tags.
	out, err := run.Output(t.Context(), "go", "-C", root, "list", "-tags", "e2e", "-json=Dir,ImportPath,Deps", "./...")
	if err != nil {
		t.Fatal(err)
	}
	base, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	folders := goFolders(t)
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(out)); ; {
		var l struct {
			Dir, ImportPath string
			Deps            []string
		}
		if err := dec.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		dir, err := filepath.Rel(base, l.Dir)
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.ToSlash(dir)
		if l.ImportPath != module && l.ImportPath != module+"/"+dir {
			t.Errorf("package %s lies in %s: is the module's path still %s?", l.ImportPath, dir, module)
		}
		pkgs = append(pkgs, pkg{path: dir, deps: l.Deps, sources: folders[dir]})
		if len(folders[dir]) == 0 {
			t.Errorf("package %s has no sources in %s", l.ImportPath, l.Dir)
		}
		delete(folders, dir)
	}
	for dir := range folders {
		t.Errorf("the Go files of %s are in no package that go list tells of: give them a build tag that it is called with", dir)
	}
	return pkgs
}

// goFolders are the Go files of the module by folder, less what the go command ignores.
func goFolders(t *testing.T) map[string][]source {
	t.Helper()
	all := map[string][]source{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && p != root {
				return filepath.SkipDir // another module
			}
			return nil
		}
		if filepath.Ext(name) != ".go" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			return nil
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		dir = filepath.ToSlash(dir)
		all[dir] = append(all[dir], source{name, text})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCheckFinds shows that each rule finds what breaks it, and only that.
func TestCheckFinds(t *testing.T) {
	file := func(name string, lines ...string) source {
		return source{name, []byte("package p\n" + strings.Join(lines, "\n") + "\n")}
	}
	imports := func(own string) string { return `import _ "` + module + "/" + own + `"` }
	for _, tt := range []struct {
		what string
		p    pkg
		want string // "": nothing is wrong
	}{
		{"an unlisted package", pkg{path: "util"}, "util is not in the allow-list"},
		{"an unlisted package below a listed one", pkg{path: "spire/other"}, "spire/other is not in the allow-list"},
		{"a sibling", pkg{path: "cilium", sources: []source{file("a.go", imports("spire"))}}, "cilium/a.go:2: imports spire,"},
		{"a sibling, by a test", pkg{path: "cilium", sources: []source{file("a_test.go", imports("kindx"))}}, "imports kindx"},
		{"a sibling, by a file for another system", pkg{path: "cilium", sources: []source{file("a_windows.go", imports("spire"))}}, "imports spire"},
		{"upwards", pkg{path: "internal/kube", sources: []source{file("a.go", imports("zerotrust/phase"))}}, "imports zerotrust/phase"},
		{"the parent from below", pkg{path: "spire/deploy", sources: []source{file("a.go", imports("spire"))}}, ""},
		{"below from the parent", pkg{path: "spire", sources: []source{file("a.go", imports("spire/deploy"))}}, "imports spire/deploy"},
		{"what only tests may", pkg{path: "images", sources: []source{file("a.go", imports("kindx"))}}, "imports kindx"},
		{"a test what it may", pkg{path: "images", sources: []source{file("a_test.go", imports("kindx"), imports("images"), imports("internal/run"))}}, ""},
		{"a sibling's programs for a test", pkg{path: "spire/deploy", sources: []source{file("e2e_test.go", imports("images/fromsource/sourcetest"))}}, ""},
		{"a sibling's programs for what is no test", pkg{path: "spire/spiretest", sources: []source{file("a.go", imports("images/fromsource/sourcetest"))}}, "imports images/fromsource/sourcetest"},
		{"an example that looks inside", pkg{path: "examples/full", sources: []source{file("main.go", imports("internal/run"))}}, "imports internal/run"},
		{"an example that does not", pkg{path: "examples/a/b", sources: []source{file("main.go", imports("zerotrust/phase"), imports("kindx"))}}, ""},
		{"client-go in the build", pkg{path: "spire", deps: []string{"fmt", "k8s.io/client-go/rest"}}, "has k8s.io/client-go/rest in its build"},
		{"kind in the build of a sub-package", pkg{path: "images/fromsource", deps: []string{"sigs.k8s.io/kind/pkg/log"}}, "sigs.k8s.io/kind"},
		{"what merely begins alike", pkg{path: "images", deps: []string{"k8s.io/client-gopher", "sigs.k8s.io/kindly"}}, ""},
		{"more than the standard library", pkg{path: "zerotrust/phase", deps: []string{"golang.org/x/sync/errgroup"}}, "golang.org/x/sync"},
		{"the standard library", pkg{path: "zerotrust/phase", deps: []string{"fmt", "go/ast", module + "/zerotrust/phase"}}, ""},
		{"testing in a library", pkg{path: "kindx", sources: []source{file("a.go", `import "testing"`)}}, "imports testing"},
		{"testing in a library for tests", pkg{path: "spire/spiretest", sources: []source{file("a.go", `import "testing"`)}}, ""},
		{"a library that exits", pkg{path: "kindx", sources: []source{file("a.go", `import "os"`, "func f() { os.Exit(1) }")}}, "kindx/a.go:3: uses os.Exit"},
		{"by another name", pkg{path: "kindx", sources: []source{file("a.go", `import sys "os"`, "func f() { sys.Exit(1) }")}}, "uses os.Exit"},
		{"as a value", pkg{path: "kindx", sources: []source{file("a.go", `import "os"`, "var get = os.Getenv")}}, "uses os.Getenv"},
		{"a dot import", pkg{path: "kindx", sources: []source{file("a.go", `import . "fmt"`)}}, "fmt by a dot import"},
		{"a library that prints", pkg{path: "kindx", sources: []source{file("a.go", `import "fmt"`, `func f() { fmt.Println("x") }`)}}, "uses fmt.Println"},
		{"to stdout by name", pkg{path: "kindx", sources: []source{file("a.go", `import ("fmt"; "os")`, `func f() { fmt.Fprintln(os.Stdout) }`)}}, "uses os.Stdout"},
		{"that logs", pkg{path: "kindx", sources: []source{file("a.go", `import "log"`, `func f() { log.Printf("x") }`)}}, "uses log.Printf"},
		{"that logs the new way", pkg{path: "kindx", sources: []source{file("a.go", `import "log/slog"`, `func f() { slog.Info("x") }`)}}, "uses log/slog.Info"},
		{"by a builtin", pkg{path: "kindx", sources: []source{file("a.go", `func f() { println("x") }`)}}, "uses println"},
		{"that reads flags", pkg{path: "kindx", sources: []source{file("a.go", `import "flag"`, `var x = flag.Int("x", 0, "")`)}}, "uses flag.Int"},
		{"what is fine", pkg{path: "kindx", sources: []source{file("a.go", `import ("fmt"; "os"; "log/slog")`,
			`func f(l *slog.Logger) { _ = fmt.Sprint(os.Getpid()); l.Info("x") }`)}}, ""},
		{"a variable of the package's name", pkg{path: "kindx", sources: []source{file("a.go", `import "log"`, `var _ log.Logger`,
			`func f(log *log.Logger) { log.Print("x") }`)}}, ""},
		{"the environment handed on", pkg{path: "internal/run", sources: []source{file("a.go", `import "os"`, "var e = os.Environ()")}}, ""},
		{"the environment read", pkg{path: "internal/run", sources: []source{file("a.go", `import "os"`, `var e = os.Getenv("X")`)}}, "uses os.Getenv"},
		{"a test may speak", pkg{path: "kindx", sources: []source{file("a_test.go", `import "os"`, "func f() { os.Exit(1) }")}}, ""},
		{"a program may speak", pkg{path: "action", sources: []source{file("main.go", `import "os"`, "func f() { os.Exit(1) }")}}, ""},
		{"a file that does not parse", pkg{path: "kindx", sources: []source{file("a.go", "func {")}}, "expected"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			got := check(rules, []pkg{tt.p})
			switch {
			case tt.want == "" && len(got) > 0:
				t.Errorf("found %q where nothing is wrong", got)
			case tt.want != "" && (len(got) != 1 || !strings.Contains(got[0], tt.want)):
				t.Errorf("found %q, want one that says %q", got, tt.want)
			}
		})
	}
}

// TestRulesAreOneWay shows that the list itself cannot allow a cycle or a sibling.
func TestRulesAreOneWay(t *testing.T) {
	level := func(p string) int {
		for i, folders := range [][]string{{"internal/..."}, {"spire/...", "cilium/...", "kindx/...", "images/..."}, {"zerotrust/..."}, {"action/...", "examples/..."}} {
			if slices.ContainsFunc(folders, func(f string) bool { return matches(f, strings.TrimSuffix(p, "/...")) }) {
				return i
			}
		}
		t.Fatalf("%q belongs to no level", p)
		return 0
	}
	for p, r := range rules {
		for _, to := range r.imports {
			from, target := level(p), level(to)
			if target > from {
				t.Errorf("the list lets %s import %s, which stands above it", p, to)
			}
			if top := func(s string) string { s, _, _ = strings.Cut(s, "/"); return s }; from == 1 && target == 1 && top(p) != top(to) {
				t.Errorf("the list lets %s import its sibling %s", p, to)
			}
			if strings.HasPrefix(p, "examples/") && target == 0 {
				t.Errorf("the list lets %s import %s, which is not public", p, to)
			}
		}
	}
}

// A path that is written otherwise would fit no package, and its rule do nothing.
func TestRulesAreWellFormed(t *testing.T) {
	for p, r := range rules {
		for _, s := range slices.Concat([]string{p}, r.imports, r.tests, r.without) {
			if s == "" || strings.HasPrefix(s, "/") || strings.HasSuffix(s, "/") || strings.Contains(s, module) || bytes.ContainsAny([]byte(s), " \\*") {
				t.Errorf("rule of %q: %q is no path relative to the module", p, s)
			}
		}
	}
}

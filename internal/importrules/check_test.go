package importrules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/org/spire-vault-99-action"

// source is a file of a package.
type source struct {
	name string // ends in _test.go for a test
	text []byte
}

// pkg is a package as the rules see it.
type pkg struct {
	path    string   // relative to the module: "spire/deploy"
	deps    []string // everything in its build, by import path, the standard library included
	sources []source // all of them, whatever their build tags
}

// check tells everything in the packages that breaks the rules.
func check(rules map[string]rule, pkgs []pkg) []string {
	var wrong []string
	for _, p := range pkgs {
		r, ok := ruleFor(rules, p.path)
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s is not in the allow-list: add it to rules in internal/importrules", p.path))
			continue
		}
		for _, f := range p.sources {
			wrong = append(wrong, checkFile(r, p, f)...)
		}
		for _, dep := range p.deps {
			for _, w := range r.without {
				if banned(w, dep) {
					wrong = append(wrong, fmt.Sprintf("%s has %s in its build, and must do without %s", p.path, dep, w))
				}
			}
		}
	}
	return wrong
}

func ruleFor(rules map[string]rule, p string) (rule, bool) {
	best, found := "", false
	for key := range rules {
		if matches(key, p) && (!found || len(key) > len(best)) {
			best, found = key, true
		}
	}
	return rules[best], found
}

// matches says whether a path is meant by a pattern, which may end in "/...".
func matches(pattern, p string) bool {
	folder, all := strings.CutSuffix(pattern, "/...")
	return p == folder || all && strings.HasPrefix(p, folder+"/")
}

// banned says whether a dependency belongs to a module that a rule goes without.
func banned(without, dep string) bool {
	if without == "." {
		first, _, _ := strings.Cut(dep, "/")
		return strings.Contains(first, ".") && !within(module, dep)
	}
	return within(without, dep)
}

func within(folder, p string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

// checkFile looks at what a file imports and, unless it is a test, at what it uses.
func checkFile(r rule, p pkg, f source) []string {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, f.name, f.text, 0)
	if err != nil {
		return []string{fmt.Sprintf("%s: %v", p.path, err)}
	}
	test := strings.HasSuffix(f.name, "_test.go")
	allowed := r.imports
	if test {
		allowed = slices.Concat(r.imports, r.tests, []string{p.path, "internal/run"})
	}
	var wrong []string
	say := func(pos token.Pos, format string, args ...any) {
		at := fset.Position(pos)
		wrong = append(wrong, fmt.Sprintf("%s/%s:%d: %s", p.path, path.Base(at.Filename), at.Line, fmt.Sprintf(format, args...)))
	}
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if own, ok := strings.CutPrefix(imported, module+"/"); ok {
			if !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, own) }) {
				say(spec.Pos(), "imports %s, which the allow-list does not give it", own)
			}
		}
		if imported == "testing" && !test && !r.forTests {
			say(spec.Pos(), "imports testing into what is no test")
		}
	}
	if test || r.speaks {
		return wrong
	}
	for pos, what := range speech(file) {
		// internal/run hands the environment on to the commands that it runs.
		if what != "os.Environ" || p.path != "internal/run" {
			say(pos, "uses %s: only programs print, read the environment or exit", what)
		}
	}
	slices.Sort(wrong)
	return wrong
}

// spoken is what only programs may use, by package; nil is all of it.
var spoken = map[string][]string{
	"os": {"Exit", "Getenv", "LookupEnv", "Environ", "ExpandEnv", "Setenv", "Unsetenv", "Clearenv",
		"Args", "Stdin", "Stdout", "Stderr"},
	"syscall": {"Exit", "Getenv", "Environ", "Setenv", "Unsetenv", "Clearenv", "Stdin", "Stdout", "Stderr"},
	"fmt":     {"Print", "Printf", "Println", "Scan", "Scanf", "Scanln"},
	"log": {"Print", "Printf", "Println", "Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln", "Output",
		"Default", "SetOutput", "SetFlags", "SetPrefix", "Writer"},
	"log/slog": {"Default", "SetDefault", "Debug", "DebugContext", "Info", "InfoContext", "Warn", "WarnContext",
		"Error", "ErrorContext", "Log", "LogAttrs", "With"},
	"flag": nil,
}

// speech is each use of what is spoken: by its package's name in the file, whether it
// is called or passed on, and of the builtins print and println.
func speech(file *ast.File) map[token.Pos]string {
	found := map[token.Pos]string{}
	names := map[string]string{} // in the file → import path
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if _, ok := spoken[imported]; !ok {
			continue
		}
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		if name == "." {
			found[spec.Pos()] = imported + " by a dot import"
		}
		names[name] = imported
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			// An identifier that the file itself declares (Obj is set) is no package.
			if x, ok := n.X.(*ast.Ident); ok && x.Obj == nil {
				if imported, ok := names[x.Name]; ok && (spoken[imported] == nil || slices.Contains(spoken[imported], n.Sel.Name)) {
					found[n.Pos()] = imported + "." + n.Sel.Name
				}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && f.Obj == nil && (f.Name == "print" || f.Name == "println") {
				found[n.Pos()] = f.Name
			}
		}
		return true
	})
	return found
}

package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/org/spire-vault-99-action/zerotrust"
)

const self = "org/spire-vault-99-action@v1"

type workflow struct {
	Permissions yaml.Node
	Jobs        map[string]struct {
		Permissions yaml.Node
		Strategy    struct{ Matrix yaml.Node }
		Timeout     int `yaml:"timeout-minutes"`
		Steps       []struct {
			Uses string
			Run  string
			With map[string]string
		}
	}
}

func readWorkflows(t *testing.T, pattern string) map[string]workflow {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	all := map[string]workflow{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var w workflow
		if err := yaml.Unmarshal(text, &w); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all[filepath.Base(file)] = w
	}
	return all
}

var expression = regexp.MustCompile(`\$\{\{.*?\}\}`)

var pinned = regexp.MustCompile(`^[\w.-]+/[\w./-]+@[0-9a-f]{40}$`)

// Every action is pinned by a commit, the same one everywhere, with its version beside it.
func TestActionsArePinned(t *testing.T) {
	var files []string
	for _, pattern := range []string{"../.github/workflows/*.yml", "../examples/workflows/*.yml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	uses := regexp.MustCompile(`(?m)^\s*(?:- )?uses: (\S+)(.*)$`)
	seen := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range uses.FindAllStringSubmatch(string(text), -1) {
			if m[1] == "./" || m[1] == self && strings.Contains(file, "examples") {
				continue
			}
			if !pinned.MatchString(m[1]) || !regexp.MustCompile(`^ # v\d+\.\d+\.\d+$`).MatchString(m[2]) {
				t.Errorf("%s: %s is not pinned by a commit, with the version as a comment", file, m[0])
				continue
			}
			name, commit, _ := strings.Cut(m[1], "@")
			if other := seen[name]; other != "" && other != commit {
				t.Errorf("%s: %s is pinned to another commit elsewhere", file, name)
			}
			seen[name] = commit
		}
	}
}

// Nothing has more rights than it names.
func TestPermissionsAreNamed(t *testing.T) {
	for name, w := range readWorkflows(t, "../.github/workflows/*.yml") {
		if w.Permissions.Kind != yaml.MappingNode || len(w.Permissions.Content) != 0 {
			t.Errorf("%s does not begin with permissions: {}", name)
		}
		for job, j := range w.Jobs {
			if j.Permissions.Kind != yaml.MappingNode {
				t.Errorf("%s, job %s does not name its permissions", name, job)
			}
			if j.Timeout == 0 {
				t.Errorf("%s, job %s has no time limit", name, job)
			}
		}
	}
	for name, w := range readWorkflows(t, "../examples/workflows/*.yml") {
		if w.Permissions.Kind != yaml.MappingNode || len(w.Permissions.Content) == 0 {
			t.Errorf("%s does not name its permissions", name)
		}
	}
}

// No text of an event is put into a script: it would be run.
func TestScriptsHaveNoExpressions(t *testing.T) {
	for _, pattern := range []string{"../.github/workflows/*.yml", "../examples/workflows/*.yml"} {
		for name, w := range readWorkflows(t, pattern) {
			for job, j := range w.Jobs {
				for _, s := range j.Steps {
					if strings.Contains(s.Run, "${{") {
						t.Errorf("%s, job %s: an expression in a script: hand it over by env", name, job)
					}
				}
			}
		}
	}
}

// cells are the jobs that GitHub makes of a matrix whose entries below include are jobs of their
// own, as each has a value that no other one has.
func cells(t *testing.T, matrix yaml.Node) []map[string]string {
	t.Helper()
	var include []map[string]string
	all := []map[string]string{{}}
	for i := 0; i+1 < len(matrix.Content); i += 2 {
		axis, values := matrix.Content[i].Value, matrix.Content[i+1]
		if axis == "include" {
			if err := values.Decode(&include); err != nil {
				t.Fatal(err)
			}
			continue
		}
		var next []map[string]string
		for _, cell := range all {
			for _, v := range values.Content {
				more := maps.Clone(cell)
				more[axis] = v.Value
				next = append(next, more)
			}
		}
		all = next
	}
	return append(all, include...)
}

// The matrix of the action's own runs is of what the action can be asked for: each cell's versions
// reach it, are accepted, and two minors of both, both stores and both runner images are met.
func TestMatrix(t *testing.T) {
	e2e := readWorkflows(t, "../.github/workflows/ci.yml")["ci.yml"].Jobs["e2e"]
	all := cells(t, e2e.Strategy.Matrix)
	value := regexp.MustCompile(`^\$\{\{ matrix\.([a-z]+) \}\}$`)
	seen := map[string][]string{}
	for _, cell := range all {
		for axis, v := range cell {
			if !slices.Contains(seen[axis], v) {
				seen[axis] = append(seen[axis], v)
			}
		}
		for _, s := range e2e.Steps {
			if s.Uses != "./" {
				continue
			}
			in, err := parseInputs(func(input string) string {
				if m := value.FindStringSubmatch(s.With[input]); m != nil {
					return cell[m[1]]
				}
				return expression.ReplaceAllString(s.With[input], "true")
			})
			if err != nil || in.Kubernetes != cell["kubernetes"] || in.Cilium != cell["cilium"] || in.Vault != cell["vault"] || in.Images != cell["images"] {
				t.Errorf("%v makes %+v, %v", cell, in, err)
				continue
			}
			st := &step{settings: settings{inputs: in, intent: zerotrust.Precinct99(), environment: environment{cache: t.TempDir()}}}
			cfg := st.config()
			cfg.SourceDir = ".."
			stack, err := zerotrust.New(t.Context(), cfg)
			if err != nil {
				t.Errorf("%v: %v", cell, err)
				continue
			}
			_ = stack.Close()
		}
	}
	for axis, least := range map[string]int{"kubernetes": 3, "cilium": 2, "vault": 2, "runner": 2} {
		if len(seen[axis]) < least {
			t.Errorf("of %s there is %q alone", axis, seen[axis])
		}
	}
	if !slices.Contains(seen["kubernetes"], "") {
		t.Error("what the action takes by itself is not among them")
	}
	t.Logf("%d jobs of %v", len(all), seen)
}

// The recipes use inputs and outputs that there are, with values that they can have, and
// docs/action.md names each of them.
func TestRecipes(t *testing.T) {
	doc, err := os.ReadFile("../docs/action.md")
	if err != nil {
		t.Fatal(err)
	}
	recipes := readWorkflows(t, "../examples/workflows/*.yml")
	if len(recipes) < 7 {
		t.Errorf("there are %d recipes", len(recipes))
	}
	output := regexp.MustCompile(`steps\.zerotrust\.outputs\.([a-z-]+)`)
	for name, w := range recipes {
		if !strings.Contains(string(doc), "../examples/workflows/"+name) {
			t.Errorf("docs/action.md does not name %s", name)
		}
		used := false
		for _, j := range w.Jobs {
			for _, s := range j.Steps {
				if s.Uses != self {
					continue
				}
				used = true
				for input := range s.With {
					if !slices.Contains(fieldNames(inputs{}), input) {
						t.Errorf("%s sets %s, which is no input", name, input)
					}
				}
				// What is put in at run time stands for some word.
				word := func(input string) string { return expression.ReplaceAllString(s.With[input], "x") }
				if _, err := parseInputs(word); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		if !used {
			t.Errorf("%s does not use the action", name)
		}
		text, err := os.ReadFile("../examples/workflows/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range output.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(fieldNames(outputs{}), m[1]) {
				t.Errorf("%s reads %s, which is no output", name, m[1])
			}
		}
	}
}

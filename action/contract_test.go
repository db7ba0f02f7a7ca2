package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/zerotrust"
)

const module = "github.com/org/spire-vault-99-action"

type manifest struct {
	Inputs, Outputs yaml.Node
	Runs            struct{ Using, Main, Post string }
}

type described struct {
	name string
	said struct{ Description, Default string }
}

func readManifest(t *testing.T) (manifest, []described, []described) {
	t.Helper()
	text, err := os.ReadFile("../action.yml")
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := yaml.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	entries := func(n yaml.Node) []described {
		var all []described
		for i := 0; i+1 < len(n.Content); i += 2 {
			d := described{name: n.Content[i].Value}
			if err := n.Content[i+1].Decode(&d.said); err != nil {
				t.Fatal(err)
			}
			if d.said.Description == "" {
				t.Errorf("%s of action.yml has no description", d.name)
			}
			all = append(all, d)
		}
		return all
	}
	return m, entries(m.Inputs), entries(m.Outputs)
}

func names(all []described) []string {
	var list []string
	for _, d := range all {
		list = append(list, d.name)
	}
	return list
}

// action.yml, the structs, the parser and docs/action.md name the same things in the same order.
func TestContract(t *testing.T) {
	m, ins, outs := readManifest(t)
	if got, want := names(ins), fieldNames(inputs{}); !slices.Equal(got, want) {
		t.Errorf("action.yml has the inputs\n%q, the struct\n%q", got, want)
	}
	if got, want := names(outs), fieldNames(outputs{}); !slices.Equal(got, want) {
		t.Errorf("action.yml has the outputs\n%q, the struct\n%q", got, want)
	}
	doc, err := os.ReadFile("../docs/action.md")
	if err != nil {
		t.Fatal(err)
	}
	tables := regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(string(doc), -1)
	var told []string
	for _, row := range tables {
		told = append(told, row[1])
	}
	if want := slices.Concat(names(ins), names(outs)); !slices.Equal(told, want) {
		t.Errorf("the tables of docs/action.md name\n%q, action.yml\n%q", told, want)
	}
	for _, in := range ins {
		if in.said.Default != "" && !strings.Contains(string(doc), "| `"+in.name+"` | `"+in.said.Default+"` |") {
			t.Errorf("docs/action.md does not say that the default of %s is %s", in.name, in.said.Default)
		}
	}
	for _, file := range []string{m.Runs.Main, m.Runs.Post} {
		if _, err := os.Stat("../" + file); err != nil {
			t.Error(err)
		}
	}
	if m.Runs.Using != "node24" {
		t.Errorf("it runs on %s", m.Runs.Using)
	}
}

// The defaults of action.yml are those that the parser has for what is not set.
func TestDefaultsAreTheSame(t *testing.T) {
	_, ins, _ := readManifest(t)
	asked := map[string]bool{}
	unset, err := parseInputs(func(name string) string { asked[name] = true; return "" })
	if err != nil {
		t.Fatal(err)
	}
	byManifest, err := parseInputs(func(name string) string {
		for _, in := range ins {
			if in.name == name {
				return in.said.Default
			}
		}
		t.Errorf("the parser asks for %s, which action.yml does not have", name)
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(unset, byManifest) {
		t.Errorf("unset inputs are\n%+v, the defaults of action.yml\n%+v", unset, byManifest)
	}
	for _, in := range ins {
		if !asked[in.name] {
			t.Errorf("nobody asks for input %s", in.name)
		}
	}
}

// The description of an input names each value that it can have.
func TestDescriptionsNameTheValues(t *testing.T) {
	_, ins, _ := readManifest(t)
	for input, values := range map[string][]string{
		"phases": slices.Concat(kindPhases, existingPhases, installPhases), "images": {"auto", "registry", "fromsource"}, "vault": {"vault", "openbao"},
		"fail-on": {failNotProven, failFailed, failNever}, "cleanup": {cleanupAlways, cleanupOnSuccess, cleanupNever}, "reports": reportNames(),
	} {
		i := slices.IndexFunc(ins, func(d described) bool { return d.name == input })
		for _, v := range values {
			if !strings.Contains(ins[i].said.Description, v) {
				t.Errorf("the description of %s does not name %s", input, v)
			}
		}
	}
}

// The phases that can be asked for are those that there are.
func TestPhaseNames(t *testing.T) {
	stack, err := zerotrust.New(t.Context(), zerotrust.Config{Intent: zerotrust.Precinct99(), Dir: t.TempDir(), SourceDir: ".."})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"4A-frontend-proxy", "mutations"} // of this package
	for _, p := range stack.Phases() {
		want = append(want, p.Name)
	}
	for _, name := range want {
		if !slices.Contains(kindPhases, name) {
			t.Errorf("phase %s cannot be asked for", name)
		}
	}
	if len(want) != len(kindPhases) {
		t.Errorf("%q can be asked for, and there are %q", kindPhases, want)
	}
	in, err := zerotrust.New(t.Context(), zerotrust.Config{Intent: zerotrust.Precinct99(), Dir: t.TempDir(), SourceDir: "..", Cluster: &rest.Config{}, Registry: "r.example"})
	if err != nil {
		t.Fatal(err)
	}
	want = nil
	for _, p := range in.Phases() {
		want = append(want, p.Name)
	}
	if !slices.Equal(want, installPhases) {
		t.Errorf("%q can be asked for where the intent is installed, and there are %q", installPhases, want)
	}
	want = []string{"prober-image"}
	for _, p := range stack.VerifyPhases() {
		want = append(want, p.Name)
	}
	if !slices.Equal(want, existingPhases) {
		t.Errorf("%q can be asked for in an existing cluster, and there are %q", existingPhases, want)
	}
}

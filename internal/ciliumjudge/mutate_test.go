package ciliumjudge

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Whatever is taken out of the policies, the judge misses it: so each part of them is
// needed, and the judge can tell.
func TestJudgeMissesEveryPart(t *testing.T) {
	in, stream := derived(t, everything)
	var policies []any
	for _, doc := range bytes.Split(stream, []byte("---\n"))[1:] {
		var p any
		if err := yaml.Unmarshal(doc, &p); err != nil {
			t.Fatal(err)
		}
		policies = append(policies, p)
	}
	join := func(policies []any) []byte {
		var stream []byte
		for _, p := range policies {
			doc, err := yaml.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			stream = append(append(stream, "---\n"...), doc...)
		}
		return stream
	}
	holds(t, in, join(policies))
	found := 0
	cuts(policies, "", func(what string, rest any) {
		if saysNothing(what) {
			return
		}
		switch wrong, err := differences(in, join(rest.([]any))); {
		case err != nil: // Cilium does not take such a policy
		case len(wrong) > 0:
			found++
		default:
			t.Errorf("nothing is wrong without %s", what)
		}
	})
	if found < 100 {
		t.Errorf("only %d parts were found to be missing", found)
	}
	t.Logf("%d parts were found to be missing", found)
}

// saysNothing is for what is for people and for the API server.
func saysNothing(path string) bool {
	return slices.ContainsFunc([]string{".apiVersion", ".kind", ".description", ".metadata"}, func(s string) bool { return strings.Contains(path, s) })
}

// cuts are all ways to take one thing out of a value: a key of an object or an element of a
// list, at any depth. Each call has what was taken out and the value without it.
func cuts(v any, at string, each func(what string, rest any)) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			what := at + "." + key
			rest := maps.Clone(v)
			delete(rest, key)
			each(what, rest)
			cuts(inner, what, func(what string, inner any) {
				rest := maps.Clone(v)
				rest[key] = inner
				each(what, rest)
			})
		}
	case []any:
		for i, inner := range v {
			what := fmt.Sprintf("%s[%d]", at, i)
			each(what, slices.Delete(slices.Clone(v), i, i+1))
			cuts(inner, what, func(what string, inner any) {
				rest := slices.Clone(v)
				rest[i] = inner
				each(what, rest)
			})
		}
	}
}

// What is made to say something else is found too.
func TestJudgeFindsChanges(t *testing.T) {
	in, stream := derived(t, everything)
	for _, tt := range []struct{ what, old, new string }{
		{"another port", `port: "8200"`, `port: "8201"`},
		{"a range of ports", `port: "8200"`, "port: \"8200\"\n        endPort: 8203"},
		{"another protocol", "protocol: UDP", "protocol: TCP"},
		{"any protocol", "protocol: UDP", "protocol: ANY"},
		{"no authentication", "mode: required", "mode: disabled"},
		{"authentication that cannot be had", "mode: required", "mode: test-always-fail"},
		{"another account", "serviceaccount: robot", "serviceaccount: api"},
		{"another namespace", "namespace: jobs", "namespace: apps"},
		{"everybody", "- world", "- all"},
		{"every name of a host's domain", "toFQDNs:\n    - matchName: api.example.com", "toFQDNs:\n    - matchPattern: '*.example.com'"},
		{"every name", "'**.cluster.local'", "'*'"},
		{"no names but of one level", "'**.cluster.local'", "'*.cluster.local'"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			changed := bytes.ReplaceAll(stream, []byte(tt.old), []byte(tt.new))
			if bytes.Equal(changed, stream) {
				t.Fatalf("there is no %q in\n%s", tt.old, stream)
			}
			wrong, err := differences(in, changed)
			if err != nil || len(wrong) == 0 {
				t.Errorf("the judge finds %q, error %v", wrong, err)
			}
		})
	}
}

package kube

import (
	"slices"
	"testing"
)

func TestParseAndOrder(t *testing.T) {
	objects, err := parse([]byte(`# a comment alone
---
apiVersion: v1
kind: ConfigMap
metadata: {name: text, namespace: a}
data:
  script: |
    one
     --- not a separator
---

---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: a}
- {apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: things.x.org}}
---
{"apiVersion": "x.org/v1", "kind": "Namespace", "metadata": {"name": "no-real-namespace"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: b}
`))
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := objects[0].Object["data"].(map[string]any)["script"].(string); got != "one\n --- not a separator\n" {
		t.Errorf("script is %q", got)
	}
	order(objects)
	var got []string
	for _, o := range objects {
		got = append(got, describeObject(o))
	}
	want := []string{"Namespace a", "Namespace b", "CustomResourceDefinition things.x.org", "ConfigMap a/text", "Namespace no-real-namespace"}
	if !slices.Equal(got, want) {
		t.Errorf("order %q, want %q", got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for what, tt := range map[string]struct {
		yaml string
		says []string
	}{
		"no name":           {"apiVersion: v1\nkind: Pod\n", []string{"document 1", "Pod (no name)", "metadata.name"}},
		"no version":        {"kind: Pod\nmetadata: {name: p}\n", []string{"document 1", "Pod p", "apiVersion"}},
		"no kind":           {"apiVersion: v1\nmetadata: {name: p}\n", []string{"document 1", "Kind"}},
		"broken YAML":       {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n---\na: [\n", []string{"document 2"}},
		"a key given twice": {"apiVersion: v1\nkind: Pod\nkind: Pod\nmetadata: {name: p}\n", []string{`"kind" already set`}},
		"no object":         {"- 1\n", []string{"document 1"}},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := parse([]byte(tt.yaml))
			says(t, err, tt.says...)
		})
	}
	if objects, err := parse([]byte("---\n---\n# nothing\n")); err != nil || len(objects) != 0 {
		t.Errorf("an empty stream: %v, %v", objects, err)
	}
}

package manifest

import (
	"testing"
	"testing/fstest"
	"text/template"
)

func TestRender(t *testing.T) {
	files := fstest.MapFS{
		"a.yaml": {Data: []byte("a: {{quote .A}}\nb: |\n{{indent 2 .B}}\nc: {{hash .B}}\nd: {{twice .A}}\n")},
		"b.yaml": {Data: []byte("{{.Nothing}}")},
		"c.yaml": {Data: []byte("{{")},
	}
	values := map[string]string{"A": `x"y`, "B": "one\n\ntwo\n"}
	twice := template.FuncMap{"twice": func(s string) string { return s + s }}
	got, err := Render(files, "a.yaml", values, twice)
	want := "a: \"x\\\"y\"\nb: |\n  one\n\n  two\nc: \"ca48018cd69ec26f\"\nd: x\"yx\"y\n"
	if err != nil || string(got) != want {
		t.Errorf("got %q, %v", got, err)
	}
	for _, name := range []string{"b.yaml", "c.yaml", "d.yaml"} {
		if out, err := Render(files, name, values, nil); err == nil {
			t.Errorf("%s: rendered %q", name, out)
		}
	}
}

func TestPlain(t *testing.T) {
	if err := Plain(map[string]string{"Image": "r.io/a:1@sha256:0", "Dir": "/run/a-b"}); err != nil {
		t.Error(err)
	}
	err := Plain(map[string]string{"B": "a b", "A": "", "C": "x\n", "D": "fine"})
	want := "Config.A \"\": want letters, digits and . _ - : / @\nConfig.B \"a b\": want letters, digits and . _ - : / @\nConfig.C \"x\\n\": want letters, digits and . _ - : / @"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

package report

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat() // times are times
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSchemaTakesWhatJSONWrites(t *testing.T) {
	s := compiled(t)
	documents := map[string][]byte{}
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %q, %v", files, err)
	}
	for _, f := range files {
		if documents[f], err = os.ReadFile(f); err != nil {
			t.Fatal(err)
		}
	}
	for name, r := range reports() {
		var b bytes.Buffer
		if err := JSON(&b, r); err != nil {
			t.Fatal(err)
		}
		documents[name] = b.Bytes()
	}
	for name, doc := range documents {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
		if err == nil {
			err = s.Validate(value)
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	golden, err := os.ReadFile("testdata/mixed.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, old, new string
		valid          bool
	}{
		{"what was written", "", "", true},
		{"a field of a later version", `"verifyOnly":`, `"later": {}, "verifyOnly":`, true},
		{"a check's field of a later version", `"allowed":`, `"later": {}, "allowed":`, true},
		{"another version", `"schemaVersion": 1`, `"schemaVersion": 2`, false},
		{"no verdict", `"ok": false,`, ``, false},
		{"an unknown outcome", `"status": "failed"`, `"status": "fine"`, false},
		{"a time without a zone", `"2020-01-02T02:04:05.006Z"`, `"2020-01-02T02:04:05"`, false},
		{"an edge without a port", `"port": "80",`, ``, false},
		{"a duration in words", `"seconds": 12,`, `"seconds": "12s",`, false},
	} {
		if !bytes.Contains(golden, []byte(tt.old)) {
			t.Errorf("%s: mixed.json has no %s", tt.what, tt.old)
		}
		value, err := jsonschema.UnmarshalJSON(strings.NewReader(strings.ReplaceAll(string(golden), tt.old, tt.new)))
		if tt.old == "" {
			value, err = jsonschema.UnmarshalJSON(bytes.NewReader(golden))
		}
		if err != nil {
			t.Fatalf("%s: %v", tt.what, err)
		}
		if err := s.Validate(value); (err == nil) != tt.valid {
			t.Errorf("%s: valid should be %t: %v", tt.what, tt.valid, err)
		}
	}
}

// TestSchemaHasEveryField compares the schema with what JSON is made from, both ways.
func TestSchemaHasEveryField(t *testing.T) {
	type object struct {
		Properties           map[string]any
		Required             []string
		AdditionalProperties any
	}
	var doc struct {
		object
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	for name, pair := range map[string]struct {
		schema object
		made   any
	}{
		"document": {doc.object, document{}}, "phase": {doc.Defs["phase"], phaseDocument{}}, "check": {doc.Defs["check"], checkDocument{}},
		"edge": {doc.Defs["edge"], edgeDocument{}}, "evidence": {doc.Defs["evidence"], evidenceDocument{}},
	} {
		known := map[string]bool{}
		for _, f := range reflect.VisibleFields(reflect.TypeOf(pair.made)) {
			field, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			known[field] = true
			if _, ok := pair.schema.Properties[field]; !ok {
				t.Errorf("%s: the schema has no %q", name, field)
			}
			if always := options == ""; slices.Contains(pair.schema.Required, field) != always {
				t.Errorf("%s: %q is always there: %t, and the schema requires otherwise", name, field, always)
			}
		}
		for field := range pair.schema.Properties {
			if !known[field] {
				t.Errorf("%s: nothing writes the schema's %q", name, field)
			}
		}
		if pair.schema.AdditionalProperties != nil {
			t.Errorf("%s: the schema forbids fields, and some may be added", name)
		}
	}
	a := Schema()
	a[0] = 'x'
	if Schema()[0] != '{' {
		t.Error("who changes what Schema gave changes the schema")
	}
}

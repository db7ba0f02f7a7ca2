package zerotrust

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	sigsyaml "sigs.k8s.io/yaml"
)

// IntentVersion is the version of the YAML form of an Intent. Within one, keys may be
// added, but none is removed, renamed or given another meaning.
const IntentVersion = 1

// document is the YAML form: the intent, and its version beside it.
type document struct {
	Version int `json:"version"`
	Intent
}

//go:embed intent.schema.json
var intentSchema []byte

// IntentSchema is the JSON Schema (draft 2020-12) of an intent's YAML form, for editors.
// It knows the shape; what hangs together, such as an edge and its ends, ParseIntent does.
func IntentSchema() []byte { return bytes.Clone(intentSchema) }

// ParseIntent reads the YAML form of an intent and validates it. It is strict: a key that
// is unknown or given twice, and a value of another type, are faults. The error is of type
// Faults and has all that is wrong, with the places in the file; name is the file's, for
// the messages.
func ParseIntent(name string, text []byte) (Intent, error) {
	r := &reading{file: name, places: map[string]*yaml.Node{}}
	var doc document
	r.document(text, &doc)
	// What is missing or of another type is not what was meant: it is judged once it can be read.
	if len(r.faults) == 0 {
		if doc.Version != IntentVersion {
			r.fault("version", "version %d: this is read by version %d alone", doc.Version, IntentVersion)
		}
		for _, f := range doc.faults() {
			r.fault(f.Path, "%s", f.Text)
		}
	}
	if len(r.faults) > 0 {
		slices.SortStableFunc(r.faults, func(a, b Fault) int {
			if a.Line != b.Line {
				return a.Line - b.Line
			}
			return a.Column - b.Column
		})
		return Intent{}, r.faults
	}
	return doc.Intent, nil
}

// mostIntent is how many bytes a file may have: what has no end, as a device, is no intent.
const mostIntent = 4 << 20

// ReadIntent is ParseIntent of a file of at most 4 MiB.
func ReadIntent(file string) (Intent, error) {
	f, err := os.Open(file)
	if err != nil {
		return Intent{}, fmt.Errorf("reading the intent: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostIntent+1))
	if err != nil {
		return Intent{}, fmt.Errorf("reading the intent: %w", err)
	}
	if len(text) > mostIntent {
		return Intent{}, fmt.Errorf("reading the intent: %s has more than %d MiB, which is no intent", file, mostIntent>>20)
	}
	return ParseIntent(file, text)
}

// YAML is the intent in its YAML form.
func (in Intent) YAML() ([]byte, error) {
	if in.Edges == nil {
		in.Edges = []Edge{} // "null" is no list
	}
	text, err := sigsyaml.Marshal(document{IntentVersion, in})
	if err != nil {
		return nil, fmt.Errorf("intent %s: %w", in.Name, err)
	}
	return text, nil
}

// reading is one reading of a file: where each value is, and what is wrong.
type reading struct {
	file   string
	places map[string]*yaml.Node
	faults Faults
}

// fault is at the place of the path or, where that is not in the file, of what it is in.
func (r *reading) fault(path, format string, args ...any) {
	at := path
	for at != "" && r.places[at] == nil {
		at = at[:max(0, strings.LastIndexAny(at, ".["))]
	}
	f := Fault{Path: path, Text: fmt.Sprintf(format, args...), File: r.file, Line: 1, Column: 1}
	if n := r.places[at]; n != nil {
		f.Line, f.Column = n.Line, n.Column
	}
	r.faults = append(r.faults, f)
}

// at is fault for a node that has no path of its own, such as a key.
func (r *reading) at(n *yaml.Node, path, format string, args ...any) {
	r.faults = append(r.faults, Fault{Path: path, Text: fmt.Sprintf(format, args...), File: r.file, Line: n.Line, Column: n.Column})
}

func (r *reading) document(text []byte, into any) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var root yaml.Node
	switch err := dec.Decode(&root); {
	case errors.Is(err, io.EOF):
		r.fault("", "the file is empty: want an intent")
		return
	case err != nil:
		// The library has the line in its text alone.
		place := yaml.Node{Line: 1, Column: 1}
		_, _ = fmt.Sscanf(err.Error(), "yaml: line %d:", &place.Line)
		r.at(&place, "", "this is no YAML: %v", err)
		return
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		r.fault("", "the file holds more than one document")
	}
	r.value(root.Content[0], reflect.ValueOf(into).Elem(), "")
}

// value reads a node into v, which is at the path.
func (r *reading) value(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	r.places[path] = n
	if reader, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok && n.Kind == yaml.ScalarNode {
		if err := reader.UnmarshalText([]byte(n.Value)); err != nil {
			r.at(n, path, "%s: %v", path, err)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem(), path)
	case reflect.Struct:
		fields := fieldsOf(v)
		r.mapping(n, path, func(key, value *yaml.Node, path string) {
			if field, known := fields[key.Value]; known {
				r.value(value, field, path)
				return
			}
			r.at(key, path, "unknown key %q: known here are %s", key.Value, strings.Join(slices.Sorted(maps.Keys(fields)), ", "))
		})
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		r.mapping(n, path, func(key, value *yaml.Node, path string) {
			element := reflect.New(v.Type().Elem()).Elem()
			r.value(value, element, path)
			v.SetMapIndex(reflect.ValueOf(key.Value), element)
		})
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			r.at(n, path, "%s: want a list", path)
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, element := range n.Content {
			r.value(element, v.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
	default:
		want := map[reflect.Kind][2]string{
			reflect.String: {"!!str", "a text (a number or true needs quotes)"}, reflect.Int: {"!!int", "a whole number"}, reflect.Bool: {"!!bool", "true or false"},
		}[v.Kind()]
		if n.Kind != yaml.ScalarNode || n.ShortTag() != want[0] || n.Decode(v.Addr().Interface()) != nil {
			r.at(n, path, "%s: want %s", path, want[1])
		}
	}
}

// mapping calls each for the keys of a mapping that are there once.
func (r *reading) mapping(n *yaml.Node, path string, each func(key, value *yaml.Node, path string)) {
	if n.Kind != yaml.MappingNode {
		r.at(n, path, "%s: want keys with values", cmp.Or(path, "the file"))
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		inner := strings.TrimPrefix(path+"."+key.Value, ".")
		if line, twice := lines[key.Value]; twice {
			r.at(key, inner, "key %q is given twice, first in line %d", key.Value, line)
			continue
		}
		lines[key.Value] = key.Line
		each(key, value, inner)
	}
}

// fieldsOf are the fields of a struct by their keys, those of embedded ones too.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	all := map[string]reflect.Value{}
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Anonymous {
			maps.Copy(all, fieldsOf(v.Field(i)))
			continue
		}
		key, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		all[key] = v.Field(i)
	}
	return all
}

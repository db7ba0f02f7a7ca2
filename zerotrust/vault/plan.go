package vault

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Plan is what separates a Vault from its settings.
type Plan struct {
	Mount  []Mount  // engines that are missing
	Write  []Object // objects that are missing or differ
	Remove []string // paths of what is in our mounts and not wanted
	Why    []string // one line for each of the above
}

// Mount is a secrets engine, an auth method or an audit device at a path.
type Mount struct {
	Kind string // "auth", "secrets" or "audit"
	Path string
	Type string
}

// Empty says that there is nothing to do.
func (p Plan) Empty() bool { return len(p.Mount) == 0 && len(p.Write) == 0 && len(p.Remove) == 0 }

// String is the plan, one line each.
func (p Plan) String() string {
	if p.Empty() {
		return "nothing to do"
	}
	return strings.Join(p.Why, "\n")
}

// mounts are what must be there before any object.
func mounts() []Mount {
	return []Mount{
		{"audit", "stdout", "file"},
		{"auth", AuthPath, "jwt"},
		{"secrets", KVPath, "kv"},
		{"secrets", DatabasePath, "database"},
	}
}

// state is what a Vault has: the types of its mounts by kind and path, its objects by
// path (those of the wanted paths and of our mounts).
type state struct {
	mounts  map[Mount]bool
	objects map[string]map[string]any
}

// diff compares what is there with what is wanted. Of an object only the wanted
// fields count; what is in our mounts, and the policies with our prefix, must be wanted.
func diff(have state, want []Object) Plan {
	var p Plan
	why := func(format string, args ...any) { p.Why = append(p.Why, fmt.Sprintf(format, args...)) }
	for _, m := range mounts() {
		if !have.mounts[m] {
			p.Mount = append(p.Mount, m)
			why("mount %s %s of type %s", m.Kind, m.Path, m.Type)
		}
	}
	wanted := map[string]bool{}
	for _, o := range want {
		wanted[o.Path] = true
		there, known := have.objects[o.Path]
		if !known {
			p.Write = append(p.Write, o)
			why("create %s", o.Path)
			continue
		}
		if fields := differing(there, o.Data); len(fields) > 0 {
			p.Write = append(p.Write, o)
			why("change %s: %s", o.Path, strings.Join(fields, ", "))
		}
	}
	for _, path := range slices.Sorted(maps.Keys(have.objects)) {
		if !wanted[path] {
			p.Remove = append(p.Remove, path)
			why("remove %s", path)
		}
	}
	return p
}

// differing names the fields of want that are otherwise in have. It never tells their
// values.
func differing(have, want map[string]any) []string {
	var fields []string
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if inner, nested := want[k].(map[string]any); nested {
			there, _ := have[k].(map[string]any)
			for _, f := range differing(there, inner) {
				fields = append(fields, k+"."+f)
			}
			continue
		}
		if normal(have[k]) != normal(want[k]) {
			fields = append(fields, k)
		}
	}
	return fields
}

// normal makes alike what Vault answers and what we would send: nothing is an empty
// string is an empty list, and a number is its digits.
func normal(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		return v
	case json.Number:
		return v.String()
	case []string:
		return strings.Join(v, "\x00")
	case []any:
		all := make([]string, len(v))
		for i, e := range v {
			all[i] = normal(e)
		}
		return strings.Join(all, "\x00")
	}
	return fmt.Sprint(v)
}

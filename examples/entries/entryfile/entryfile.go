// Package entryfile reads lists of SPIRE registration entries in three formats, all of
// which may be in one file, as YAML documents or as JSON:
//
// Its own, a mapping with a list "entries":
//
//	entries:
//	  - spiffeID: spiffe://demo.local/ns/shop/sa/cart
//	    parentID: spiffe://demo.local/node/c1
//	    selectors: [k8s:ns:shop, k8s:sa:cart]
//	    x509TTL: 1h            # and jwtTTL; the server's default where left out
//	    dnsNames: [cart.shop.svc]
//	    federatesWith: [other.test]
//	    hint: internal
//	    admin: false           # and downstream, storeSVID
//	    expiresAt: 2030-01-01T00:00:00Z
//
// The JSON that "spire-server entry create -data" takes, with spiffe_id, selectors of type
// and value, and TTLs in seconds.
//
// ClusterStaticEntry manifests of spire-controller-manager (spire.spiffe.io/v1alpha1), also
// in a List. Their metadata, className and status are read past.
package entryfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/org/spire-vault-99-action/spire"
)

// Entry is an entry and where it was.
type Entry struct {
	spire.Entry
	// At is "file:line:column" of its beginning.
	At string
}

// Read takes the entries out of data; name is how errors call the file. An error has
// every fault that was found, each with its place, and no entries come with it.
func Read(name string, data []byte) ([]Entry, error) {
	r := reader{name: name}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil { // it says the line
			r.errs = append(r.errs, fmt.Errorf("%s: neither YAML nor JSON: %w", name, err))
			break
		}
		if len(doc.Content) == 1 && doc.Content[0].Tag != "!!null" {
			r.document(doc.Content[0])
		}
	}
	if err := errors.Join(r.errs...); err != nil {
		return nil, err
	}
	return r.entries, nil
}

// Join makes one list of several files'. The same SPIFFE ID, parent and selectors twice
// are an error that names both places.
func Join(files ...[]Entry) ([]spire.Entry, error) {
	var (
		all  []spire.Entry
		errs []error
	)
	first := map[string]string{}
	for _, e := range slices.Concat(files...) {
		id := spire.EntryID("", e.Entry)
		if at, ok := first[id]; ok {
			errs = append(errs, fmt.Errorf("%s: the same SPIFFE ID, parent and selectors as at %s: %s", e.At, at, e.Entry))
			continue
		}
		first[id] = e.At
		all = append(all, e.Entry)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, nil
}

type reader struct {
	name    string
	entries []Entry
	errs    []error
}

func (r *reader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d", r.name, n.Line, n.Column) }

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %w", r.at(n), fmt.Errorf(format, args...)))
}

// member is one key of a mapping.
type member struct {
	key, value *yaml.Node
}

// members are those of a mapping. Anything else is a fault, and nil; a key that is there
// twice is a fault.
func (r *reader) members(n *yaml.Node, what string) []member {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s: want a mapping, this is %s", what, kindOf(n))
		return nil
	}
	members := []member{} // not nil: it is a mapping
	for i := 0; i+1 < len(n.Content); i += 2 {
		m := member{n.Content[i], n.Content[i+1]}
		if slices.ContainsFunc(members, func(o member) bool { return o.key.Value == m.key.Value }) {
			r.fail(m.key, "%s: %s is there twice", what, m.key.Value)
		}
		members = append(members, m)
	}
	return members
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "a mapping"
	}
	return fmt.Sprintf("%q", n.Value)
}

func find(members []member, key string) *yaml.Node {
	for _, m := range members {
		if m.key.Value == key {
			return m.value
		}
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

const group = "spire.spiffe.io/v1alpha1"

func (r *reader) document(n *yaml.Node) {
	members := r.members(n, "document")
	if members == nil {
		return
	}
	kind, list := find(members, "kind"), find(members, "entries")
	switch {
	case kind != nil && (kind.Value == "List" || kind.Value == "ClusterStaticEntryList"):
		for _, item := range r.items(find(members, "items"), kind, "items") {
			r.document(item)
		}
	case kind != nil:
		r.manifest(n, kind, members)
	case list == nil:
		r.fail(n, `document: want "entries", a list, or kind: ClusterStaticEntry`)
	default:
		for _, m := range members {
			if m.key.Value != "entries" {
				r.fail(m.key, "unknown field %s: beside entries there is none", m.key.Value)
			}
		}
		for _, item := range r.items(list, n, "entries") {
			r.entry(item)
		}
	}
}

// items are the elements of a list, which may be empty.
func (r *reader) items(n, at *yaml.Node, what string) []*yaml.Node {
	switch {
	case n == nil:
		r.fail(at, "%s are missing", what)
	case n.Kind == yaml.SequenceNode:
		return n.Content
	case n.Tag != "!!null":
		r.fail(n, "%s: want a list, this is %s", what, kindOf(n))
	}
	return nil
}

func (r *reader) manifest(n, kind *yaml.Node, members []member) {
	if api := text(find(members, "apiVersion")); kind.Value != "ClusterStaticEntry" || api != group {
		r.fail(kind, "want kind ClusterStaticEntry of %s, this is %s of %q", group, kind.Value, api)
		return
	}
	spec := find(members, "spec")
	if spec == nil {
		r.fail(n, "ClusterStaticEntry %s: spec is missing", text(find(r.members(orEmpty(find(members, "metadata")), "metadata"), "name")))
		return
	}
	r.add(spec, manifestFields)
}

func orEmpty(n *yaml.Node) *yaml.Node {
	if n == nil {
		return &yaml.Node{Kind: yaml.MappingNode}
	}
	return n
}

// entry is one of a list: it is spire-server's where it says spiffe_id.
func (r *reader) entry(n *yaml.Node) {
	members := r.members(n, "entry")
	if members == nil {
		return
	}
	fields := ownFields
	for _, m := range members {
		if _, ok := serverFields[m.key.Value]; ok && strings.Contains(m.key.Value, "_") {
			fields = serverFields
		}
	}
	r.add(n, fields)
}

// add reads an entry by its fields.
func (r *reader) add(n *yaml.Node, fields map[string]setter) {
	before := len(r.errs)
	e := Entry{At: r.at(n)}
	for _, m := range r.members(n, "entry") {
		set, ok := fields[m.key.Value]
		if !ok {
			r.fail(m.key, "unknown field %s%s", m.key.Value, suggest(m.key.Value, fields))
			continue
		}
		if m.value.Tag == "!!null" {
			continue
		}
		if err := set(m.value, &e.Entry); err != nil {
			at := m.value
			var in *inner
			if errors.As(err, &in) {
				at = in.at
			}
			r.fail(at, "%s: %w", m.key.Value, err)
		}
	}
	if len(r.errs) == before {
		if err := spire.Validate(e.Entry); err != nil {
			for line := range strings.Lines(err.Error()) {
				r.fail(n, "%s", strings.TrimSpace(line))
			}
		}
	}
	r.entries = append(r.entries, e)
}

// suggest names the field that was meant, if it only differs in case or underscores,
// else all of them.
func suggest(name string, fields map[string]setter) string {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
	var names []string
	for f := range fields {
		if plain(f) == plain(name) {
			return ": it is called " + f
		}
		names = append(names, f)
	}
	slices.Sort(names)
	return ": there are " + strings.Join(names, ", ")
}

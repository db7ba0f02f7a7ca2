package kube

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// parse reads the objects of a YAML (or JSON) stream in their order. Empty
// documents are skipped and lists are unrolled. A key given twice is an error.
func parse(manifests []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	docs := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(manifests)))
	for n := 1; ; n++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		raw, err := yaml.YAMLToJSONStrict(doc)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		if string(raw) == "null" {
			continue
		}
		var o unstructured.Unstructured
		if err := o.UnmarshalJSON(raw); err != nil {
			return nil, fmt.Errorf("document %d: %w", n, err)
		}
		found := []*unstructured.Unstructured{&o}
		if o.IsList() {
			list, err := o.ToList()
			if err != nil {
				return nil, fmt.Errorf("document %d: %w", n, err)
			}
			found = found[:0]
			for i := range list.Items {
				found = append(found, &list.Items[i])
			}
		}
		for _, o := range found {
			if o.GetAPIVersion() == "" || o.GetKind() == "" || o.GetName() == "" {
				return nil, fmt.Errorf("document %d: %s: an object needs apiVersion, kind and metadata.name", n, describeObject(o))
			}
		}
		objects = append(objects, found...)
	}
}

// order puts what others live in or are made of first: namespaces, then custom
// resource definitions, then the rest as it came.
func order(objects []*unstructured.Unstructured) {
	rank := func(o *unstructured.Unstructured) int {
		switch gk := o.GroupVersionKind().GroupKind(); {
		case gk.Group == "" && gk.Kind == "Namespace":
			return 0
		case gk.Group == "apiextensions.k8s.io" && gk.Kind == "CustomResourceDefinition":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return rank(a) - rank(b) })
}

// describeObject names an object for a reader: "DaemonSet spire-system/spire-agent".
func describeObject(o *unstructured.Unstructured) string {
	kind, name := o.GetKind(), o.GetName()
	if kind == "" {
		kind = "object of no kind"
	}
	if name == "" {
		name = "(no name)"
	}
	if ns := o.GetNamespace(); ns != "" {
		name = ns + "/" + name
	}
	return kind + " " + name
}

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/yaml"
)

// Whatever is printed is what it says it is, for the demo and for the other example.
func TestDerive(t *testing.T) {
	for _, args := range [][]string{{"-pod-network", "10.244.0.0/16"}, {"-intent", "../orders/zerotrust.yaml"}} {
		for what, kind := range map[string]string{
			"entries": "ClusterStaticEntry", "policies": "CiliumNetworkPolicy", "namespaces": "Namespace", "verifier": "Role", "networkpolicies": "NetworkPolicy",
		} {
			if what == "networkpolicies" && args[0] == "-intent" {
				continue // it has an edge to a host, which they cannot say: see below
			}
			out := printed(t, append(args, what)...)
			seen := map[string]bool{}
			dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(out), 4096)
			for {
				var o struct {
					Kind     string
					Metadata struct{ Name, Namespace string }
				}
				if err := dec.Decode(&o); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					t.Fatalf("%s: %v\n%s", what, err, out)
				}
				if o.Kind == kind && seen[o.Metadata.Namespace+"/"+o.Metadata.Name] {
					t.Errorf("%s: %s is there twice", what, o.Metadata.Name)
				}
				seen[o.Metadata.Namespace+"/"+o.Metadata.Name] = o.Kind == kind
			}
			if len(seen) < 3 && what != "namespaces" {
				t.Errorf("%s: %d objects\n%s", what, len(seen), out)
			}
		}
		again := printed(t, append(args, "intent")...)
		if !strings.Contains(again, "version: 1") {
			t.Errorf("intent:\n%s", again)
		}
	}
	if out := printed(t, "schema"); !json.Valid([]byte(out)) {
		t.Error("the schema is no JSON")
	}
	if out := printed(t, "matrix"); !strings.Contains(out, "outside → backend:8000") || !strings.Contains(out, "allowed, authenticated") {
		t.Errorf("matrix:\n%s", out)
	}
	if out := printed(t, "vault"); !strings.Contains(out, "path: auth/jwt/role/backend") {
		t.Errorf("vault:\n%s", out)
	}
}

func TestBadInput(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, "want one of entries"},
		{[]string{"policy"}, "want one of entries"},
		{[]string{"-intent", "nowhere.yaml", "policies"}, "nowhere.yaml"},
		{[]string{"-intent", "main.go", "policies"}, "main.go:"},
		{[]string{"-intent", "../orders/zerotrust.yaml", "-pod-network", "10.0.0.0/8", "networkpolicies"}, "knows no DNS names"},
		{[]string{"-pod-network", "ten", "networkpolicies"}, `pod network "ten"`},
	} {
		if err := run(tc.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, want %q", tc.args, err, tc.want)
		}
	}
}

func printed(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	if err := run(args, &out, io.Discard); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return out.String()
}

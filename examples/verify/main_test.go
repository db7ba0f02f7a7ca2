package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/zerotrust"
)

// The help names each phase, and says what there is to give.
func TestHelp(t *testing.T) {
	var out bytes.Buffer
	if code := run([]string{"-help"}, &out, &out); code != 0 {
		t.Errorf("exit code %d", code)
	}
	stack, err := zerotrust.New(t.Context(), zerotrust.Config{Intent: zerotrust.Precinct99(), Cluster: &rest.Config{}, ProberImage: "i"})
	if err != nil {
		t.Fatal(err)
	}
	words := []string{"-intent", "-prober-image", "-kubeconfig", "-context", "-report-dir", "-phase", "verifier"}
	for _, p := range stack.VerifyPhases() {
		words = append(words, "  "+p.Name+" ")
	}
	for _, word := range words {
		if !strings.Contains(out.String(), word) {
			t.Errorf("it does not say %q:\n%s", word, out.String())
		}
	}
}

// What is wrong with the arguments is told before any cluster is asked.
func TestBadArguments(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("version: 1\nname: x\ntrustDomain: x.example\nworkloads: [{name: a, namespace: n}]\nedges: [{from: a, to: b, port: 1}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ args, says string }{
		{"", "-intent and -prober-image are required"},
		{"-intent x.yaml", "-intent and -prober-image are required"},
		{"-intent x.yaml -prober-image i more", "nothing else is taken"},
		{"-port 1", "not defined: -port"},
		{"-intent no-such-file.yaml -prober-image i", "no-such-file.yaml"},
		{"-intent " + bad + " -prober-image i", "bad.yaml:5"},
		{"-intent ../orders/zerotrust.yaml -prober-image i -kubeconfig no-such-config", "reading the kubeconfig"},
	} {
		var out bytes.Buffer
		if code := run(strings.Fields(tt.args), &out, &out); code != 2 || !strings.Contains(out.String(), tt.says) {
			t.Errorf("%q: exit code %d, %s", tt.args, code, out.String())
		}
	}
}

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// entries runs the program.
func entries(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", "")
	var out, errs bytes.Buffer
	code = run(context.WithoutCancel(t.Context()), args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"help"}, {"plan", "-h"}} {
		code, _, stderr := entries(t, "", args...)
		if code != 0 || !strings.Contains(stderr, "Examples:") || !strings.Contains(stderr, "-max-deletes") {
			t.Errorf("%v: code %d\n%s", args, code, stderr)
		}
	}
}

func TestFaults(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.yaml")
	if err := os.WriteFile(bad, []byte("entries:\n- {spiffeID: nonsense}\n- hint: [x]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	const good = "entries: []"
	for _, test := range []struct {
		args []string
		want string
	}{
		{nil, "want plan or apply first"},
		{[]string{"sync"}, "want plan or apply first"},
		{[]string{"plan"}, "no FILE is given"},
		{[]string{"plan", "-socket", "x", "-colour", "-"}, "flag provided but not defined"},
		{[]string{"plan", "-"}, "want one of -socket, -server and -cluster"},
		{[]string{"plan", "-socket", "x", "-cluster", "-"}, "want one of -socket, -server and -cluster"},
		{[]string{"plan", "-server", "localhost:1", "-"}, "SPIFFE_ENDPOINT_SOCKET"},
		{[]string{"plan", "-cluster", "-trust-domain", "a b", "-"}, `-trust-domain "a b"`},
		{[]string{"plan", "-cluster", "-kubeconfig", filepath.Join(empty, "none"), "-"}, "read the kubeconfig"},
		{[]string{"plan", "-socket", filepath.Join(empty, "none"), "-timeout", "1s", "-"}, "nothing changed"},
		{[]string{"apply", "-socket", "x", bad}, bad + ":2:14: spiffeID"},
		{[]string{"apply", "-socket", "x", bad}, bad + ":3:9: hint: want a text, this is a list"},
		{[]string{"apply", "-socket", "x", dir}, "the files have faults"},
		{[]string{"apply", "-socket", "x", empty}, "no .yaml, .yml or .json"},
		{[]string{"apply", "-socket", "x", filepath.Join(empty, "none.yaml")}, "no such file"},
	} {
		code, stdout, stderr := entries(t, good, test.args...)
		if code != 1 || !strings.Contains(stderr, test.want) {
			t.Errorf("%v: code %d\n%s%swant 1 and %q", test.args, code, stdout, stderr, test.want)
		}
	}
}

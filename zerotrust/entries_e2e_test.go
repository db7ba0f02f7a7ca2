//go:build e2e

package zerotrust

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// entriesProgram keeps entries of another owner in the cluster with the program
// examples/entries, by its kubeconfig alone. What the platform and Cilium have there stays
// the same, byte by byte.
func (l *lab) entriesProgram() {
	began := time.Now()
	dir := l.TempDir()
	bin := filepath.Join(dir, "entries")
	if out, err := exec.CommandContext(l.Context(), "go", "build", "-o", bin, "../examples/entries").CombinedOutput(); err != nil {
		l.Fatalf("%v\n%s", err, out)
	}
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			l.Fatal(err)
		}
		return path
	}
	two := file("two.yaml", strings.ReplaceAll(`
entries:
  - {spiffeID: spiffe://TD/team/a, parentID: spiffe://TD/team, selectors: ["k8s:ns:team", "k8s:sa:a"]}
  - {spiffeID: spiffe://TD/team/b, parentID: spiffe://TD/team, selectors: ["k8s:ns:team", "k8s:sa:b"], x509TTL: 1h}
`, "TD", l.cfg.Intent.TrustDomain))
	none := file("none.yaml", "entries: []\n")
	nowhere := file("nowhere", `{"apiVersion": "v1", "kind": "Config", "current-context": "x",
"contexts": [{"name": "x", "context": {"cluster": "x"}}], "clusters": [{"name": "x", "cluster": {"server": "https://127.0.0.1:1"}}]}`)
	conn, err := l.stack().spire(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	before := l.serverEntries(conn)

	cluster := []string{"-cluster", "-kubeconfig", l.cfg.Kubeconfig, "-trust-domain", l.cfg.Intent.TrustDomain}
	for _, test := range []struct {
		code int
		says string
		args []string
	}{
		{2, "+ spiffe://" + l.cfg.Intent.TrustDomain + "/team/a", append([]string{"plan"}, append(cluster, two)...)},
		{0, "2 created, 0 updated, 0 deleted", append([]string{"apply"}, append(cluster, two)...)},
		{0, "0 to create, 0 to update, 0 to delete", append([]string{"plan"}, append(cluster, two)...)},
		{1, "other.test", []string{"plan", "-cluster", "-kubeconfig", l.cfg.Kubeconfig, "-trust-domain", "other.test", two}},
		{1, "no ready pod", append([]string{"plan", "-namespace", "default"}, append(cluster, two)...)},
		{1, "127.0.0.1:1", []string{"plan", "-cluster", "-kubeconfig", nowhere, "-trust-domain", l.cfg.Intent.TrustDomain, two}},
		{1, "none.such", []string{"plan", "-cluster", "-kubeconfig", filepath.Join(dir, "none.such"), two}},
		{1, "more deletes than allowed", append([]string{"apply", "-max-deletes", "1"}, append(cluster, none)...)},
		{0, "0 created, 0 updated, 2 deleted", append([]string{"apply"}, append(cluster, none)...)},
	} {
		args := append([]string{test.args[0], "-owner", "team", "-timeout", "30s"}, test.args[1:]...)
		code, said := l.exitCode(exec.CommandContext(l.Context(), bin, args...))
		if code != test.code || !strings.Contains(said, test.says) {
			l.Errorf("entries %s: code %d, want %d and %q\n%s", strings.Join(args, " "), code, test.code, test.says, said)
		}
		if code == 1 {
			l.Logf("told: %s", strings.TrimSpace(said))
		}
	}

	after := l.serverEntries(conn)
	for id, was := range before {
		is, there := after[id]
		// Cilium's operator may write and remove its own at any time.
		if strings.HasPrefix(was.SpiffeId.Path, "/identity/") && (!there || is.RevisionNumber != was.RevisionNumber) {
			continue
		}
		if !proto.Equal(was, is) {
			l.Errorf("entry %s was\n%v\nand is\n%v", id, was, is)
		}
	}
	for id, is := range after {
		if before[id] == nil && !strings.HasPrefix(is.SpiffeId.Path, "/identity/") {
			l.Errorf("left behind: %v", is)
		}
	}
	l.Logf("%d entries of others stayed as they were; %s", len(before), time.Since(began).Round(100*time.Millisecond))
}

// serverEntries is what the server has, by ID. The platform's own are among it.
func (l *lab) serverEntries(conn grpc.ClientConnInterface) map[string]*types.Entry {
	l.Helper()
	resp, err := entryv1.NewEntryClient(conn).ListEntries(l.Context(), &entryv1.ListEntriesRequest{})
	if err != nil {
		l.Fatal(err)
	}
	all, ours := map[string]*types.Entry{}, 0
	for _, e := range resp.Entries {
		all[e.Id] = e
		if strings.HasPrefix(e.Id, Owner+".") {
			ours++
		}
	}
	if ours == 0 {
		l.Fatalf("none of the server's %d entries is the platform's", len(all))
	}
	return all
}

// exitCode runs a program to its end.
func (l *lab) exitCode(cmd *exec.Cmd) (code int, said string) {
	l.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		l.Fatal(fmt.Errorf("run %s: %w", cmd.Path, err))
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

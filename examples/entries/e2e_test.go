//go:build e2e

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// TestE2EEntries runs the program against a real server: over its socket, and by address as
// an admin with the SVID of a real agent. What it made the server's own program then
// shows.
func TestE2EEntries(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("demo.local")
	admin := spiffeid.RequireFromPath(td, "/admin")
	bin := sourcetest.SPIRE(t)
	real := spiretest.StartReal(t, spiretest.RealConfig{BinDir: bin, TrustDomain: td, AdminIDs: []spiffeid.ID{admin}})

	const file = `
entries:
  - {spiffeID: spiffe://demo.local/a, parentID: spiffe://demo.local/node/c1, selectors: ["k8s:ns:a"], x509TTL: 2h}
  - {spiffeID: spiffe://demo.local/b, parentID: spiffe://demo.local/node/c1, selectors: ["k8s:ns:b"], dnsNames: [b.test]}
`
	expect := func(what string, code int, part string, args ...string) {
		t.Helper()
		got, stdout, stderr := entries(t, file, args...)
		if got != code || !strings.Contains(stdout+stderr, part) {
			t.Errorf("%s: code %d, want %d and %q\n%s%s", what, got, code, part, stdout, stderr)
		}
	}
	expect("plan", 2, "+ spiffe://demo.local/a", "plan", "-socket", real.ServerSocket, "-")
	expect("apply", 0, "2 created, 0 updated", "apply", "-socket", real.ServerSocket, "-")
	expect("plan again", 0, "0 to create, 0 to update, 0 to delete", "plan", "-socket", real.ServerSocket, "-")

	shown, err := exec.Command(filepath.Join(bin, "spire-server"), "entry", "show", "-socketPath", real.ServerSocket).CombinedOutput()
	if err != nil || !strings.Contains(string(shown), "Found 2 entries") || !strings.Contains(string(shown), "X509-SVID TTL    : 7200") {
		t.Errorf("spire-server entry show: %v\n%s", err, shown)
	}

	// What spire-server creates out of its own format is what this program reads in it.
	data := filepath.Join(t.TempDir(), "data.json")
	const server = `{"entries": [{"spiffe_id": "spiffe://demo.local/c", "parent_id": "spiffe://demo.local/node/c1",
		"selectors": [{"type": "k8s", "value": "ns:c"}], "x509_svid_ttl": 60, "jwt_svid_ttl": 30, "dns_names": ["c.test"], "hint": "h",
		"admin": true, "downstream": true, "store_svid": true, "entryExpiry": 1893456000, "entry_id": "own.c"}]}`
	if err := os.WriteFile(data, []byte(server), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(bin, "spire-server"), "entry", "create", "-socketPath", real.ServerSocket, "-data", data).CombinedOutput(); err != nil {
		t.Fatalf("spire-server entry create: %v\n%s", err, out)
	}
	expect("spire-server's format", 0, "1 unchanged, 2 of others", "plan", "-socket", real.ServerSocket, "-owner", "own", data)
	if _, err := spire.Sync(t.Context(), real.Conn, nil, spire.SyncConfig{Owner: "own"}); err != nil {
		t.Fatal(err)
	}

	// By address: the test process is an admin by its uid.
	entry := spire.Entry{SPIFFEID: admin, ParentID: real.AgentID, Selectors: []spire.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", os.Getuid())}}}
	if _, err := spire.Sync(t.Context(), real.Conn, []spire.Entry{entry}, spire.SyncConfig{Owner: "test"}); err != nil {
		t.Fatal(err)
	}
	expect("by address", 0, "2 unchanged, 1 of others", "plan", "-server", real.ServerAddr, "-workload-api", "unix://"+real.AgentSocket, "-timeout", (30 * time.Second).String(), "-")
	expect("another server's ID", 1, "nothing changed", "plan", "-server", real.ServerAddr, "-server-id", "spiffe://demo.local/other",
		"-workload-api", "unix://"+real.AgentSocket, "-timeout", "5s", "-")

	empty := filepath.Join(t.TempDir(), "none.yaml")
	if err := os.WriteFile(empty, []byte("entries: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("too many deletes", 1, "more deletes than allowed", "apply", "-socket", real.ServerSocket, "-max-deletes", "1", empty)
	expect("all gone", 0, "2 deleted", "apply", "-socket", real.ServerSocket, "-max-deletes", "2", empty)
}

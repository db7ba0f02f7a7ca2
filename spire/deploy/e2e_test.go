//go:build e2e

package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/internal/loopback"
	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

// binDir is the folder of SPIRE's programs: the one that SPIRE_BIN_DIR names, or the
// programs of the images that are built from source.
func binDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("SPIRE_BIN_DIR"); dir != "" {
		return dir
	}
	return sourcetest.Binaries(t,
		sourcetest.File{Image: ServerImage, Path: "/opt/spire/bin/spire-server"},
		sourcetest.File{Image: AgentImage, Path: "/opt/spire/bin/spire-agent"},
		sourcetest.File{Image: OIDCImage, Path: "/opt/spire/bin/oidc-discovery-provider"},
	)
}

// TestE2ESPIREAcceptsTheConfigs has SPIRE's own programs read what is rendered; they
// refuse a key that they do not know.
func TestE2ESPIREAcceptsTheConfigs(t *testing.T) {
	bin := binDir(t)
	for name, cfg := range map[string]Config{"default": {}, "custom": custom} {
		r, err := newRenderer(cfg, "")
		if err != nil {
			t.Fatal(err)
		}
		for program, conf := range map[string]string{"spire-server": r.values.ServerConf, "spire-agent": r.values.AgentConf} {
			path := filepath.Join(t.TempDir(), "conf")
			if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
				t.Fatal(err)
			}
			out, err := run.Output(t.Context(), filepath.Join(bin, program), "validate", "-config", path)
			if err != nil {
				t.Errorf("%s of the %s config: %v\n%s\n%s", program, name, err, out, conf)
			}
		}
	}
}

// localPod is a server process in the place of a pod.
type localPod struct {
	bin  string
	real *spiretest.Real
}

func (p localPod) find(context.Context) (string, string, error) { return "local", "uid", nil }

func (p localPod) mint(ctx context.Context, _ string, id spiffeid.ID, ttl time.Duration) ([]byte, error) {
	out, err := run.Output(ctx, filepath.Join(p.bin, "spire-server"), "x509", "mint",
		"-socketPath", p.real.ServerSocket, "-spiffeID", id.String(), "-ttl", ttl.String())
	return []byte(out), err
}

func (p localPod) forward(context.Context, string) (string, func(), error) {
	return p.real.ServerAddr, func() {}, nil
}

// TestE2ERealServer: the minted SVID opens an admin connection to a real server.
func TestE2ERealServer(t *testing.T) {
	bin := binDir(t)
	real := spiretest.StartReal(t, spiretest.RealConfig{BinDir: bin, TrustDomain: td, AdminIDs: []spiffeid.ID{AdminID(td)}})

	t.Run("admin connection", func(t *testing.T) {
		conn, err := connect(t.Context(), td, localPod{bin, real})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := spire.Sync(t.Context(), conn, Entries(Config{}), spire.SyncConfig{}); err != nil {
			t.Fatal(err)
		}
		if n, err := spire.Count(t.Context(), conn); err != nil || n != 2 {
			t.Errorf("Count = %d, %v; want 2", n, err)
		}
		if agents, err := spire.Agents(t.Context(), conn); err != nil || len(agents) != 1 {
			t.Errorf("Agents = %v, %v; want one", agents, err)
		}
	})
	t.Run("output of fetch x509", func(t *testing.T) { testFetch(t, bin, real) })
	t.Run("OIDC discovery provider", func(t *testing.T) { testOIDC(t, bin, real) })
}

// The identity has no rights but those that the server's config gives it.
func TestE2ERealServerWithoutTheAdminID(t *testing.T) {
	bin := binDir(t)
	real := spiretest.StartReal(t, spiretest.RealConfig{BinDir: bin, TrustDomain: td})
	conn, err := connect(t.Context(), td, localPod{bin, real})
	if err == nil {
		conn.Close()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("error = %v, want PermissionDenied", err)
	}
}

// mine is an entry for this very process.
func mine(t *testing.T, real *spiretest.Real, path string) spire.Entry {
	t.Helper()
	e := spire.Entry{
		SPIFFEID: spiffeid.RequireFromPath(td, path), ParentID: real.AgentID,
		Selectors: []spire.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", os.Getuid())}},
	}
	if _, err := spire.Sync(t.Context(), real.Conn, []spire.Entry{e}, spire.SyncConfig{Owner: "test"}); err != nil {
		t.Fatal(err)
	}
	return e
}

// testFetch: fetched reads what the agent's program really prints, and it prints no key.
func testFetch(t *testing.T, bin string, real *spiretest.Real) {
	e := mine(t, real, "/canary/x")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := run.Output(ctx, filepath.Join(bin, "spire-agent"), "api", "fetch", "x509", "-socketPath", real.AgentSocket, "-timeout", "2s")
		if got := fetched(out); len(got) == 1 && got[0] == e.SPIFFEID.String() {
			if strings.Contains(out, "PRIVATE") {
				t.Error("the program printed a key")
			}
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not delivered; last seen: %q, %v", out, err)
		case <-tick.C:
		}
	}
}

// testOIDC runs the provider with the rendered config, moved to free ports and to the
// socket of the running agent.
func testOIDC(t *testing.T, bin string, real *spiretest.Real) {
	mine(t, real, "/oidc-discovery-provider")
	r, err := newRenderer(Config{}, "")
	if err != nil {
		t.Fatal(err)
	}
	port, health := loopback.FreePort(t), loopback.FreePort(t)
	conf := strings.NewReplacer(
		`":8080"`, fmt.Sprintf(`"127.0.0.1:%d"`, port), "bind_port = 8008", fmt.Sprintf("bind_port = %d", health),
		WorkloadSocket, real.AgentSocket,
	).Replace(r.values.OIDCConf)
	path := filepath.Join(t.TempDir(), "oidc.conf")
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	spiretest.Run(t, fmt.Sprintf("http://127.0.0.1:%d/ready", health), filepath.Join(bin, "oidc-discovery-provider"), "-config", path)

	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	status, body := ask(t, port, "spire-oidc.spire-system.svc", "/.well-known/openid-configuration")
	if err := json.Unmarshal(body, &doc); err != nil || status != http.StatusOK {
		t.Fatalf("discovery document: %d, %v\n%s", status, err, body)
	}
	issuer := Config{}.withDefaults().JWTIssuer
	if doc.Issuer != issuer || doc.JWKSURI != issuer+"/keys" {
		t.Errorf("discovery document = %+v, want issuer %s", doc, issuer)
	}
	if status, _ := ask(t, port, "elsewhere.example", "/.well-known/openid-configuration"); status != http.StatusBadRequest {
		t.Errorf("asked by another host name: %d, want a refusal", status)
	}
	var keys struct{ Keys []map[string]any }
	status, body = ask(t, port, "spire-oidc", "/keys")
	if err := json.Unmarshal(body, &keys); err != nil || status != http.StatusOK || len(keys.Keys) == 0 || keys.Keys[0]["use"] != "sig" {
		t.Errorf("keys: %d, %v\n%s", status, err, body)
	}
}

func ask(t *testing.T, port int, host, path string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, bytes.TrimSpace(body)
}

// Package kindtest is for tests that need a cluster as others run theirs.
package kindtest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/org/spire-vault-99-action/internal/run"
)

// Registry serves a registry, empty, until the test ends, and returns its address: this machine's
// "localhost", which containerd speaks plain HTTP to. The port is that of the given nodes'
// localhost too.
func Registry(tb testing.TB, nodes ...string) string {
	tb.Helper()
	listener, err := net.Listen("tcp", ":0") //nolint:gosec // nodes come from another network
	if err != nil {
		tb.Fatal(err)
	}
	server := &http.Server{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	tb.Cleanup(func() { _ = server.Close() })
	port := listener.Addr().(*net.TCPAddr).Port

	found, err := run.Output(tb.Context(), "docker", "network", "inspect", "kind", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}")
	if err != nil {
		tb.Fatal(err)
	}
	gateways := strings.Fields(found)
	i := slices.IndexFunc(gateways, func(s string) bool { return strings.Contains(s, ".") })
	if i < 0 {
		tb.Fatalf("the gateways of the network kind are %q: want one of IPv4", found)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	tb.Cleanup(stop)
	for _, node := range nodes {
		go func() { // until the node or the test is gone
			_ = run.Cmd{Argv: []string{"docker", "exec", node, "socat",
				fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", port), fmt.Sprintf("TCP:%s:%d", gateways[i], port)}}.Run(ctx)
		}()
	}
	return fmt.Sprintf("localhost:%d", port)
}

//go:build e2e

package ghostunnel

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"sigs.k8s.io/yaml"

	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/internal/loopback"
	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

var (
	td       = spiffeid.RequireTrustDomainFromString("demo.local")
	self     = spiffeid.RequireFromPath(td, "/self") // of every process of this user
	peer     = spiffeid.RequireFromPath(td, "/peer")
	stranger = spiffeid.RequireFromPath(td, "/stranger")
)

// lab is SPIRE, with ghostunnel's program.
type lab struct {
	*testing.T
	bin  string
	real *spiretest.Real
}

// TestE2ETunnel has ghostunnel itself run with the arguments of the manifests, between
// ends that are who they should be and ends that are not.
func TestE2ETunnel(t *testing.T) {
	bin := sourcetest.Binaries(t,
		sourcetest.File{Image: "ghcr.io/spiffe/spire-server:1.13.3", Path: "/opt/spire/bin/spire-server"},
		sourcetest.File{Image: "ghcr.io/spiffe/spire-agent:1.13.3", Path: "/opt/spire/bin/spire-agent"},
		sourcetest.File{Image: Image, Path: "/usr/bin/ghostunnel"},
	)
	l := lab{t, bin, spiretest.StartReal(t, spiretest.RealConfig{BinDir: bin, TrustDomain: td})}
	entry := spire.Entry{
		SPIFFEID: self, ParentID: l.real.AgentID,
		Selectors: []spire.Selector{{Type: "unix", Value: fmt.Sprintf("uid:%d", os.Getuid())}},
	}
	if _, err := spire.Sync(t.Context(), l.real.Conn, []spire.Entry{entry}, spire.SyncConfig{Owner: "test"}); err != nil {
		t.Fatal(err)
	}
	t.Run("client", func(t *testing.T) { lab{t, bin, l.real}.client() })
	t.Run("server", func(t *testing.T) { lab{t, bin, l.real}.server() })
}

// client: what goes in is told to the peer alone.
func (l lab) client() {
	for name, tc := range map[string]struct {
		who     spiffeid.ID
		reaches bool
	}{
		"the peer":        {peer, true},
		"somebody else":   {stranger, false},
		"the tunnel's ID": {self, false},
	} {
		l.Run(name, func(t *testing.T) {
			l := lab{t, l.bin, l.real}
			cfg := tlsconfig.MTLSServerConfig(l.mint(tc.who), l.real.Bundle, tlsconfig.AuthorizeID(self))
			heard, target := l.listen(func(c net.Conn) net.Conn { return tls.Server(c, cfg) })
			port := loopback.FreePort(t)
			l.start(Tunnel{Name: "t", Mode: Client, Listen: fmt.Sprintf("127.0.0.1:%d", port), Target: target, Peers: []spiffeid.ID{peer}, StatusPort: loopback.FreePort(t)})
			answer, err := say(fmt.Sprintf("127.0.0.1:%d", port), nil, "secret\n")
			l.judge(tc.reaches, answer, err, heard)
		})
	}
}

// server: the target hears the peer alone.
func (l lab) server() {
	heard, target := l.listen(func(c net.Conn) net.Conn { return c })
	port := loopback.FreePort(l.T)
	l.start(Tunnel{Name: "t", Mode: Server, Listen: fmt.Sprintf("127.0.0.1:%d", port), Target: target, Peers: []spiffeid.ID{peer}, StatusPort: loopback.FreePort(l.T)})
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	as := func(id spiffeid.ID) *tls.Config {
		return tlsconfig.MTLSClientConfig(l.mint(id), l.real.Bundle, tlsconfig.AuthorizeID(self))
	}
	for name, tc := range map[string]struct {
		cfg     *tls.Config
		reaches bool
	}{
		"the peer":      {as(peer), true},
		"somebody else": {as(stranger), false},
		"nobody":        {tlsconfig.TLSClientConfig(l.real.Bundle, tlsconfig.AuthorizeID(self)), false},
		"plain text":    {nil, false},
	} {
		l.Run(name, func(t *testing.T) {
			answer, err := say(addr, tc.cfg, "secret\n")
			lab{t, l.bin, l.real}.judge(tc.reaches, answer, err, heard)
		})
	}
}

// judge compares what came back and what was heard with what should be.
func (l lab) judge(reaches bool, answer string, err error, heard <-chan string) {
	l.Helper()
	var got string
	if reaches {
		got = <-heard
	} else {
		select {
		case got = <-heard:
		default: // it is told before the answer, and the connection is closed by now
		}
	}
	if (got == "secret\n") != reaches || (answer == "heard\n") != reaches || (err == nil) != reaches {
		l.Errorf("reached %t; heard %q, answered %q, %v", reaches, got, answer, err)
	}
}

// listen answers each line with "heard", and tells it to the channel before.
func (l lab) listen(wrap func(net.Conn) net.Conn) (<-chan string, string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { listener.Close() })
	heard := make(chan string, 16)
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				conn := wrap(c)
				if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil {
					heard <- line
					_, _ = io.WriteString(conn, "heard\n")
				}
			}()
		}
	}()
	return heard, listener.Addr().String()
}

// say sends a line, over TLS if there is a configuration, and returns the answer.
func say(addr string, cfg *tls.Config, line string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if cfg != nil {
		conn = tls.Client(conn, cfg)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", fmt.Errorf("neither answered nor closed: %w", err)
	}
	return answer, err
}

// mint is an SVID from the server itself.
func (l lab) mint(id spiffeid.ID) *x509svid.SVID {
	l.Helper()
	dir := l.TempDir()
	if _, err := run.Output(l.Context(), filepath.Join(l.bin, "spire-server"), "x509", "mint",
		"-socketPath", l.real.ServerSocket, "-spiffeID", id.String(), "-ttl", "10m", "-write", dir); err != nil {
		l.Fatal(err)
	}
	svid, err := x509svid.Load(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		l.Fatal(err)
	}
	return svid
}

// start runs the tunnel as its container would.
func (l lab) start(tunnel Tunnel) {
	l.Helper()
	text, err := Container(Config{Image: Image, PullPolicy: "Never", Volume: "v"}, tunnel, false)
	if err != nil {
		l.Fatal(err)
	}
	var containers []struct{ Args []string }
	if err := yaml.Unmarshal([]byte(text), &containers); err != nil || len(containers) != 1 {
		l.Fatalf("%v\n%s", err, text)
	}
	argv := []string{filepath.Join(l.bin, "ghostunnel")}
	for _, a := range containers[0].Args {
		a = strings.Replace(a, "/run/spire/sockets/agent.sock", l.real.AgentSocket, 1)
		argv = append(argv, strings.Replace(a, "http://0.0.0.0:", "http://127.0.0.1:", 1))
	}
	spiretest.Run(l.T, fmt.Sprintf("http://127.0.0.1:%d/_metrics", tunnel.StatusPort), argv...)
}

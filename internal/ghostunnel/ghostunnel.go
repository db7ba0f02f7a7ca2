// Package ghostunnel is the sidecar for a program that knows TLS but not SPIFFE, or
// neither: ghostunnel from its own module. One at each end makes a connection mTLS, in
// which both verify the other's SPIFFE ID. Its SVID is that of the pod, from the Workload
// API: renewed in memory, never on disk.
package ghostunnel

import (
	"embed"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/manifest"
)

//go:embed container.yaml.tmpl
var files embed.FS

// Image is the release that the arguments are written for.
const Image = "docker.io/ghostunnel/ghostunnel:v1.8.4"

// Mode is an end of the tunnel.
type Mode string

// The modes.
const (
	Server Mode = "server" // takes mTLS connections, and passes them on within the pod
	Client Mode = "client" // takes connections within the pod, and passes them on over mTLS
)

// Tunnel is one end.
type Tunnel struct {
	Name string // of the container
	Mode Mode
	// Listen is host:port. Target is host:port or, for a Server, "unix:" and a path. The
	// name in a Client's Target must resolve, or it ends and is started anew.
	Listen, Target string
	Peers          []spiffeid.ID // who alone may be at the other end
	// StatusPort tells the kubelet that the tunnel listens, which it does once it has
	// its SVID.
	StatusPort int
}

// Config is the same for all tunnels of a pod. All fields but Mounts are needed.
type Config struct {
	Image, PullPolicy string
	Volume            string // of the pod: the folder with the Workload API's agent.sock
	// Mounts are further volumes of the pod, by name, and where they are mounted.
	Mounts map[string]string
}

// Container is the YAML list item of a container: an init container that goes on beside
// the pod's own ones (which start once it listens) if before is set.
func Container(cfg Config, t Tunnel, before bool) (string, error) {
	if t.Mode != Server && t.Mode != Client || len(t.Peers) == 0 || t.StatusPort == 0 {
		return "", errors.New("ghostunnel: a tunnel needs its mode, its peers and a status port")
	}
	text, err := manifest.Render(files, "container.yaml.tmpl", struct {
		Config
		Tunnel
		Verify string
		Before bool
	}{cfg, t, map[Mode]string{Server: "allow-uri", Client: "verify-uri"}[t.Mode], before}, nil)
	if err != nil {
		return "", fmt.Errorf("ghostunnel: %w", err)
	}
	return string(text), nil
}

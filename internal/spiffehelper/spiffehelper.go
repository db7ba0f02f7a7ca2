// Package spiffehelper is the sidecar that keeps a server's TLS files fresh:
// SPIFFE's own spiffe-helper, which writes the SVID of its pod to a shared folder in
// memory and has the server read it anew at each renewal.
package spiffehelper

import (
	"embed"

	"github.com/org/spire-vault-99-action/internal/manifest"
)

//go:embed *.tmpl
var files embed.FS

// Where the server finds its files, in every container that mounts volume "svid".
const (
	Dir    = "/run/svid"
	Cert   = Dir + "/svid.pem"
	Key    = Dir + "/svid_key.pem"
	Bundle = Dir + "/bundle.pem"
	PID    = Dir + "/server.pid" // written by the server: who gets the signal
)

// Files are these places, for templates.
var Files = struct{ Cert, Key, Bundle, PID string }{Cert, Key, Bundle, PID}

// Image is the release that the configuration is written for.
const Image = "ghcr.io/spiffe/spiffe-helper:0.11.0"

// Config says how the sidecar is to run. All fields are needed.
type Config struct {
	Image, PullPolicy string
	User              int    // the server's: a signal from another one is refused
	Socket            string // the Workload API's folder on the node, with agent.sock in it
}

// Conf is the helper's configuration file, to be put into a ConfigMap under the
// key "helper.conf". It signals the server whose process ID is in PID, so the pod
// needs shareProcessNamespace.
func Conf() (string, error) {
	text, err := manifest.Render(files, "helper.conf.tmpl", struct{ Dir, PID string }{Dir, PID}, nil)
	return string(text), err
}

// Container is the YAML list item of an init container that goes on beside the
// server: the server starts once the files are there.
func Container(cfg Config) (string, error) {
	text, err := manifest.Render(files, "container.yaml.tmpl", cfg, nil)
	return string(text), err
}

// Volumes is the YAML of the pod's volumes that Container and the server mount:
// "svid" and "spire-socket", and "helper" out of the named ConfigMap.
func Volumes(cfg Config, configMap string) (string, error) {
	text, err := manifest.Render(files, "volumes.yaml.tmpl", struct {
		Config
		ConfigMap string
	}{cfg, configMap}, nil)
	return string(text), err
}

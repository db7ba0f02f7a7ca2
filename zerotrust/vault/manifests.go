package vault

import (
	"embed"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/ghostunnel"
	"github.com/org/spire-vault-99-action/internal/manifest"
	"github.com/org/spire-vault-99-action/internal/spiffehelper"
)

//go:embed manifests
var files embed.FS

// Manifests are the YAML documents of an installation: a pure function of cfg.
func Manifests(cfg Config) ([]byte, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	sidecar := spiffehelper.Config{Image: cfg.HelperImage, PullPolicy: cfg.PullPolicy, User: 100, Socket: cfg.SocketDir}
	v := struct {
		Config
		SVID                                            any
		HCL, HelperConf, Helper, HelperVolumes, Tunnels string
	}{Config: cfg, SVID: spiffehelper.Files}
	hcl, err := manifest.Render(files, "manifests/vault.hcl.tmpl", v, nil)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	v.HCL = string(hcl)
	if v.HelperConf, err = spiffehelper.Conf(); err != nil {
		return nil, err
	}
	if v.Helper, err = spiffehelper.Container(sidecar); err != nil {
		return nil, err
	}
	if v.HelperVolumes, err = spiffehelper.Volumes(sidecar, cfg.Name); err != nil {
		return nil, err
	}
	for i, t := range cfg.Tunnels {
		text, err := ghostunnel.Container(
			ghostunnel.Config{Image: cfg.TunnelImage, PullPolicy: cfg.PullPolicy, Volume: "spire-socket"},
			ghostunnel.Tunnel{
				Name: "tunnel-" + t.Name, Mode: ghostunnel.Client, Listen: fmt.Sprintf("127.0.0.1:%d", t.Port),
				Target: t.Address, Peers: []spiffeid.ID{t.ID}, StatusPort: firstStatusPort + i,
			}, true)
		if err != nil {
			return nil, fmt.Errorf("vault: tunnel %s: %w", t.Name, err)
		}
		v.Tunnels += text
	}
	doc, err := manifest.Render(files, "manifests/vault.yaml", v, nil)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return doc, nil
}

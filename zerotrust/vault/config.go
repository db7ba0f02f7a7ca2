package vault

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/ghostunnel"
	"github.com/org/spire-vault-99-action/internal/manifest"
	"github.com/org/spire-vault-99-action/internal/spiffehelper"
)

// Flavor is which of the two servers runs. They share manifests and API.
type Flavor string

// The flavors.
const (
	Vault   Flavor = "vault"
	OpenBao Flavor = "openbao"
)

// The images that the manifests are written for.
const (
	VaultImage   = "docker.io/hashicorp/vault:1.21.0"
	OpenBaoImage = "quay.io/openbao/openbao:2.4.4"
)

// Port is that of Vault's API.
const Port = 8200

// Config says what to install and how to reach it. ID, Bundle and UnsealerImage
// are required, the rest works as it is; calls about the same installation need the
// same Config.
type Config struct {
	// Namespace, and the name of StatefulSet, Service and service account. "" is
	// "vault" for both. The namespace must exist.
	Namespace, Name string
	// Flavor is Vault unless set; Image is that flavor's by default.
	Flavor Flavor
	Image  string
	// HelperImage is spiffe-helper's, by default the release that its configuration is
	// written for. UnsealerImage holds the program of zerotrust/vault/unsealer.
	HelperImage, UnsealerImage string
	// TunnelImage is ghostunnel's, by default the release that its arguments are written
	// for. Tunnels are those of the Settings that the server is to have.
	TunnelImage string
	Tunnels     []Tunnel
	// PullPolicy of all containers. "" is IfNotPresent.
	PullPolicy string
	// ID is the server's SPIFFE ID, by its service account; Bundle is what it is
	// verified against.
	ID     spiffeid.ID
	Bundle x509bundle.Source
	// SocketDir is the folder of the Workload API's agent.sock on the nodes. "" is
	// /run/spire/sockets.
	SocketDir string
	// StorageClass and StorageSize of its volume. "" is the default class, and 256Mi.
	StorageClass, StorageSize string
}

func (c Config) withDefaults() (Config, error) {
	c.Namespace, c.Name = cmp.Or(c.Namespace, "vault"), cmp.Or(c.Name, "vault")
	c.Flavor = cmp.Or(c.Flavor, Vault)
	c.Image = cmp.Or(c.Image, map[Flavor]string{Vault: VaultImage, OpenBao: OpenBaoImage}[c.Flavor])
	c.HelperImage = cmp.Or(c.HelperImage, spiffehelper.Image)
	c.TunnelImage = cmp.Or(c.TunnelImage, ghostunnel.Image)
	c.PullPolicy = cmp.Or(c.PullPolicy, "IfNotPresent")
	c.SocketDir = cmp.Or(c.SocketDir, "/run/spire/sockets")
	c.StorageSize = cmp.Or(c.StorageSize, "256Mi")
	var faults []error
	if c.Flavor != Vault && c.Flavor != OpenBao {
		faults = append(faults, fmt.Errorf("flavor %q: use %s or %s", c.Flavor, Vault, OpenBao))
	}
	if c.ID.IsZero() {
		faults = append(faults, errors.New("Config.ID is required"))
	}
	faults = append(faults, manifest.Plain(map[string]string{
		"Namespace": c.Namespace, "Name": c.Name, "Image": c.Image, "HelperImage": c.HelperImage, "UnsealerImage": c.UnsealerImage,
		"TunnelImage": c.TunnelImage, "PullPolicy": c.PullPolicy, "SocketDir": c.SocketDir, "StorageSize": c.StorageSize, "StorageClass": cmp.Or(c.StorageClass, "none"),
	}))
	for _, t := range c.Tunnels {
		faults = append(faults, manifest.Plain(map[string]string{"Tunnels.Name": t.Name, "Tunnels.Address": t.Address}))
	}
	if err := errors.Join(faults...); err != nil {
		return c, fmt.Errorf("vault: %w", err)
	}
	return c, nil
}

// Address is the server's URL inside the cluster.
func (c Config) Address() string {
	return fmt.Sprintf("https://%s.%s.svc.cluster.local:%d", c.Name, c.Namespace, Port)
}

// Program is the server's command.
func (c Config) Program() string {
	if c.Flavor == OpenBao {
		return "bao"
	}
	return "vault"
}

// KeySecret is the one Secret that holds the unseal key.
func (c Config) KeySecret() string { return c.Name + "-unseal-key" }

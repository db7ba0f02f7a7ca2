package deploy

import (
	"bytes"
	"cmp"
	"embed"
	"fmt"
	"strconv"
	"strings"
	"text/template"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/internal/ghostunnel"
	"github.com/org/spire-vault-99-action/internal/manifest"
)

//go:embed manifests/*.yaml manifests/*.tmpl
var files embed.FS

// The manifests. Agents start at once where the server has written its trust bundle,
// the others at any time.
const (
	serverManifest = "server.yaml"
	oidcManifest   = "oidc.yaml"
	canaryManifest = "canary.yaml"
	agentManifest  = "agent.yaml"
)

// values are what the templates see.
type values struct {
	Config
	NodeStorage                     bool
	ServerAddress                   string // where agents find the server
	ServerPort, AgentHealthPort     int
	ServerConf, AgentConf, OIDCConf string
	KeysTunnel                      string // YAML, "" for none
	KeysPort                        int
}

// Manifests are the YAML documents of an installation, in the order in which Install
// applies them. They are a pure function of cfg; StorageAuto is StorageClaim here, and
// agents find the server by its name, where Install gives them its cluster IP.
func Manifests(cfg Config) ([]byte, error) {
	r, err := newRenderer(cfg, "")
	if err != nil {
		return nil, err
	}
	return r.all()
}

type renderer struct{ values values }

// newRenderer is for agents that find the server at an address, "" being the
// Service's name.
func newRenderer(cfg Config, serverAddress string) (*renderer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	r := &renderer{values{
		Config: cfg, NodeStorage: cfg.Storage == StorageNode,
		ServerAddress: cmp.Or(serverAddress, "spire-server."+cfg.Namespace+".svc"),
		ServerPort:    serverPort, AgentHealthPort: agentHealthPort, KeysPort: KeysPort,
	}}
	v := &r.values
	v.AdminIDs = append([]spiffeid.ID{AdminID(cfg.TrustDomain)}, cfg.AdminIDs...)
	host := "spire-oidc." + cfg.Namespace
	v.OIDCDomains = append([]string{"spire-oidc", host, host + ".svc", host + ".svc.cluster.local"}, cfg.OIDCDomains...)
	if len(cfg.KeyReaders) > 0 {
		v.OIDCDomains = append(v.OIDCDomains, "127.0.0.1")
		tunnel, err := ghostunnel.Container(
			ghostunnel.Config{Image: cfg.TunnelImage, PullPolicy: cfg.PullPolicy, Volume: "sockets"},
			ghostunnel.Tunnel{
				Name: "tunnel", Mode: ghostunnel.Server, Listen: fmt.Sprintf("0.0.0.0:%d", KeysPort),
				Target: "127.0.0.1:8080", Peers: cfg.KeyReaders, StatusPort: 8091,
			}, false)
		if err != nil {
			return nil, fmt.Errorf("SPIRE: %w", err)
		}
		v.KeysTunnel = tunnel
	}
	for _, conf := range []struct {
		name string
		to   *string
	}{
		{"server.conf.tmpl", &v.ServerConf}, {"agent.conf.tmpl", &v.AgentConf}, {"oidc.conf.tmpl", &v.OIDCConf},
	} {
		text, err := r.render(conf.name)
		if err != nil {
			return nil, err
		}
		*conf.to = string(text)
	}
	return r, nil
}

func (r *renderer) all() ([]byte, error) {
	var docs [][]byte
	for _, name := range []string{serverManifest, oidcManifest, canaryManifest, agentManifest} {
		doc, err := r.render(name)
		if err != nil {
			return nil, err
		}
		docs = append(docs, doc)
	}
	return bytes.Join(docs, []byte("---\n")), nil
}

func (r *renderer) render(name string) ([]byte, error) {
	doc, err := manifest.Render(files, "manifests/"+name, r.values, template.FuncMap{"ids": quotedIDs})
	if err != nil {
		return nil, fmt.Errorf("SPIRE: %w", err)
	}
	return doc, nil
}

func quotedIDs(ids []spiffeid.ID) string {
	var quoted []string
	for _, id := range ids {
		quoted = append(quoted, strconv.Quote(id.String()))
	}
	return strings.Join(quoted, ", ")
}

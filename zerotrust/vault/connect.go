package vault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// Conn reaches a Vault in a cluster from outside: through a forwarded port, over TLS,
// accepting the server's SPIFFE ID alone. If its pod is made anew meanwhile, the next
// call reaches the new one. It carries no token of its own. The caller closes it.
type Conn struct {
	cfg    Config
	kube   *kube.Client
	client *api.Client

	mu      sync.Mutex
	forward *kube.Forward
}

// Connect opens a connection to the server's pod, once that runs; the server may
// be sealed. ctx bounds the connecting alone.
func Connect(ctx context.Context, cluster *rest.Config, cfg Config) (*Conn, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Bundle == nil {
		return nil, errors.New("vault: Config.Bundle is required")
	}
	client, err := kube.New(cluster)
	if err != nil {
		return nil, err
	}
	c := &Conn{cfg: cfg, kube: client}
	if _, err := c.forwarded(ctx); err != nil {
		return nil, fmt.Errorf("vault: connect to pod %s/%s: %w", cfg.Namespace, cfg.pod(), err)
	}
	if c.client, err = c.newClient(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// forwarded is a local address that leads to the server, through a forward that is opened
// again when the one before has ended with its pod.
func (c *Conn) forwarded(ctx context.Context) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forward != nil {
		select {
		case <-c.forward.Done():
			c.forward.Close()
			c.forward = nil
		default:
			return c.forward.Addr, nil
		}
	}
	forward, err := c.kube.Forward(ctx, c.cfg.Namespace, c.cfg.pod(), Port)
	if err != nil {
		return "", err
	}
	c.forward = forward
	return forward.Addr, nil
}

func (c *Conn) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	address, err := c.forwarded(ctx)
	if err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// newClient is a client without a token.
func (c *Conn) newClient() (*api.Client, error) {
	client, err := api.NewClient(&api.Config{
		Address: c.cfg.Address(),
		HttpClient: &http.Client{
			Transport: &http.Transport{
				DialContext:     c.dial,
				TLSClientConfig: tlsconfig.TLSClientConfig(c.cfg.Bundle, tlsconfig.AuthorizeID(c.cfg.ID)),
			},
			Timeout: 30 * time.Second,
		},
		DisableRedirects: true,
	})
	if err != nil {
		return nil, fmt.Errorf("vault: make a client: %w", err)
	}
	// Whatever the caller's environment says of another Vault is not meant here.
	client.ClearToken()
	client.ClearNamespace()
	client.SetMaxRetries(0)
	return client, nil
}

// Close ends the connection.
func (c *Conn) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.forward != nil {
		c.forward.Close()
	}
}

// pod is the StatefulSet's only one.
func (c Config) pod() string { return c.Name + "-0" }

// Status is what the server says of itself.
type Status struct {
	Initialized, Sealed bool
	Version, Storage    string
}

// GetStatus asks the server, which may be sealed.
func (c *Conn) GetStatus(ctx context.Context) (Status, error) {
	s, err := c.client.Sys().SealStatusWithContext(ctx)
	if err != nil {
		return Status{}, fmt.Errorf("vault: ask %s for its seal status: %w", c.cfg.Address(), err)
	}
	return Status{s.Initialized, s.Sealed, s.Version, s.StorageType}, nil
}

// Session is a connection with a token.
type Session struct{ client *api.Client }

// Close revokes the session's token.
func (s *Session) Close(ctx context.Context) error {
	if err := s.client.Auth().Token().RevokeSelfWithContext(ctx, ""); err != nil {
		return fmt.Errorf("vault: revoke the session's token: %w", err)
	}
	return nil
}

// Login opens a session with a JWT-SVID for the given role of the jwt auth method.
func (c *Conn) Login(ctx context.Context, role, jwt string) (*Session, error) {
	client, err := c.newClient()
	if err != nil {
		return nil, err
	}
	secret, err := client.Logical().WriteWithContext(ctx, "auth/"+AuthPath+"/login", map[string]any{"role": role, "jwt": jwt})
	if err != nil {
		return nil, fmt.Errorf("vault: log in as role %s: %w", role, err)
	}
	if secret == nil || secret.Auth == nil {
		return nil, fmt.Errorf("vault: log in as role %s: the answer holds no token", role)
	}
	client.SetToken(secret.Auth.ClientToken)
	return &Session{client}, nil
}

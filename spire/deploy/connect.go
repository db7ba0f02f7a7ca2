package deploy

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

const (
	serverSelector = "app.kubernetes.io/name=spire-server"
	// sessionTTL is how long the session's SVID lives, renewBefore how long before
	// its end another is made.
	sessionTTL  = time.Hour
	renewBefore = 5 * time.Minute
)

// Conn is an admin connection to a SPIRE server in a cluster, for package spire and
// any of the server's APIs. The caller closes it.
type Conn struct {
	grpc.ClientConnInterface
	grpc *grpc.ClientConn
}

// Close ends the connection and the port forward below it.
func (c *Conn) Close() error { return c.grpc.Close() }

// Connect opens an admin connection from outside the cluster, with the rights of
// config alone: it runs "spire-server x509 mint" in the server's pod, which makes a
// short-lived SVID for AdminID, forwards a port to the pod, and speaks mTLS through
// it with that SVID, accepting the server's own identity only. Key and SVID stay in
// memory.
//
// The connection heals by itself: when it breaks, because the pod was replaced or
// the forward died, the next call looks for the ready pod, mints anew if it is
// another one or the SVID is about to end, and forwards again. Calls in between fail
// with Unavailable, which package spire retries.
//
// ctx bounds the connecting alone.
func Connect(ctx context.Context, config *rest.Config, cfg Config) (*Conn, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	client, err := kube.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the SPIRE server: %w", err)
	}
	conn, err := connect(ctx, cfg.TrustDomain, inCluster{client, cfg})
	if err != nil {
		return nil, fmt.Errorf("connect to the SPIRE server in namespace %s: %w", cfg.Namespace, err)
	}
	return conn, nil
}

// serverPod is how a server's pod is reached.
type serverPod interface {
	// find is the ready pod: its name, and its UID, which a replacement does not share.
	find(ctx context.Context) (name, uid string, err error)
	// mint has the pod make an SVID: PEM of the chain, the key, the roots.
	mint(ctx context.Context, pod string, id spiffeid.ID, ttl time.Duration) ([]byte, error)
	// forward gives a local address that leads to the pod's API until close is called.
	forward(ctx context.Context, pod string) (addr string, close func(), err error)
}

type inCluster struct {
	client *kube.Client
	cfg    Config
}

func (c inCluster) find(ctx context.Context) (name, uid string, err error) {
	pods, err := c.client.ReadyPods(ctx, c.cfg.Namespace, serverSelector)
	if err != nil {
		return "", "", err
	}
	if len(pods) == 0 {
		return "", "", fmt.Errorf("no ready pod with label %s in namespace %s: is SPIRE installed there?", serverSelector, c.cfg.Namespace)
	}
	return pods[0].Name, string(pods[0].UID), nil
}

func (c inCluster) mint(ctx context.Context, pod string, id spiffeid.ID, ttl time.Duration) ([]byte, error) {
	var out bytes.Buffer
	err := c.client.Exec(ctx, kube.Exec{
		Namespace: c.cfg.Namespace, Pod: pod, Container: "spire-server", Stdout: &out,
		Argv: []string{"/opt/spire/bin/spire-server", "x509", "mint", "-spiffeID", id.String(), "-ttl", ttl.String()},
	})
	return out.Bytes(), err
}

func (c inCluster) forward(ctx context.Context, pod string) (string, func(), error) {
	f, err := c.client.Forward(ctx, c.cfg.Namespace, pod, serverPort)
	if err != nil {
		return "", nil, err
	}
	return f.Addr, f.Close, nil
}

func connect(ctx context.Context, td spiffeid.TrustDomain, pod serverPod) (*Conn, error) {
	s := &session{td: td, pod: pod}
	serverID := spiffeid.RequireFromPath(td, "/spire/server")
	tls := tlsconfig.MTLSClientConfig(s, s, tlsconfig.AuthorizeID(serverID))
	conn, err := grpc.NewClient("passthrough:///spire-server",
		grpc.WithContextDialer(s.dial),
		grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		return nil, err
	}
	// The first call says whether all of it works, with what went wrong if not.
	if _, err := entryv1.NewEntryClient(conn).CountEntries(ctx, &entryv1.CountEntriesRequest{}); err != nil {
		_ = conn.Close()
		switch last := s.lastError(); {
		case last == nil:
		case status.Code(err) == codes.Unavailable:
			err = last // which gRPC's own quotes
		default:
			err = fmt.Errorf("%w (%w)", last, err)
		}
		return nil, err
	}
	return &Conn{conn, conn}, nil
}

// session holds the identity of a connection. gRPC dials one connection at a time and
// only then shakes hands, so the identity is always that for the pod dialled.
type session struct {
	td  spiffeid.TrustDomain
	pod serverPod

	mu     sync.Mutex
	uid    string // of the pod that minted
	svid   *x509svid.SVID
	bundle *x509bundle.Bundle
	err    error // of the last dial
}

// dial is called by gRPC for each new connection.
func (s *session) dial(ctx context.Context, _ string) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn, err := s.dialPod(ctx)
	s.err = err
	return conn, err
}

func (s *session) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *session) dialPod(ctx context.Context) (net.Conn, error) {
	name, uid, err := s.pod.find(ctx)
	if err != nil {
		return nil, err
	}
	// Another pod may have another authority, if the data was lost.
	if s.svid == nil || s.uid != uid || time.Until(s.svid.Certificates[0].NotAfter) < renewBefore {
		out, err := s.pod.mint(ctx, name, AdminID(s.td), sessionTTL)
		if err != nil {
			return nil, fmt.Errorf("mint an admin SVID in pod %s: %w", name, err)
		}
		if s.svid, s.bundle, err = parseMinted(s.td, out); err != nil {
			return nil, fmt.Errorf("mint an admin SVID in pod %s: %w", name, err)
		}
		s.uid = uid
	}
	addr, stop, err := s.pod.forward(ctx, name)
	if err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		stop()
		return nil, fmt.Errorf("connect through the forwarded port to pod %s: %w", name, err)
	}
	return &forwardedConn{Conn: conn, stop: stop}, nil
}

// forwardedConn ends its port forward with itself.
type forwardedConn struct {
	net.Conn
	stop func()
}

func (c *forwardedConn) Close() error {
	err := c.Conn.Close()
	c.stop()
	return err
}

// GetX509SVID is for the handshake.
func (s *session) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.svid == nil {
		return nil, errors.New("no SVID has been minted yet")
	}
	return s.svid, nil
}

// GetX509BundleForTrustDomain is for the handshake.
func (s *session) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bundle == nil {
		return nil, errors.New("no trust bundle has been read yet")
	}
	return s.bundle.GetX509BundleForTrustDomain(td)
}

// parseMinted reads the output of "spire-server x509 mint": the certificates before the
// key are the SVID's chain, those after it the trust bundle. Its errors never
// quote the output, which has a key in it.
func parseMinted(td spiffeid.TrustDomain, out []byte) (*x509svid.SVID, *x509bundle.Bundle, error) {
	var chain, key, roots []byte
	for rest := out; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch text := pem.EncodeToMemory(block); {
		case block.Type == "PRIVATE KEY":
			key = append(key, text...)
		case key == nil:
			chain = append(chain, text...)
		default:
			roots = append(roots, text...)
		}
	}
	if chain == nil || key == nil || roots == nil {
		return nil, nil, fmt.Errorf("unexpected output of spire-server x509 mint: found chain: %v, key: %v, roots: %v", chain != nil, key != nil, roots != nil)
	}
	svid, err := x509svid.Parse(chain, key)
	if err != nil {
		return nil, nil, fmt.Errorf("SVID in the output of spire-server x509 mint: %w", err)
	}
	bundle, err := x509bundle.Parse(td, roots)
	if err != nil {
		return nil, nil, fmt.Errorf("roots in the output of spire-server x509 mint: %w", err)
	}
	return svid, bundle, nil
}

// Package kube is what this module needs of a Kubernetes cluster: apply and
// delete manifests, run a command in a pod, forward a port, wait. Nothing in it
// prints, client-go's own warnings included.
package kube

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/klog/v2"
)

// Client talks to one cluster. It is safe for concurrent use.
type Client struct {
	cfg       *rest.Config
	clientset kubernetes.Interface
	dynamic   dynamic.Interface
	mapper    meta.ResettableRESTMapperWithContext // asks the cluster at its first use, and again after a reset
}

// New makes a client from a copy of cfg; it does not talk to the cluster yet.
func New(cfg *rest.Config) (*Client, error) {
	if cfg == nil {
		return nil, errors.New("kube: no connection to a cluster was given")
	}
	cfg = rest.CopyConfig(cfg)
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.WarningHandlerWithContext = nil
	if cfg.QPS == 0 {
		// client-go's default of 5 a second makes applying a few dozen objects slow.
		cfg.QPS, cfg.Burst = 50, 100
	}
	if cfg.UserAgent == "" {
		cfg.UserAgent = "spire-vault-99-action"
	}
	httpClient, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("kube: connection to %s: %w", cfg.Host, err)
	}
	clientset, err := kubernetes.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kube: connection to %s: %w", cfg.Host, err)
	}
	dyn, err := dynamic.NewForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kube: connection to %s: %w", cfg.Host, err)
	}
	disco, err := discovery.NewDiscoveryClientForConfigAndClient(cfg, httpClient)
	if err != nil {
		return nil, fmt.Errorf("kube: connection to %s: %w", cfg.Host, err)
	}
	return &Client{
		cfg: cfg, clientset: clientset, dynamic: dyn,
		mapper: restmapper.NewDeferredDiscoveryRESTMapperWithContext(memory.NewMemCacheClientWithContext(disco)),
	}, nil
}

// REST is a copy of the connection.
func (c *Client) REST() *rest.Config { return rest.CopyConfig(c.cfg) }

// Clientset is client-go's typed client on the same connection.
func (c *Client) Clientset() kubernetes.Interface { return c.clientset }

// Dynamic is client-go's untyped client on the same connection.
func (c *Client) Dynamic() dynamic.Interface { return c.dynamic }

// quiet is a klog logger that drops everything: client-go's streams report through
// klog, to stderr, what they cannot return.
func quiet() klog.Logger { return logr.Discard() }

// tailBytes is how much of a command's stderr an error keeps.
const tailBytes = 4096

// tailWriter keeps the last tailBytes bytes, and passes all of them on.
type tailWriter struct {
	to  io.Writer
	buf []byte
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	if over := len(w.buf) - tailBytes; over > 0 {
		w.buf = append(w.buf[:0], w.buf[over:]...)
	}
	if w.to == nil {
		return len(p), nil
	}
	return w.to.Write(p)
}

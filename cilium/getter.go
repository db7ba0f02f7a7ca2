package cilium

import (
	"context"
	"io"
	"net/http"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// getter gives Helm a cluster from a *rest.Config, with no kubeconfig file.
type getter struct {
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
	mapper    meta.ResettableRESTMapper
}

// newGetter binds all of Helm's requests to ctx, which Helm itself does not do, and
// hands the API server's warnings to warn instead of printing them.
func newGetter(ctx context.Context, cfg *rest.Config, warn func(message string)) (*getter, error) {
	bound := rest.CopyConfig(cfg)
	bound.Wrap(func(next http.RoundTripper) http.RoundTripper { return boundTransport{ctx, next} })
	bound.WarningHandler, bound.WarningHandlerWithContext = warnings(warn), nil
	// client-go's default of 5 requests a second makes an install wait on itself.
	bound.QPS, bound.Burst = 100, 200
	d, err := discovery.NewDiscoveryClientForConfig(bound)
	if err != nil {
		return nil, err
	}
	cached := memory.NewMemCacheClient(d)
	return &getter{config: bound, discovery: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapper(cached)}, nil
}

func (g *getter) ToRESTConfig() (*rest.Config, error)    { return g.config, nil }
func (g *getter) ToRESTMapper() (meta.RESTMapper, error) { return g.mapper, nil }
func (g *getter) ToRawKubeConfigLoader() clientcmd.ClientConfig {
	return clientcmd.NewDefaultClientConfig(*clientcmdapi.NewConfig(), &clientcmd.ConfigOverrides{
		Context: clientcmdapi.Context{Namespace: Namespace},
	})
}
func (g *getter) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return g.discovery, nil
}

type warnings func(message string)

// HandleWarningHeader takes one warning header; 299 is the code of all of them:
// https://kubernetes.io/blog/2020/09/03/warnings/.
func (w warnings) HandleWarningHeader(code int, _, message string) {
	if code == 299 && message != "" {
		w(message)
	}
}

// boundTransport ends every request when ctx ends, whatever the request's own
// context says.
type boundTransport struct {
	ctx  context.Context
	next http.RoundTripper
}

func (b boundTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := context.Cause(b.ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	stop := context.AfterFunc(b.ctx, func() { cancel(context.Cause(b.ctx)) })
	end := func() { stop(); cancel(nil) }
	resp, err := b.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		end()
		return nil, err
	}
	resp.Body = &boundBody{ReadCloser: resp.Body, end: end}
	return resp, nil
}

// boundBody keeps a request's context alive until its answer is read.
type boundBody struct {
	io.ReadCloser
	end func()
}

func (b *boundBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

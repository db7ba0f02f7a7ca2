package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// registryClient asks registries, and remembers which cannot be reached.
type registryClient struct {
	cfg   ResolveConfig
	http  http.RoundTripper
	close func()

	down *sync.Map // host → error
}

func newRegistryClient(cfg ResolveConfig) registryClient {
	c := registryClient{cfg: cfg, http: cfg.Transport, close: func() {}, down: &sync.Map{}}
	if c.http != nil {
		return c
	}
	dial, response := cfg.DialTimeout, cfg.ResponseTimeout
	if dial <= 0 {
		dial = 10 * time.Second
	}
	if response <= 0 {
		response = 30 * time.Second
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dial}).DialContext,
		TLSHandshakeTimeout:   dial,
		ResponseHeaderTimeout: response,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
	}
	c.http = t
	// Without a cache the images read on after Resolve has returned; their idle
	// connections end by IdleConnTimeout.
	if cfg.Cache != nil {
		c.close = t.CloseIdleConnections
	}
	return c
}

// endpoint is one registry at which an image may be.
type endpoint struct {
	place string
	ref   name.Reference
	err   error // the mirror's name makes no sense
}

// endpoints lists the mirrors of ref's registry, then the registry.
func (c registryClient) endpoints(ref name.Reference) []endpoint {
	var all []endpoint
	host := dockerHub(ref.Context().RegistryStr())
	for registry, mirrors := range c.cfg.Mirrors {
		if dockerHub(registry) != host {
			continue
		}
		for _, m := range mirrors {
			all = append(all, mirrorEndpoint(m, ref))
		}
	}
	return append(all, endpoint{place: "registry " + host, ref: ref})
}

func mirrorEndpoint(mirror string, ref name.Reference) endpoint {
	var opts []name.Option
	base, clear := strings.CutPrefix(mirror, "http://")
	if clear {
		opts = append(opts, name.Insecure)
	}
	base = strings.TrimSuffix(strings.TrimPrefix(base, "https://"), "/")
	if strings.Contains(base, "@") {
		// What stands before an @ may be a password, so it is not shown.
		return endpoint{place: "mirror", err: errors.New("its address contains @; give host[:port][/prefix], and credentials by Keychain")}
	}
	e := endpoint{place: "mirror " + base}
	full := base + "/" + ref.Context().RepositoryStr()
	if d, ok := ref.(name.Digest); ok {
		e.ref, e.err = name.NewDigest(full+"@"+d.DigestStr(), opts...)
	} else {
		e.ref, e.err = name.NewTag(full+":"+ref.Identifier(), opts...)
	}
	return e
}

// dockerHub gives the one registry with two names its common one.
func dockerHub(host string) string {
	if host == name.DefaultRegistry {
		return "docker.io"
	}
	return host
}

// image finds the image for the platform. Its content is read later; it fits the
// digests in the manifest or reading it fails.
func (c registryClient) image(ctx context.Context, e endpoint, platform v1.Platform) (v1.Image, error) {
	if e.err != nil {
		return nil, e.err
	}
	host := e.ref.Context().RegistryStr()
	if err, ok := c.down.Load(host); ok {
		return nil, fmt.Errorf("not asked again: %w", err.(error))
	}
	img, err := c.pull(ctx, e.ref, platform)
	if err != nil && ctx.Err() == nil && classify(err) == unreachable {
		c.down.Store(host, err)
	}
	return img, err
}

func (c registryClient) pull(ctx context.Context, ref name.Reference, platform v1.Platform) (v1.Image, error) {
	opts := []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(c.http), remote.WithPlatform(platform),
		remote.WithRetryBackoff(remote.Backoff{Duration: 300 * time.Millisecond, Factor: 3, Jitter: 0.1, Steps: 3}),
		remote.WithRetryPredicate(worthAnotherTry),
	}
	if c.cfg.Keychain != nil {
		opts = append(opts, remote.WithAuthFromKeychain(c.cfg.Keychain))
	}
	desc, err := remote.Get(ref, opts...)
	if err != nil {
		return nil, err
	}
	if desc.MediaType.IsIndex() {
		if err := hasPlatform(desc, platform); err != nil {
			return nil, err
		}
	}
	img, err := desc.Image()
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the image's config: %w", err)
	}
	if have := (v1.Platform{OS: config.OS, Architecture: config.Architecture}); have.Architecture != "" &&
		(have.OS != platform.OS || have.Architecture != platform.Architecture) {
		return nil, fmt.Errorf("the image is for %s, wanted %s", have, platform)
	}
	return img, nil
}

// hasPlatform says which platforms there are when the wanted one is not among them.
func hasPlatform(desc *remote.Descriptor, platform v1.Platform) error {
	index, err := desc.ImageIndex()
	if err != nil {
		return err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	var have []string
	for _, m := range manifest.Manifests {
		if m.Platform == nil {
			continue
		}
		if m.Platform.Satisfies(platform) {
			return nil
		}
		// Attestations stand in the index as a platform of their own.
		if s := m.Platform.String(); m.Platform.OS != "unknown" && !slices.Contains(have, s) {
			have = append(have, s)
		}
	}
	return fmt.Errorf("the image is not there for %s, only for %q", platform, have)
}

// worthAnotherTry is true for a blip of a connection that stood and for a registry's
// temporary answer. A host that does not answer at all is not waited for thrice.
func worthAnotherTry(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || noConnection(err) {
		return false
	}
	if t, ok := err.(interface{ Temporary() bool }); ok && t.Temporary() {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// failure is a kind of error for which there is one thing to do.
type failure int

const (
	other failure = iota
	notCached
	unreachable
	refused
	unknown
	broken
)

func classify(err error) failure {
	if errors.Is(err, ErrNotCached) {
		return notCached
	}
	if noConnection(err) {
		return unreachable
	}
	if t, ok := errors.AsType[*transport.Error](err); ok {
		switch {
		case t.StatusCode == http.StatusUnauthorized, t.StatusCode == http.StatusForbidden:
			return refused
		case t.StatusCode == http.StatusNotFound:
			return unknown
		case t.StatusCode >= 500, t.StatusCode == http.StatusTooManyRequests:
			return broken
		}
	}
	return other
}

// noConnection is true when the host could not be spoken to at all: no address, no
// route, refused, no TLS, or silence.
func noConnection(err error) bool {
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return true
	}
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout() && !errors.Is(err, context.DeadlineExceeded)
}

package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"
)

// Source says where Resolve may look.
type Source string

const (
	// SourceAuto, the default, is the cache, then the mirrors and the registry,
	// then FromSource.
	SourceAuto Source = "auto"
	// SourceRegistry is the cache, then the mirrors and the registry.
	SourceRegistry Source = "registry"
	// SourceFromSource is FromSource alone, which keeps what it makes itself.
	SourceFromSource Source = "fromsource"
)

// ResolveConfig says how Resolve finds images. The zero value asks the
// registry that the reference names, without credentials, and keeps nothing.
type ResolveConfig struct {
	// Source is the policy; default SourceAuto.
	Source Source
	// Cache keeps what registries give, under the reference. Nil: the
	// image returned reads from the registry whenever it is read.
	Cache *Cache
	// Mirrors are tried in order before a registry: its host, as in "quay.io" or
	// "docker.io", to "host[:port][/prefix]". A mirror that begins with http:// is
	// spoken to in the clear.
	Mirrors map[string][]string
	// FromSource makes an image out of something else than a registry. It is
	// called for one image at a time.
	FromSource func(ctx context.Context, ref string) (v1.Image, error)
	// Keychain finds credentials; default: none.
	Keychain authn.Keychain
	// Platform picks from a multi-platform image; default: linux on this
	// program's architecture.
	Platform v1.Platform
	// DialTimeout bounds each connection attempt and TLS handshake; default 10s.
	// A registry that cannot be reached is not asked again by the same call.
	DialTimeout time.Duration
	// ResponseTimeout bounds the wait for a registry's answer to begin; default 30s.
	ResponseTimeout time.Duration
	// Transport replaces the transport that the timeouts above configure.
	Transport http.RoundTripper
	// OnEvent receives progress.
	OnEvent func(Event)
}

// Resolved is an image and where it was found.
type Resolved struct {
	Image v1.Image
	Ref   string
	// From is "cache", "registry <host>", "mirror <host>" or "fromsource".
	From string
}

// Attempt is one place where an image was looked for, in vain.
type Attempt struct {
	Place string
	Err   error
}

// ResolveError lists every place that was tried, in order.
type ResolveError struct {
	Ref      string
	Attempts []Attempt
}

// Error names the image, each place with what was seen there, and what to do.
func (e *ResolveError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "image %s was not found", e.Ref)
	for i, a := range e.Attempts {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s: %s", sep, a.Place, oneLine(a.Err))
	}
	b.WriteString("; what to do: " + e.advice())
	return b.String()
}

// Unwrap returns the errors of all attempts.
func (e *ResolveError) Unwrap() []error {
	var errs []error
	for _, a := range e.Attempts {
		errs = append(errs, a.Err)
	}
	return errs
}

func (e *ResolveError) advice() string {
	advice := map[failure]string{
		refused:     "give credentials (Keychain) for the registry that refused",
		unknown:     "check the image's name, tag or digest",
		unreachable: "check the network and proxy, or name a mirror that can be reached (Mirrors)",
		broken:      "try again later, or name a mirror (Mirrors)",
		other:       "see the errors above",
	}
	var parts []string
	for _, a := range e.Attempts {
		if what := advice[classify(a.Err)]; !slices.Contains(parts, what) && classify(a.Err) != notCached {
			parts = append(parts, what)
		}
	}
	if !slices.ContainsFunc(e.Attempts, func(a Attempt) bool { return a.Place == string(SourceFromSource) }) {
		parts = append(parts, "or have it made without a registry (Source auto or fromsource, with FromSource)")
	}
	return strings.Join(parts, ", ")
}

// oneLine keeps a registry's answer, which can be a whole web page, readable.
func oneLine(err error) string {
	const limit = 600
	s := strings.Join(strings.Fields(err.Error()), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + " ..."
	}
	return s
}

// Resolve finds the image ref: in the cache, else at the mirrors and the
// registry, else by FromSource, as Source allows. What a registry gave is put
// into the cache under ref, so it is asked once.
//
// ref needs a tag or a digest, and the tag must not be latest unless a digest
// stands beside it: a name that can mean another image tomorrow is refused. A
// digest is verified. Of a multi-platform image the one for Platform is taken.
// When nothing is found the error is a *ResolveError.
func Resolve(ctx context.Context, ref string, cfg ResolveConfig) (Resolved, error) {
	all, err := ResolveAll(ctx, []string{ref}, cfg)
	if err != nil {
		return Resolved{}, err
	}
	return all[0], nil
}

// ResolveAll resolves several images at once, as Resolve does each, and returns
// them in the order of refs. A failing image does not stop the others:
// the error joins all failures, and images that were found are returned beside it
// (those that were not have a nil Image).
func ResolveAll(ctx context.Context, refs []string, cfg ResolveConfig) ([]Resolved, error) {
	r, err := newResolver(cfg)
	if err != nil {
		return nil, err
	}
	defer r.close()
	found := make([]Resolved, len(refs))
	errs := make([]error, len(refs))
	var g errgroup.Group
	g.SetLimit(4)
	for i, ref := range refs {
		g.Go(func() error {
			found[i], errs[i] = r.resolve(ctx, ref)
			return nil
		})
	}
	g.Wait()
	return found, errors.Join(errs...)
}

type resolver struct {
	cfg    ResolveConfig
	remote registryClient
	emit   func(Event)
	source sync.Mutex // held while FromSource works
}

func newResolver(cfg ResolveConfig) (*resolver, error) {
	switch cfg.Source {
	case "":
		cfg.Source = SourceAuto
	case SourceAuto, SourceRegistry, SourceFromSource:
	default:
		return nil, fmt.Errorf("image source %q: use %q, %q or %q", cfg.Source, SourceAuto, SourceRegistry, SourceFromSource)
	}
	if cfg.Source == SourceFromSource && cfg.FromSource == nil {
		return nil, fmt.Errorf("image source %q needs ResolveConfig.FromSource", cfg.Source)
	}
	if cfg.Platform.OS == "" && cfg.Platform.Architecture == "" {
		cfg.Platform = defaultPlatform()
	}
	return &resolver{cfg: cfg, remote: newRegistryClient(cfg), emit: oneAtATime(cfg.OnEvent)}, nil
}

func (r *resolver) close() { r.remote.close() }

func (r *resolver) resolve(ctx context.Context, ref string) (Resolved, error) {
	parsed, err := parseRef(ref)
	if err != nil {
		return Resolved{}, err
	}
	began := time.Now()
	failed := &ResolveError{Ref: ref}
	found := func(img v1.Image, from string) (Resolved, error) {
		r.emit(Event{Verb: "resolved", Ref: ref, Detail: from, Elapsed: time.Since(began)})
		return Resolved{Image: img, Ref: ref, From: from}, nil
	}
	miss := func(place string, err error) {
		failed.Attempts = append(failed.Attempts, Attempt{place, err})
		if !errors.Is(err, ErrNotCached) {
			r.emit(Event{Verb: "not found", Ref: ref, Node: place, Detail: oneLine(err), Elapsed: time.Since(began)})
		}
	}

	if r.cfg.Cache != nil && r.cfg.Source != SourceFromSource {
		img, err := r.cfg.Cache.open(r.cacheKey(ref))
		if err == nil {
			return found(img, "cache")
		}
		// A cache that cannot be read is no reason to stop: the image may be had.
		miss("cache", err)
	}
	if r.cfg.Source != SourceFromSource {
		for _, e := range r.remote.endpoints(parsed) {
			r.emit(Event{Verb: "resolve", Ref: ref, Node: e.place})
			img, err := r.fetch(ctx, ref, e)
			if err == nil {
				return found(img, e.place)
			}
			if ctx.Err() != nil {
				return Resolved{}, fmt.Errorf("resolve image %s at %s: %w", ref, e.place, err)
			}
			miss(e.place, err)
		}
	}
	if r.cfg.FromSource != nil && r.cfg.Source != SourceRegistry {
		img, err := r.fromSource(ctx, ref)
		if err == nil {
			return found(img, string(SourceFromSource))
		}
		if ctx.Err() != nil {
			return Resolved{}, fmt.Errorf("make image %s from source: %w", ref, err)
		}
		miss(string(SourceFromSource), err)
	}
	return Resolved{}, failed
}

// fetch gets the image from one registry, whole, if there is a cache to keep it.
func (r *resolver) fetch(ctx context.Context, ref string, e endpoint) (v1.Image, error) {
	img, err := r.remote.image(ctx, e, r.cfg.Platform)
	if err != nil || r.cfg.Cache == nil {
		return img, err
	}
	return r.cfg.Cache.Put(ctx, r.cacheKey(ref), img)
}

func (r *resolver) fromSource(ctx context.Context, ref string) (v1.Image, error) {
	r.source.Lock()
	defer r.source.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return r.cfg.FromSource(ctx, ref)
}

// cacheKey is ref, and for another platform than this machine's that platform too.
func (r *resolver) cacheKey(ref string) string {
	if r.cfg.Platform.Equals(defaultPlatform()) {
		return ref
	}
	return ref + " " + r.cfg.Platform.String()
}

// parseRef parses a reference and refuses one that does not pin anything.
func parseRef(ref string) (name.Reference, error) {
	if strings.Contains(ref, "@") {
		d, err := name.NewDigest(ref)
		if err != nil {
			return nil, fmt.Errorf("image reference %q: %w", ref, err)
		}
		return d, nil
	}
	tag, err := name.NewTag(ref, name.WithDefaultTag(""))
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w", ref, err)
	}
	if tag.TagStr() == "" || tag.TagStr() == "latest" {
		return nil, fmt.Errorf("image reference %q: the tag is missing or latest, which can be another image tomorrow; give a version or a digest", ref)
	}
	return tag, nil
}

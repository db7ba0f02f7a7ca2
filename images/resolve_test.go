package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// testRegistry is a real registry on loopback that counts its requests.
type testRegistry struct {
	host     string
	requests atomic.Int64
}

func startRegistry(t *testing.T) *testRegistry {
	t.Helper()
	return startServer(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
}

func startServer(t *testing.T, h http.Handler) *testRegistry {
	t.Helper()
	r := &testRegistry{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.requests.Add(1)
		h.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	r.host = strings.TrimPrefix(s.URL, "http://")
	return r
}

func (r *testRegistry) push(t *testing.T, repoAndTag string, what remote.Taggable) string {
	t.Helper()
	ref, err := name.NewTag(r.host + "/" + repoAndTag)
	if err != nil {
		t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, what)
	case v1.Image:
		err = remote.Write(ref, what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

func failing(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", status) })
}

// deadHost is a loopback address at which nobody listens.
func deadHost(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func mustResolve(t *testing.T, ref string, cfg ResolveConfig) Resolved {
	t.Helper()
	got, err := Resolve(t.Context(), ref, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func onPlatform(t *testing.T, img v1.Image, os, arch string) v1.Image {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = os, arch
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// multiArch is an index of four images: two architectures, Windows, and an
// attestation.
func multiArch(t *testing.T) (v1.ImageIndex, map[string]v1.Image) {
	t.Helper()
	byArch := map[string]v1.Image{}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range []v1.Platform{{OS: "unknown", Architecture: "unknown"}, {OS: "windows", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}, {OS: "linux", Architecture: "amd64"}} {
		img := onPlatform(t, testImage(t, Gzip, p.String()), p.OS, p.Architecture)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		byArch[p.String()] = img
	}
	return index, byArch
}

func TestResolveFromRegistry(t *testing.T) {
	docker := mutate.ConfigMediaType(mutate.MediaType(testImage(t, Gzip, "docker"), types.DockerManifestSchema2), types.DockerConfigJSON)
	index, byArch := multiArch(t)
	reg := startRegistry(t)
	oci, zstd := testImage(t, Gzip, "oci"), testImage(t, Zstd, "zstd")
	ociRef := reg.push(t, "a/oci:v1", oci)
	indexRef := reg.push(t, "a/multi:v1", index)
	for what, tt := range map[string]struct {
		ref  string
		want v1.Image
		cfg  ResolveConfig
	}{
		"tag":             {ociRef, oci, ResolveConfig{}},
		"zstd layers":     {reg.push(t, "zstd:v1", zstd), zstd, ResolveConfig{}},
		"schema 2":        {reg.push(t, "docker:v1", docker), docker, ResolveConfig{}},
		"digest":          {reg.host + "/a/oci@" + digestOf(t, oci).String(), oci, ResolveConfig{}},
		"tag and digest":  {ociRef + "@" + digestOf(t, oci).String(), oci, ResolveConfig{}},
		"latest, pinned":  {reg.host + "/a/oci:latest@" + digestOf(t, oci).String(), oci, ResolveConfig{}},
		"index":           {indexRef, byArch[defaultPlatform().String()], ResolveConfig{}},
		"index, arm64":    {indexRef, byArch["linux/arm64"], ResolveConfig{Platform: v1.Platform{OS: "linux", Architecture: "arm64"}}},
		"index by digest": {reg.host + "/a/multi@" + digestOf(t, index).String(), byArch[defaultPlatform().String()], ResolveConfig{}},
	} {
		t.Run(what, func(t *testing.T) {
			tt.cfg.Cache = openTestCache(t)
			for _, from := range []string{"registry " + reg.host, "cache"} {
				before := reg.requests.Load()
				got := mustResolve(t, tt.ref, tt.cfg)
				if got.From != from || got.Ref != tt.ref {
					t.Errorf("from %q as %q, want from %q", got.From, got.Ref, from)
				}
				if a, b := digestOf(t, got.Image), digestOf(t, tt.want); a != b {
					t.Errorf("from %s: digest %s, want %s", from, a, b)
				}
				assertWhole(t, got.Image)
				if n := reg.requests.Load() - before; from == "cache" && n != 0 {
					t.Errorf("%d requests for an image in the cache", n)
				}
			}
			// And with no cache to keep it.
			tt.cfg.Cache = nil
			assertWhole(t, mustResolve(t, tt.ref, tt.cfg).Image)
		})
	}
}

func TestResolvePlatformsAreKeptApart(t *testing.T) {
	index, byArch := multiArch(t)
	reg := startRegistry(t)
	ref := reg.push(t, "multi:v1", index)
	c := openTestCache(t)
	for range 2 {
		for _, arch := range []string{"amd64", "arm64"} {
			got := mustResolve(t, ref, ResolveConfig{Cache: c, Platform: v1.Platform{OS: "linux", Architecture: arch}})
			if a, b := digestOf(t, got.Image), digestOf(t, byArch["linux/"+arch]); a != b {
				t.Errorf("%s: %s, want %s", arch, a, b)
			}
		}
	}
}

func TestResolveMirrors(t *testing.T) {
	upstream, mirror := startRegistry(t), startRegistry(t)
	img := testImage(t, Gzip, "x")
	ref := upstream.push(t, "team/app:v1", img)
	mirror.push(t, "prefix/team/app:v1", img)
	dead, down, lacking := deadHost(t), startServer(t, failing(http.StatusNotFound)), startRegistry(t)

	before := upstream.requests.Load()
	got := mustResolve(t, ref, ResolveConfig{Mirrors: map[string][]string{upstream.host: {"http://" + mirror.host + "/prefix/"}}})
	if got.From != "mirror "+mirror.host+"/prefix" || upstream.requests.Load() != before {
		t.Errorf("from %q, %d requests upstream", got.From, upstream.requests.Load()-before)
	}
	assertWhole(t, got.Image)

	var events []string
	cfg := ResolveConfig{
		Mirrors: map[string][]string{upstream.host: {dead, down.host, lacking.host, "user:secret@" + mirror.host, mirror.host + "/prefix"}},
		OnEvent: func(e Event) { events = append(events, e.String()) },
	}
	got = mustResolve(t, ref+"@"+digestOf(t, img).String(), cfg)
	if got.From != "mirror "+mirror.host+"/prefix" {
		t.Errorf("mirrors down: from %q", got.From)
	}
	if all := strings.Join(events, "\n"); strings.Contains(all, "secret") || !strings.Contains(all, dead) || !strings.Contains(all, lacking.host) {
		t.Errorf("events: %s", all)
	}

	// No mirror has it: the registry itself.
	cfg.Mirrors = map[string][]string{upstream.host: {dead, lacking.host}}
	if got = mustResolve(t, ref, cfg); got.From != "registry "+upstream.host {
		t.Errorf("from %q", got.From)
	}
}

func TestMirrorNames(t *testing.T) {
	for _, tt := range []struct{ ref, key, mirror, want string }{
		{"kindest/node:v1", "docker.io", "m.example.org", "m.example.org/kindest/node:v1"},
		{"alpine:3", "index.docker.io", "m.example.org:5000/hub", "m.example.org:5000/hub/library/alpine:3"},
		{"quay.io/a/b:1", "quay.io", "https://m.example.org", "m.example.org/a/b:1"},
	} {
		ref, err := parseRef(tt.ref)
		if err != nil {
			t.Fatal(err)
		}
		all := newRegistryClient(ResolveConfig{Mirrors: map[string][]string{tt.key: {tt.mirror}}}).endpoints(ref)
		if len(all) != 2 || all[0].err != nil || all[0].ref.Name() != tt.want || all[1].ref != ref {
			t.Errorf("%s: %+v, want %s first", tt.ref, all, tt.want)
		}
	}
}

func TestResolveSources(t *testing.T) {
	reg, empty := startRegistry(t), startRegistry(t)
	made, pushed := testImage(t, Zstd, "made"), testImage(t, Zstd, "pushed")
	there := reg.push(t, "app:v1", pushed)
	absent := empty.host + "/app:v1"
	fromSource := func(context.Context, string) (v1.Image, error) { return made, nil }

	if got := mustResolve(t, there, ResolveConfig{FromSource: fromSource}); got.From != "registry "+reg.host {
		t.Errorf("auto, in the registry: from %q", got.From)
	}
	got := mustResolve(t, absent, ResolveConfig{Source: SourceAuto, FromSource: fromSource})
	if got.From != "fromsource" || digestOf(t, got.Image) != digestOf(t, made) {
		t.Errorf("auto, not in the registry: from %q", got.From)
	}
	for _, status := range []int{401, 403, 500} {
		if got := mustResolve(t, startServer(t, failing(status)).host+"/app:v1", ResolveConfig{FromSource: fromSource}); got.From != "fromsource" {
			t.Errorf("auto, registry answers %d: from %q", status, got.From)
		}
	}
	// The image that a registry gave does not stand in for one made from source.
	c := openTestCache(t)
	mustResolve(t, there, ResolveConfig{Cache: c})
	before := reg.requests.Load()
	got = mustResolve(t, there, ResolveConfig{Source: SourceFromSource, FromSource: fromSource, Cache: c})
	if got.From != "fromsource" || reg.requests.Load() != before {
		t.Errorf("fromsource: from %q, %d requests", got.From, reg.requests.Load()-before)
	}
	// And one made from source not for the registry's.
	_, err := Resolve(t.Context(), absent, ResolveConfig{Source: SourceRegistry, FromSource: fromSource, Cache: c})
	wantError(t, err, absent, "registry "+empty.host)

	_, err = Resolve(t.Context(), there, ResolveConfig{Source: "moon"})
	wantError(t, err, `"moon"`, `"auto"`)
	_, err = Resolve(t.Context(), there, ResolveConfig{Source: SourceFromSource})
	wantError(t, err, "ResolveConfig.FromSource")
}

func TestResolveFailures(t *testing.T) {
	reg := startRegistry(t)
	dead := deadHost(t)
	index, _ := multiArch(t)
	multi := reg.push(t, "multi:v1", index)
	arm := reg.push(t, "arm:v1", onPlatform(t, testImage(t, Gzip, "x"), "linux", "riscv64"))
	for what, tt := range map[string]struct {
		ref  string
		cfg  ResolveConfig
		want []string
	}{
		"unknown image": {reg.host + "/nothing:v1", ResolveConfig{}, []string{"NAME_UNKNOWN", "check the image's name, tag or digest"}},
		"unknown tag":   {strings.TrimSuffix(multi, "v1") + "v2", ResolveConfig{}, []string{"MANIFEST_UNKNOWN", "check the image's name"}},
		"unknown digest": {reg.host + "/multi@sha256:" + strings.Repeat("0", 64), ResolveConfig{},
			[]string{"MANIFEST_UNKNOWN"}},
		"dead":           {dead + "/a:v1", ResolveConfig{}, []string{"connection refused", "check the network and proxy"}},
		"401":            {startServer(t, failing(401)).host + "/a:v1", ResolveConfig{}, []string{"401", "give credentials (Keychain)"}},
		"403":            {startServer(t, failing(403)).host + "/a:v1", ResolveConfig{}, []string{"403", "give credentials (Keychain)"}},
		"500":            {startServer(t, failing(500)).host + "/a:v1", ResolveConfig{}, []string{"500", "try again later"}},
		"platform":       {multi, ResolveConfig{Platform: v1.Platform{OS: "linux", Architecture: "s390x"}}, []string{"not there for linux/s390x", "linux/arm64"}},
		"other platform": {arm, ResolveConfig{}, []string{"the image is for linux/riscv64", "wanted linux/"}},
		"every place": {dead + "/a:v1", ResolveConfig{
			Cache:      openTestCache(t),
			Mirrors:    map[string][]string{dead: {startServer(t, failing(403)).host}},
			FromSource: func(context.Context, string) (v1.Image, error) { return nil, errors.New("no recipe for a") },
		}, []string{"cache: ", "mirror 127.0.0.1", "403", "registry " + dead, "refused", "fromsource: no recipe for a", "Keychain", "network"}},
	} {
		t.Run(what, func(t *testing.T) {
			tt.cfg.OnEvent = func(Event) {}
			_, err := Resolve(t.Context(), tt.ref, tt.cfg)
			wantError(t, err, append(tt.want, tt.ref, "what to do")...)
			if _, ok := errors.AsType[*ResolveError](err); !ok {
				t.Errorf("%T is no *ResolveError", err)
			}
			if tt.cfg.Cache != nil {
				assertEmpty(t, tt.cfg.Cache)
			}
		})
	}
}

func TestResolveRefusesMovingNames(t *testing.T) {
	for _, ref := range []string{"alpine", "alpine:latest", "example.org/a/b", "example.org:5000/b:latest", "", "UPPER:1", "a@sha256:12"} {
		_, err := Resolve(t.Context(), ref, ResolveConfig{FromSource: func(context.Context, string) (v1.Image, error) {
			t.Errorf("%q was looked for", ref)
			return empty.Image, nil
		}})
		wantError(t, err, fmt.Sprintf("%q", ref))
	}
}

// A registry that serves other content than the digest asked for.
func TestResolveWrongDigestServed(t *testing.T) {
	good, bad := testImage(t, Gzip, "good"), testImage(t, Gzip, "evil")
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var swap sync.Map // path asked for → path served
	reg := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if to, ok := swap.Load(req.URL.Path); ok {
			req.URL.Path = to.(string)
		}
		inner.ServeHTTP(w, req)
	}))
	reg.push(t, "app:good", good)
	reg.push(t, "app:bad", bad)
	layer := func(img v1.Image) string {
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		return "/v2/app/blobs/" + digestOf(t, layers[0]).String()
	}
	ref := reg.host + "/app@" + digestOf(t, good).String()
	for what, path := range map[string][2]string{
		"manifest": {"/v2/app/manifests/" + digestOf(t, good).String(), "/v2/app/manifests/" + digestOf(t, bad).String()},
		"layer":    {layer(good), layer(bad)},
	} {
		t.Run(what, func(t *testing.T) {
			swap.Store(path[0], path[1])
			defer swap.Delete(path[0])
			c := openTestCache(t)
			_, err := Resolve(t.Context(), ref, ResolveConfig{Cache: c})
			wantError(t, err, ref, strings.TrimPrefix(path[0][strings.Index(path[0], "sha256:"):], "sha256:"))
			if keys, err := c.Keys(); err != nil || len(keys) != 0 {
				t.Errorf("in the cache: %q, %v", keys, err)
			}
			assertNoTemp(t, c)
		})
	}
}

// A registry that takes the connection and says nothing costs one ResponseTimeout for
// many images, and a context that ends stops the wait.
func TestResolveSilentRegistry(t *testing.T) {
	hang := make(chan struct{})
	reg := startServer(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-hang:
		case <-req.Context().Done():
		}
	}))
	defer close(hang)
	made := testImage(t, Zstd, "made")
	refs := make([]string, 12)
	for i := range refs {
		refs[i] = fmt.Sprintf("%s/app%d:v1", reg.host, i)
	}
	began := time.Now()
	got, err := ResolveAll(t.Context(), refs, ResolveConfig{
		ResponseTimeout: 200 * time.Millisecond,
		FromSource:      func(context.Context, string) (v1.Image, error) { return made, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, g := range got {
		if g.Ref != refs[i] || g.From != "fromsource" {
			t.Errorf("%s from %s, want %s", g.Ref, g.From, refs[i])
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = Resolve(ctx, refs[0], ResolveConfig{FromSource: func(context.Context, string) (v1.Image, error) {
		t.Error("went on after the context's end")
		return made, nil
	}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestResolveAllKeepsWhatItFound(t *testing.T) {
	reg := startRegistry(t)
	ref := reg.push(t, "app:v1", testImage(t, Gzip, "x"))
	got, err := ResolveAll(t.Context(), []string{reg.host + "/no:v1", ref, reg.host + "/nor:v2"}, ResolveConfig{})
	wantError(t, err, "/no:v1", "/nor:v2")
	if got[0].Image != nil || got[1].Image == nil || got[2].Image != nil {
		t.Errorf("got %+v", got)
	}
}

func TestTemporaryFailureIsRetried(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var left atomic.Int64
	reg := startServer(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if left.Add(-1) >= 0 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		inner.ServeHTTP(w, req)
	}))
	ref := reg.push(t, "app:v1", testImage(t, Gzip, "x"))
	left.Store(1)
	assertWhole(t, mustResolve(t, ref, ResolveConfig{}).Image)
}

func TestClassify(t *testing.T) {
	for want, errs := range map[failure][]error{
		unreachable: {&net.DNSError{}, &net.OpError{Op: "dial", Err: errors.New("no route")}},
		refused:     {&transport.Error{StatusCode: 401}, fmt.Errorf("x: %w", &transport.Error{StatusCode: 403})},
		unknown:     {&transport.Error{StatusCode: 404}},
		broken:      {&transport.Error{StatusCode: 503}, &transport.Error{StatusCode: 429}},
		notCached:   {fmt.Errorf("x: %w", ErrNotCached)},
		other:       {errors.New("x"), &net.OpError{Op: "read", Err: errors.New("x")}, context.DeadlineExceeded},
	} {
		if i := slices.IndexFunc(errs, func(err error) bool { return classify(err) != want }); i >= 0 {
			t.Errorf("%v is %d, want %d", errs[i], classify(errs[i]), want)
		}
	}
}

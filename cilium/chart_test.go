package cilium

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chartutil"
)

// smallChart is a chart that renders one ConfigMap.
func smallChart(chartName, version string) *chart.Chart {
	return &chart.Chart{
		Metadata: &chart.Metadata{APIVersion: "v2", Name: chartName, Version: version},
		Templates: []*chart.File{{Name: "templates/config.yaml", Data: []byte(
			"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: small\ndata:\n  version: {{ .Chart.Version }}\n  mode: {{ .Values.ipam.mode }}\n")}},
		Values: map[string]any{"ipam": map[string]any{"mode": "x"}, "number": 3},
	}
}

func packed(t *testing.T, c *chart.Chart) string {
	t.Helper()
	file, err := chartutil.Save(c, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestLoadFromFiles(t *testing.T) {
	dir := t.TempDir()
	if err := chartutil.SaveDir(smallChart("cilium", "1.20.2"), dir); err != nil {
		t.Fatal(err)
	}
	for source, c := range map[string]Chart{
		"dir":     {Dir: filepath.Join(dir, "cilium")},
		"archive": {Archive: packed(t, smallChart("cilium", "1.20.2"))},
	} {
		for _, version := range []string{"", "1.20.2", "v1.20.2"} {
			got, err := load(t.Context(), Config{Chart: c, Version: version})
			if err != nil {
				t.Errorf("%s, wanted version %q: %v", source, version, err)
			} else if got.Metadata.Version != "1.20.2" {
				t.Errorf("%s: got version %s", source, got.Metadata.Version)
			}
		}
	}
}

// repository serves one packed chart as an HTTP chart repository.
func repository(t *testing.T, archive string, digest string) *httptest.Server {
	t.Helper()
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	if digest == "" {
		digest = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/charts/index.yaml", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "apiVersion: v1\nentries:\n  cilium:\n  - {name: cilium, version: 1.20.2, digest: \"%s\", urls: [files/cilium.tgz]}\n  - {name: cilium, version: 1.19.0, urls: [files/gone.tgz]}\n", digest)
	})
	mux.HandleFunc("/charts/files/cilium.tgz", func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// ociRegistry serves the packed chart at <host>/charts/cilium:1.20.2, and beside it an
// image that is no chart.
func ociRegistry(t *testing.T, archive string) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	data, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	for ref, mediaType := range map[string]types.MediaType{"charts/cilium:1.20.2": chartLayer, "image:1.20.2": types.OCILayer} {
		img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(data, mediaType))
		if err != nil {
			t.Fatal(err)
		}
		to, err := name.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(to, img); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestLoadRemoteAndCache(t *testing.T) {
	archive := packed(t, smallChart("cilium", "1.20.2"))
	for source, start := range map[string]func() (*httptest.Server, Chart){
		"repo": func() (*httptest.Server, Chart) {
			s := repository(t, archive, "")
			return s, Chart{Repo: s.URL + "/charts"}
		},
		"oci": func() (*httptest.Server, Chart) {
			s := ociRegistry(t, archive)
			return s, Chart{OCI: "oci://" + strings.TrimPrefix(s.URL, "http://") + "/charts/cilium"}
		},
	} {
		t.Run(source, func(t *testing.T) {
			server, src := start()
			src.CacheDir = filepath.Join(t.TempDir(), "not", "there")
			if _, err := load(t.Context(), Config{Chart: src}); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(src.CacheDir, "*"))
			if err != nil || len(files) != 1 {
				t.Fatalf("the cache holds %q (%v), want one file", files, err)
			}

			// A damaged file is not used: it is fetched anew and mended.
			if err := os.WriteFile(files[0], []byte("half"), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := load(t.Context(), Config{Chart: src}); err != nil {
				t.Fatalf("with a damaged cache: %v", err)
			}

			server.Close()
			if _, err := load(t.Context(), Config{Chart: src}); err != nil {
				t.Errorf("from the cache, source gone: %v", err)
			}
			src.CacheDir = ""
			var ce *ChartError
			if _, err := load(t.Context(), Config{Chart: src}); !errors.As(err, &ce) {
				t.Errorf("source gone, no cache: got %v, want a *ChartError", err)
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	archive := packed(t, smallChart("cilium", "1.20.2"))
	repo := repository(t, archive, "")
	bad := repository(t, archive, strings.Repeat("0", 64))
	oci := "oci://" + strings.TrimPrefix(ociRegistry(t, archive).URL, "http://")
	for _, tt := range []struct {
		name string
		c    Config
		say  []string
	}{
		{"two sources", Config{Chart: Chart{Dir: "a", OCI: "oci://b"}}, []string{"one at most"}},
		{"no such folder", Config{Chart: Chart{Dir: filepath.Join(t.TempDir(), "none")}}, []string{"none", "Chart.yaml"}},
		{"not a chart", Config{Chart: Chart{Archive: os.Args[0]}}, []string{".tgz"}},
		{"another chart", Config{Chart: Chart{Archive: packed(t, smallChart("calico", "1.20.2"))}}, []string{"calico"}},
		{"another version", Config{Version: "1.15.19", Chart: Chart{Archive: archive}}, []string{"has version 1.20.2, wanted 1.15.19"}},
		{"module and version differ", Config{Version: "1.15.19", Chart: Chart{Module: "v1.20.2"}}, []string{"has version 1.20.2, wanted 1.15.19"}},
		{"repo: no such version", Config{Version: "1.2.3", Chart: Chart{Repo: repo.URL + "/charts"}}, []string{"1.2.3", "the newest is 1.20.2"}},
		{"repo: no such chart", Config{Chart: Chart{Repo: repo.URL + "/charts", Name: "tetragon"}}, []string{"tetragon", "Chart.Name"}},
		{"repo: archive gone", Config{Version: "1.19.0", Chart: Chart{Repo: repo.URL + "/charts"}}, []string{"gone.tgz", "404"}},
		{"repo: no index", Config{Chart: Chart{Repo: repo.URL}}, []string{"404", "URL"}},
		{"repo: changed archive", Config{Chart: Chart{Repo: bad.URL + "/charts"}}, []string{"digest", "0000"}},
		{"oci: no scheme", Config{Chart: Chart{OCI: "quay.io/cilium/charts/cilium"}}, []string{"oci://"}},
		{"oci: no such version", Config{Version: "1.2.3", Chart: Chart{OCI: oci + "/charts/cilium"}}, []string{"1.2.3", "check path and version"}},
		{"oci: an image", Config{Chart: Chart{OCI: oci + "/image"}}, []string{"no Helm chart layer"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t.Context(), tt.c)
			if err == nil {
				t.Fatal("it was loaded")
			}
			for _, say := range tt.say {
				if !strings.Contains(err.Error(), say) {
					t.Errorf("the error does not say %q: %v", say, err)
				}
			}
		})
	}
}

// TestUnknownModuleVersion asks a proxy that knows no module.
func TestUnknownModuleVersion(t *testing.T) {
	proxy := httptest.NewServer(http.NotFoundHandler())
	defer proxy.Close()
	t.Setenv("GOPROXY", proxy.URL)
	_, err := load(t.Context(), Config{Version: "1.20.99"})
	var ce *ChartError
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want a *ChartError", err)
	}
	for _, say := range []string{"github.com/cilium/cilium@v1.20.99", "404", "Chart.Dir", DefaultVersion} {
		if !strings.Contains(err.Error(), say) {
			t.Errorf("the error does not say %q: %v", say, err)
		}
	}
}

func TestLoadEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := load(ctx, Config{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

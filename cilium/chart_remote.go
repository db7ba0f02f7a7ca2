package cilium

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"helm.sh/helm/v3/pkg/repo"
	"sigs.k8s.io/yaml"
)

const (
	// chartLayer is the media type of the archive in an OCI chart:
	// https://helm.sh/docs/topics/registries/.
	chartLayer = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	// maxChart bounds what is read from the network; Cilium's chart is 0.2 MiB and
	// its repository's index 2 MiB.
	maxChart = 32 << 20
)

// fetchOCI is the chart archive in a registry; its digest is checked on the way.
func fetchOCI(ctx context.Context, ref, version string) ([]byte, error) {
	fail := func(err error, do string) error { return &ChartError{Source: ref, Err: err, Do: do} }

	bare, ok := strings.CutPrefix(ref, "oci://")
	if !ok {
		return nil, fail(errors.New("it does not start with oci://"), "write oci://<registry>/<path>")
	}
	// A version may hold a '+', a tag may not: Helm writes '_' for it.
	parsed, err := name.ParseReference(bare, name.WithDefaultTag(strings.ReplaceAll(version, "+", "_")))
	if err != nil {
		return nil, fail(err, "write oci://<registry>/<path>[:tag]")
	}
	img, err := remote.Image(parsed, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain))
	if err != nil {
		do := "check the address and the network"
		var te *transport.Error
		if errors.As(err, &te) {
			switch te.StatusCode {
			case http.StatusNotFound:
				do = "check path and version: that registry has no " + parsed.Name()
			case http.StatusUnauthorized, http.StatusForbidden:
				do = "log in to the registry, or check that the path exists"
			}
		}
		return nil, fail(err, do)
	}
	layers, err := img.Layers()
	if err != nil {
		return nil, fail(err, "try again; the manifest was not readable")
	}
	for _, l := range layers {
		mt, err := l.MediaType()
		if err != nil || string(mt) != chartLayer {
			continue
		}
		r, err := l.Compressed()
		if err != nil {
			return nil, fail(err, "try again; the layer was not readable")
		}
		defer r.Close()
		data, err := readAll(r)
		if err != nil {
			return nil, fail(err, "try again; the layer was not readable")
		}
		return data, nil
	}
	return nil, fail(errors.New("it holds no Helm chart layer"), "name a chart, not a container image")
}

// fetchRepo is the chart archive in an HTTP chart repository, checked against the
// digest in its index.
func fetchRepo(ctx context.Context, base, chartName, version string) ([]byte, error) {
	source := repoSource(base, chartName, version)
	fail := func(err error, do string) error { return &ChartError{Source: source, Err: err, Do: do} }

	raw, err := get(ctx, strings.TrimSuffix(base, "/")+"/index.yaml")
	if err != nil {
		return nil, fail(err, "check the repository's URL and the network")
	}
	var index repo.IndexFile
	if err := yaml.Unmarshal(raw, &index); err != nil {
		return nil, fail(fmt.Errorf("index.yaml: %w", err), "check that the URL is a chart repository")
	}
	index.SortEntries()
	if len(index.Entries[chartName]) == 0 {
		return nil, fail(errors.New("the repository has no chart of that name"), "check Chart.Name")
	}
	i := slices.IndexFunc(index.Entries[chartName], func(v *repo.ChartVersion) bool {
		return v != nil && v.Metadata != nil && strings.TrimPrefix(v.Version, "v") == version
	})
	if i < 0 {
		return nil, fail(fmt.Errorf("the repository has %d versions of it, not this one", len(index.Entries[chartName])),
			"name one it has; the newest is "+index.Entries[chartName][0].Version)
	}
	entry := index.Entries[chartName][i]
	if len(entry.URLs) == 0 {
		return nil, fail(errors.New("the index gives no URL for it"), "tell the repository's owner, or use another source")
	}
	archive, err := repo.ResolveReferenceURL(base, entry.URLs[0])
	if err != nil {
		return nil, fail(err, "tell the repository's owner, or use another source")
	}
	data, err := get(ctx, archive)
	if err != nil {
		return nil, fail(err, "check the network")
	}
	if want := strings.TrimPrefix(entry.Digest, "sha256:"); want != "" {
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != want {
			return nil, fail(fmt.Errorf("the archive has digest %x, the index says %s", sum, want), "don't use it; the archive was changed or cut off")
		}
	}
	return data, nil
}

// repoSource names a repository without the password its URL may hold.
func repoSource(base, chartName, version string) string {
	if u, err := url.Parse(base); err == nil {
		base = u.Redacted()
	}
	return fmt.Sprintf("%s (%s %s)", base, chartName, version)
}

func get(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", req.URL.Redacted(), resp.Status)
	}
	return readAll(resp.Body)
}

func readAll(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxChart+1))
	if err == nil && len(data) > maxChart {
		err = fmt.Errorf("more than %d MiB, too much for a chart", maxChart>>20)
	}
	return data, err
}

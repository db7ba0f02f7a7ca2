package cilium

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
)

// Chart says where the Helm chart comes from. At most one of Dir, Archive, OCI,
// Repo and Module is set; with none of them the chart is the one inside the Go
// module github.com/cilium/cilium of the wanted version.
type Chart struct {
	// Dir is an unpacked chart.
	Dir string
	// Archive is a packed chart (.tgz).
	Archive string
	// OCI is a chart in a registry: "oci://quay.io/cilium/charts/cilium". Without a
	// tag or digest of its own, the tag is the wanted version. Credentials are those
	// of the Docker config file.
	OCI string
	// Repo is the URL of an HTTP chart repository, the folder of its index.yaml.
	Repo string
	// Name is the chart's name in Repo; empty means "cilium".
	Name string
	// Module is a Go module that carries the chart at install/kubernetes/cilium:
	// "github.com/cilium/cilium@v1.20.2", or the version alone. It is fetched with
	// the go command, so it is checked against the Go checksum database and kept in
	// the module cache.
	Module string
	// CacheDir, if set, keeps the archives fetched from OCI and Repo, so that the
	// next use of the same version needs no network.
	CacheDir string
}

// ChartError is a chart that could not be had. Its message says what to do.
type ChartError struct {
	// Source is the chart as it was asked for.
	Source string
	// Do says what the caller can do about it.
	Do  string
	Err error
}

func (e *ChartError) Error() string {
	return fmt.Sprintf("cilium: chart from %s: %v: %s", e.Source, e.Err, e.Do)
}

func (e *ChartError) Unwrap() error { return e.Err }

// wantedVersion is the version that c asks for, without a "v"; empty when the
// chart source itself decides.
func wantedVersion(c Config) string {
	if c.Version != "" {
		return strings.TrimPrefix(c.Version, "v")
	}
	switch {
	case c.Chart.Dir != "" || c.Chart.Archive != "":
		return ""
	case c.Chart.Module != "":
		_, v := splitModule(c.Chart.Module)
		return strings.TrimPrefix(v, "v")
	}
	return DefaultVersion
}

// load fetches, reads and checks the chart that c asks for.
func load(ctx context.Context, c Config) (*chart.Chart, error) {
	src := c.Chart
	var set []string
	for name, v := range map[string]string{"Dir": src.Dir, "Archive": src.Archive, "OCI": src.OCI, "Repo": src.Repo, "Module": src.Module} {
		if v != "" {
			set = append(set, name)
		}
	}
	if len(set) > 1 {
		return nil, fmt.Errorf("cilium: Chart: %s are all set: set one at most", strings.Join(set, ", "))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}

	version := wantedVersion(c)
	var (
		got    *chart.Chart
		source string
		err    error
	)
	switch {
	case src.Dir != "":
		source = "folder " + src.Dir
		got, err = fromFile(source, src.Dir)
	case src.Archive != "":
		source = "archive " + src.Archive
		got, err = fromFile(source, src.Archive)
	case src.OCI != "":
		source = src.OCI
		got, err = src.cached("oci\x00"+src.OCI+"\x00"+version, func() ([]byte, error) { return fetchOCI(ctx, src.OCI, version) })
	case src.Repo != "":
		name := orDefault(src.Name, "cilium")
		source = repoSource(src.Repo, name, version)
		got, err = src.cached("repo\x00"+src.Repo+"\x00"+name+"\x00"+version, func() ([]byte, error) { return fetchRepo(ctx, src.Repo, name, version) })
	default:
		path, v := splitModule(orDefault(src.Module, "v"+version))
		source = "Go module " + path + "@" + v
		got, err = fromModule(ctx, path, "v"+strings.TrimPrefix(v, "v"))
	}
	if err != nil {
		return nil, err
	}

	if got.Name() != "cilium" {
		return nil, &ChartError{Source: source, Err: fmt.Errorf("it is the chart %q", got.Name()), Do: "name the chart called cilium"}
	}
	if version != "" && got.Metadata.Version != version {
		return nil, &ChartError{
			Source: source,
			Err:    fmt.Errorf("it has version %s, wanted %s", got.Metadata.Version, version),
			Do:     "set Config.Version to the chart's version, or name another chart",
		}
	}
	c.emit("chart", "%s %s from %s", got.Name(), got.Metadata.Version, source)
	return got, nil
}

func fromFile(source, path string) (*chart.Chart, error) {
	got, err := loader.Load(path)
	if err != nil {
		return nil, &ChartError{Source: source, Err: err, Do: "name a folder with a Chart.yaml, or a chart archive (.tgz)"}
	}
	return got, nil
}

// cached is the chart archive under key in CacheDir, or what fetch brings.
func (c Chart) cached(key string, fetch func() ([]byte, error)) (*chart.Chart, error) {
	var file string
	if c.CacheDir != "" {
		sum := sha256.Sum256([]byte(key))
		file = filepath.Join(c.CacheDir, hex.EncodeToString(sum[:16])+".tgz")
		if got, err := loader.LoadFile(file); err == nil {
			return got, nil
		} // absent or damaged: fetch it anew
	}
	data, err := fetch()
	if err != nil {
		return nil, err
	}
	got, err := loader.LoadArchive(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("cilium: chart archive of %d bytes is not readable: %w", len(data), err)
	}
	if file != "" {
		if err := writeWhole(file, data); err != nil {
			return nil, fmt.Errorf("cilium: keep the chart in %s: %w", c.CacheDir, err)
		}
	}
	return got, nil
}

// writeWhole makes file hold data, or leaves no trace of it.
func writeWhole(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".chart-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

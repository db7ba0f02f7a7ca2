package cilium

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/org/spire-vault-99-action/internal/run"
)

const (
	modulePath = "github.com/cilium/cilium"
	chartPath  = "install/kubernetes/cilium"
)

// splitModule reads "path@version" or a version alone.
func splitModule(s string) (path, version string) {
	if path, version, ok := strings.Cut(s, "@"); ok {
		return path, version
	}
	return modulePath, s
}

// fromModule takes the chart out of a Go module, which the go command fetches,
// checks and caches.
func fromModule(ctx context.Context, path, version string) (*chart.Chart, error) {
	module := path + "@" + version
	source := "Go module " + module

	// A folder of its own: the go.mod of wherever the process runs has no say.
	dir, err := os.MkdirTemp("", "chart-module-")
	if err != nil {
		return nil, &ChartError{Source: source, Err: err, Do: "make the temporary folder writable"}
	}
	defer os.RemoveAll(dir)

	var out bytes.Buffer
	runErr := run.Cmd{Argv: []string{"go", "mod", "download", "-json", module}, Dir: dir, Stdout: &out}.Run(ctx)
	if ctx.Err() != nil {
		return nil, fmt.Errorf("cilium: chart from %s: %w", source, ctx.Err())
	}
	if errors.Is(runErr, exec.ErrNotFound) {
		return nil, &ChartError{Source: source, Err: errors.New("the go command is not in PATH"),
			Do: "install Go, or set Chart.Dir, Chart.Archive, Chart.OCI or Chart.Repo"}
	}
	var answer struct{ Dir, Error string }
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		return nil, &ChartError{Source: source, Err: fmt.Errorf("`go mod download -json %s` gave no JSON: %w", module, errors.Join(runErr, err)),
			Do: "run that command by hand, or set Chart.Dir or Chart.Archive"}
	}
	if answer.Error != "" || runErr != nil {
		saw := strings.Join(strings.Fields(answer.Error), " ")
		if saw == "" {
			saw = runErr.Error()
		}
		return nil, &ChartError{Source: source, Err: fmt.Errorf("`go mod download` answered %q", saw),
			Do: "name a released version (" + DefaultVersion + " is the default), or set Chart.Dir, Chart.Archive, Chart.OCI or Chart.Repo"}
	}
	return fromFile(source, filepath.Join(answer.Dir, filepath.FromSlash(chartPath)))
}

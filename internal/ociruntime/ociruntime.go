// Package ociruntime builds the small OCI runtime that stands in front of runc
// on hosts that lack CAP_SYS_RESOURCE, and finds out whether a host does. The
// program itself, with what it does, is in shim/main.go.
package ociruntime

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/org/spire-vault-99-action/internal/run"
)

// EnvRunc is the environment variable that tells the shim where the real
// runtime lies. Without it, it is the path given to Build, else runc.real beside
// the shim, else the first other runc in PATH.
const EnvRunc = "OCI_SHIM_RUNC"

//go:embed shim/main.go
var source string

// Source is the shim's program text: what it is built from, to key a cache by.
func Source() string { return source }

// Needed reports whether CAP_SYS_RESOURCE is missing from the bounding set of
// this process, and so from every container started below it. Where there is
// no /proc, as on macOS, it is false.
func Needed() (bool, error) { return neededIn("/proc/self/status") }

// NeededBy is Needed for another process, the engine's daemon for one.
func NeededBy(pid int) (bool, error) {
	return neededIn(filepath.Join("/proc", strconv.Itoa(pid), "status"))
}

func neededIn(path string) (bool, error) {
	status, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return missing(string(status), path)
}

// missing looks for bit 24, CAP_SYS_RESOURCE, in the bounding set.
func missing(status, path string) (bool, error) {
	for line := range strings.Lines(status) {
		set, ok := strings.CutPrefix(line, "CapBnd:")
		if !ok {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
		if err != nil {
			return false, fmt.Errorf("read the capability bounding set from %s: %w", path, err)
		}
		return bits&(1<<24) == 0, nil
	}
	return false, fmt.Errorf("read the capability bounding set from %s: no CapBnd line", path)
}

// Build compiles the shim into the static Linux binary out, which is replaced in one
// step. runc is the path of the real runtime on the machine or in the image
// where the shim will run; "" leaves it to be found there (see EnvRunc). The same
// toolchain, source and runc give the same bytes. It needs the go command.
func Build(ctx context.Context, out string, runc string) error {
	dir, err := os.MkdirTemp("", "ociruntime-")
	if err != nil {
		return fmt.Errorf("build the OCI runtime shim: %w", err)
	}
	defer os.RemoveAll(dir)
	files := map[string]string{"main.go": source, "go.mod": "module ociruntimeshim\n\ngo 1.24\n"}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("build the OCI runtime shim: %w", err)
		}
	}
	out, err = filepath.Abs(out)
	if err != nil {
		return fmt.Errorf("build the OCI runtime shim: %w", err)
	}
	// Beside out, so that the rename stays on one file system.
	tmp := out + ".new"
	defer os.Remove(tmp)
	build := run.Cmd{
		Argv: []string{
			"go", "build", "-trimpath", "-buildvcs=false",
			"-ldflags", "-s -w -buildid= -X 'main.realRunc=" + runc + "'", "-o", tmp, ".",
		},
		Dir: dir,
		Env: run.Environ("GOOS=linux", "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=", "GOTOOLCHAIN=local"),
	}
	if err := build.Run(ctx); err != nil {
		return fmt.Errorf("build the OCI runtime shim: %w", err)
	}
	if err := os.Rename(tmp, out); err != nil {
		return fmt.Errorf("build the OCI runtime shim: %w", err)
	}
	return nil
}

package kindx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/internal/run"
)

// Provider names a container engine by its client's command.
type Provider string

// The engines that kind can use.
const (
	Docker  Provider = "docker"
	Podman  Provider = "podman"
	Nerdctl Provider = "nerdctl"
)

func (p Provider) orDefault() Provider {
	if p == "" {
		return Docker
	}
	return p
}

func (p Provider) validate() error {
	switch p {
	case Docker, Podman, Nerdctl:
		return nil
	}
	return fmt.Errorf("container engine %q is not known: use %q, %q or %q", p, Docker, Podman, Nerdctl)
}

// engineInfo is what an engine that answers says about itself.
type engineInfo struct {
	Version        string
	CgroupVersion  int // 0: it does not say
	RootDir        string
	DefaultRuntime string
	Runtimes       map[string]string // name to path
}

// askEngine asks the engine about itself. An error means that it does not answer.
func askEngine(ctx context.Context, p Provider) (engineInfo, error) {
	// Long enough for a loaded machine, short enough for an engine that hangs.
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if p == Podman {
		out, err := run.Output(ctx, "podman", "info", "--format", "json")
		if err != nil {
			return engineInfo{}, err
		}
		return parsePodmanInfo([]byte(out))
	}
	out, err := run.Output(ctx, string(p), "info", "--format", "{{json .}}")
	if err != nil && out == "" {
		return engineInfo{}, err
	}
	// Without a server, docker prints what it knows and names the trouble inside.
	info, parseErr := parseDockerInfo([]byte(out))
	if parseErr != nil {
		return engineInfo{}, errors.Join(err, parseErr)
	}
	return info, err
}

func parseDockerInfo(out []byte) (engineInfo, error) {
	var doc struct {
		ServerVersion  string
		CgroupVersion  string
		DockerRootDir  string
		DefaultRuntime string
		Runtimes       map[string]struct {
			Path string `json:"path"`
		}
		ServerErrors []string
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return engineInfo{}, fmt.Errorf("read the engine's info: %w", err)
	}
	if doc.ServerVersion == "" {
		if len(doc.ServerErrors) == 0 {
			return engineInfo{}, errors.New("the engine's info names no server")
		}
		return engineInfo{}, errors.New(strings.Join(doc.ServerErrors, "; "))
	}
	info := engineInfo{
		Version: doc.ServerVersion, RootDir: doc.DockerRootDir,
		DefaultRuntime: doc.DefaultRuntime, Runtimes: map[string]string{},
		CgroupVersion: cgroupVersion(doc.CgroupVersion),
	}
	for name, r := range doc.Runtimes {
		info.Runtimes[name] = r.Path
	}
	return info, nil
}

func parsePodmanInfo(out []byte) (engineInfo, error) {
	var doc struct {
		Host struct {
			CgroupVersion string `json:"cgroupVersion"`
			OCIRuntime    struct {
				Name string `json:"name"`
				Path string `json:"path"`
			} `json:"ociRuntime"`
		} `json:"host"`
		Store struct {
			GraphRoot string `json:"graphRoot"`
		} `json:"store"`
		Version struct {
			Version string
		} `json:"version"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return engineInfo{}, fmt.Errorf("read podman's info: %w", err)
	}
	rt := doc.Host.OCIRuntime
	return engineInfo{
		Version: doc.Version.Version, RootDir: doc.Store.GraphRoot, CgroupVersion: cgroupVersion(doc.Host.CgroupVersion),
		DefaultRuntime: rt.Name, Runtimes: map[string]string{rt.Name: rt.Path},
	}, nil
}

func cgroupVersion(s string) int {
	switch strings.TrimPrefix(s, "v") {
	case "1":
		return 1
	case "2":
		return 2
	}
	return 0
}

// clientInstalled reports whether the engine's command is there at all.
func clientInstalled(p Provider) bool {
	_, err := exec.LookPath(string(p))
	return err == nil
}

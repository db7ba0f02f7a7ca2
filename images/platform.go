package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// defaultPlatform is what nodes on this machine run: Linux, whatever the host's
// own system, on the host's architecture.
func defaultPlatform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

// nodePlatform asks the node's kernel what it is.
func nodePlatform(ctx context.Context, n Node) (v1.Platform, error) {
	var out bytes.Buffer
	if err := n.Exec(ctx, nil, &out, "uname", "-m"); err != nil {
		return v1.Platform{}, fmt.Errorf("ask for its platform: %w", err)
	}
	return parseMachine(strings.TrimSpace(out.String()))
}

// parseMachine is the platform of a kernel that calls its machine so, as containerd
// names it.
func parseMachine(machine string) (v1.Platform, error) {
	p := v1.Platform{OS: "linux", Architecture: machine}
	switch {
	case machine == "x86_64":
		p.Architecture = "amd64"
	case machine == "aarch64":
		p.Architecture = "arm64"
	case machine == "i386", machine == "i686":
		p.Architecture = "386"
	case strings.HasPrefix(machine, "armv7"):
		p.Architecture, p.Variant = "arm", "v7"
	case strings.HasPrefix(machine, "armv6"):
		p.Architecture, p.Variant = "arm", "v6"
	case machine == "loongarch64":
		p.Architecture = "loong64"
	case machine == "":
		return p, errors.New("ask for its platform: uname -m printed nothing")
	} // ppc64le, riscv64, s390x, mips64le are called alike
	return p, nil
}

// forPlatform picks the image for the platform out of an index, and looks into the
// indexes in it. The first that fits is taken.
func forPlatform(index v1.ImageIndex, want v1.Platform) (v1.Image, error) {
	var have []string
	img, err := pickImage(index, want, &have)
	if err != nil || img != nil {
		return img, err
	}
	return nil, fmt.Errorf("the image is not there for %s, only for %q", want, have)
}

func pickImage(index v1.ImageIndex, want v1.Platform, have *[]string) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, m := range manifest.Manifests {
		switch {
		case m.MediaType.IsIndex():
			inner, err := index.ImageIndex(m.Digest)
			if err != nil {
				return nil, err
			}
			if img, err := pickImage(inner, want, have); img != nil || err != nil {
				return img, err
			}
		case !m.MediaType.IsImage():
		case m.Platform == nil, fits(*m.Platform, want):
			return index.Image(m.Digest)
		default:
			// Attestations stand in the index as a platform of their own.
			if s := m.Platform.String(); m.Platform.OS != "unknown" && !slices.Contains(*have, s) {
				*have = append(*have, s)
			}
		}
	}
	return nil, nil
}

// fits is true if a node of the platform runs what is for have. A variant that only one
// of them names is no hindrance: arm64 is v8.
func fits(have, node v1.Platform) bool {
	if node.Variant == "" || have.Variant == "" {
		have.Variant, node.Variant = "", ""
	}
	return have.OS == node.OS && have.Architecture == node.Architecture && have.Variant == node.Variant
}

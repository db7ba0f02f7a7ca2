package images

import (
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// defaultPlatform is what nodes on this machine run: Linux, whatever the host's
// own system, on the host's architecture.
func defaultPlatform() v1.Platform {
	return v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
}

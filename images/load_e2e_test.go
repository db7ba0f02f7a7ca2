//go:build e2e

package images_test

import (
	"os"
	"testing"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
)

func TestE2ELoadConformance(t *testing.T) { images.LoadConformanceContainerd(t, containerdDir(t)) }

func TestE2ELoadAfterGarbageCollection(t *testing.T) {
	images.LoadAfterGarbageCollection(t, containerdDir(t))
}

func TestE2ELoadAfterGarbageCollectionMeanwhile(t *testing.T) {
	images.LoadAfterGarbageCollectionMeanwhile(t, containerdDir(t))
}

func TestE2ELoadRandomly(t *testing.T) { images.LoadRandomly(t, containerdDir(t)) }

func TestE2ELoadBreaksOff(t *testing.T) { images.LoadBreaksOff(t, containerdDir(t)) }

func TestE2ELoadDiskFull(t *testing.T) { images.LoadDiskFull(t, containerdDir(t)) }

func TestE2ELoadTwiceAtOnce(t *testing.T) { images.LoadTwiceAtOnce(t, containerdDir(t)) }

// containerdDir is the folder of containerd and ctr: the one that E2E_CONTAINERD_DIR
// names, or the programs of the node image that is built from source.
func containerdDir(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("E2E_CONTAINERD_DIR"); dir != "" {
		return dir
	}
	const node = "kindest/node:v1.37.2"
	return sourcetest.Binaries(t,
		sourcetest.File{Image: node, Path: "/usr/local/bin/containerd"},
		sourcetest.File{Image: node, Path: "/usr/local/bin/ctr"},
	)
}

package images_test

import (
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/org/spire-vault-99-action/images"
)

// An image out of files, kept in a cache. The digest depends on nothing else.
func Example() {
	dir, err := os.MkdirTemp("", "images")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	layer, err := images.Layer([]images.File{
		images.FileFromBytes("/etc/motd", 0o644, []byte("noice\n")),
		{Path: "/data", Mode: fs.ModeDir | 0o700, UID: 65532, GID: 65532},
	}, images.Uncompressed)
	if err != nil {
		log.Fatal(err)
	}
	img, err := images.New(v1.ConfigFile{
		OS: "linux", Architecture: "amd64", Config: v1.Config{User: "65532:65532"},
	}, layer)
	if err != nil {
		log.Fatal(err)
	}
	cache, err := images.OpenCache(dir)
	if err != nil {
		log.Fatal(err)
	}
	if img, err = cache.Put(context.Background(), "example.org/motd:v1", img); err != nil {
		log.Fatal(err)
	}

	digest, err := img.Digest()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(digest)
	// Output: sha256:c6c2e882a81a1c3638fdf9a5298fcf139caa46abc60ba8561c786b414eac3003
}

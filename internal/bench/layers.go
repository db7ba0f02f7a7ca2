package main

import (
	"fmt"
	"math/rand/v2"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/org/spire-vault-99-action/images"
)

// layer is one of about so many megabytes, the same for the same seed. Two thirds of it
// cannot be compressed, as programs and their data most often come out.
func layer(seed uint64, megabytes int) (v1.Layer, error) {
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	var files []images.File
	for i := range megabytes {
		content := make([]byte, 1e6)
		if _, err := source.Read(content[:666666]); err != nil {
			return nil, err
		}
		files = append(files, images.FileFromBytes(fmt.Sprintf("opt/%d/%d", seed, i), 0o644, content))
	}
	return images.Layer(files, images.Zstd)
}

// base is an image of eight layers.
func base(seed uint64, megabytes int) (v1.Image, error) {
	var layers []v1.Layer
	for i := range 8 {
		l, err := layer(seed+uint64(i), max(1, megabytes/8))
		if err != nil {
			return nil, err
		}
		layers = append(layers, l)
	}
	return images.New(v1.ConfigFile{Config: v1.Config{Cmd: []string{"/none"}}}, layers...)
}

// withLayer is the image with one more layer on top.
func withLayer(img v1.Image, seed uint64, megabytes int) (v1.Image, error) {
	l, err := layer(seed, megabytes)
	if err != nil {
		return nil, err
	}
	return mutate.Append(img, mutate.Addendum{Layer: l})
}

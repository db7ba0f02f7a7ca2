package fromsource

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// writeArchive writes the images as one OCI layout in a tar file, for ctr to
// import under their references. Equal images give equal bytes.
func writeArchive(name string, refs []string, have map[string]v1.Image) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(out)
	defer func() { err = errors.Join(err, tw.Close(), out.Close()) }()
	put := func(name string, size int64, data io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err := io.Copy(tw, data)
		return err
	}
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	written := map[v1.Hash]bool{}
	blob := func(h v1.Hash, size int64, open func() (io.ReadCloser, error)) error {
		if written[h] {
			return nil
		}
		written[h] = true
		data, err := open()
		if err != nil {
			return err
		}
		defer data.Close()
		return put(filepath.Join("blobs", h.Algorithm, h.Hex), size, data)
	}
	bytesBlob := func(data []byte) error {
		h, size, err := v1.SHA256(bytes.NewReader(data))
		if err != nil {
			return err
		}
		return blob(h, size, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
	}
	for _, ref := range refs {
		img := have[ref]
		desc, err := partial.Descriptor(img)
		if err != nil {
			return err
		}
		desc.Annotations = map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": ref}
		index.Manifests = append(index.Manifests, *desc)
		manifest, err := img.RawManifest()
		if err != nil {
			return err
		}
		config, err := img.RawConfigFile()
		if err != nil {
			return err
		}
		layers, err := img.Layers()
		if err != nil {
			return err
		}
		if err := errors.Join(bytesBlob(manifest), bytesBlob(config)); err != nil {
			return err
		}
		for _, l := range layers {
			h, err := l.Digest()
			if err != nil {
				return err
			}
			size, err := l.Size()
			if err != nil {
				return err
			}
			if err := blob(h, size, l.Compressed); err != nil {
				return err
			}
		}
	}
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := put("index.json", int64(len(raw)), bytes.NewReader(raw)); err != nil {
		return err
	}
	return put("oci-layout", int64(len(ociLayout)), bytes.NewReader([]byte(ociLayout)))
}

const ociLayout = `{"imageLayoutVersion":"1.0.0"}`

package images

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// containerdName is the annotation by which containerd names an imported image, as
// it stands. Source: containerd, core/images/annotations.go.
const containerdName = "io.containerd.image.name"

// layoutVersion is the content of the file oci-layout.
const layoutVersion = `{"imageLayoutVersion":"1.0.0"}`

// stream is what one node is sent: an OCI image layout in a tar, without the blobs
// that the node has.
type stream struct {
	index         v1.IndexManifest
	blobs         []blob
	sent, skipped int64
	images        []struct{ sent, skipped int64 } // as the images wanted
}

// planStream decides what to send to a node that has the blobs have. Manifests
// are always sent: they are small, and the import begins with them.
func planStream(wanted []wantedImage, have map[string]bool) stream {
	s := stream{index: v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}}
	seen := map[v1.Hash]bool{}
	for _, w := range wanted {
		desc := w.desc
		desc.Annotations = map[string]string{containerdName: w.name, refName: w.name[strings.LastIndexAny(w.name, ":@/")+1:]}
		if _, digest, ok := strings.Cut(w.name, "@"); ok {
			desc.Annotations[refName] = digest
		}
		s.index.Manifests = append(s.index.Manifests, desc)

		var count struct{ sent, skipped int64 }
		for i, b := range w.blobs {
			if seen[b.digest] {
				continue
			}
			seen[b.digest] = true
			if i > 0 && have[b.digest.String()] {
				count.skipped += b.size
				continue
			}
			count.sent += b.size
			s.blobs = append(s.blobs, b)
		}
		s.images = append(s.images, count)
		s.sent += count.sent
		s.skipped += count.skipped
	}
	return s
}

// write writes the tar. progress is told the bytes of blobs written so far.
func (s stream) write(ctx context.Context, w io.Writer, progress func(done int64)) error {
	index, err := json.Marshal(s.index)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	for _, f := range []struct{ name, content string }{
		{"oci-layout", layoutVersion}, {"index.json", string(index)},
	} {
		if err := writeTarFile(tw, f.name, int64(len(f.content)), strings.NewReader(f.content)); err != nil {
			return err
		}
	}
	counted := &progressReader{report: progress}
	for _, b := range s.blobs {
		if err := s.writeBlob(ctx, tw, b, counted); err != nil {
			return fmt.Errorf("send blob %s (%d bytes): %w", b.digest, b.size, err)
		}
	}
	return tw.Close()
}

func (s stream) writeBlob(ctx context.Context, tw *tar.Writer, b blob, counted *progressReader) error {
	rc, err := b.open()
	if err != nil {
		return err
	}
	defer rc.Close()
	counted.r = contextReader{ctx, rc}
	return writeTarFile(tw, "blobs/"+b.digest.Algorithm+"/"+b.digest.Hex, b.size, counted)
}

func writeTarFile(tw *tar.Writer, name string, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: epoch}); err != nil {
		return err
	}
	n, err := io.Copy(tw, r)
	if err == nil && n != size {
		err = fmt.Errorf("content has %d bytes, want %d", n, size)
	}
	return err
}

type progressReader struct {
	r      io.Reader
	done   int64
	report func(done int64)
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.done += int64(n)
	p.report(p.done)
	return n, err
}

package images

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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

// planStream decides what to send to a node that has the blobs have. Indexes and
// manifests are always sent: they are small, and the import begins with them.
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
			if i >= w.heads && have[b.digest.String()] {
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

// nameless is the stream without the images' names.
func (s stream) nameless() stream {
	s.index.Manifests = slices.Clone(s.index.Manifests)
	for i := range s.index.Manifests {
		s.index.Manifests[i].Annotations = nil
	}
	return s
}

// write writes the tar. progress is told the bytes of blobs written so far. Every
// blob is compared with its digest. What names the images goes last: the node can
// make nothing of a stream that was cut short, wherever that was.
func (s stream) write(ctx context.Context, w io.Writer, progress func(done int64)) error {
	index, err := json.Marshal(s.index)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	counted := &progressReader{report: progress}
	for _, b := range s.blobs {
		if err := s.writeBlob(ctx, tw, b, counted); err != nil {
			return fmt.Errorf("send blob %s (%d bytes): %w", b.digest, b.size, err)
		}
	}
	for _, f := range []struct{ name, content string }{
		{"oci-layout", layoutVersion}, {"index.json", string(index)},
	} {
		if err := writeTarFile(tw, f.name, int64(len(f.content)), strings.NewReader(f.content)); err != nil {
			return err
		}
	}
	return tw.Close()
}

// ErrCorrupt is wrapped by the error of a Load whose image has a blob that is not what
// its digest says.
var ErrCorrupt = errors.New("the content does not fit its digest")

func (s stream) writeBlob(ctx context.Context, tw *tar.Writer, b blob, counted *progressReader) error {
	rc, err := b.open()
	if err != nil {
		return err
	}
	defer rc.Close()
	h, err := v1.Hasher(b.digest.Algorithm)
	if err != nil {
		return err
	}
	counted.r = io.TeeReader(contextReader{ctx, rc}, h)
	if err := writeTarFile(tw, "blobs/"+b.digest.Algorithm+"/"+b.digest.Hex, b.size, counted); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != b.digest.Hex {
		return fmt.Errorf("%w: it has %s:%s; the image's source is damaged, get it anew", ErrCorrupt, b.digest.Algorithm, got)
	}
	return nil
}

func writeTarFile(tw *tar.Writer, name string, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: epoch}); err != nil {
		return err
	}
	n, err := io.CopyBuffer(tw, r, make([]byte, 256<<10))
	if err == nil && n != size {
		err = fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, n, size)
	} else if errors.Is(err, tar.ErrWriteTooLong) {
		err = fmt.Errorf("%w: more than %d bytes", ErrCorrupt, size)
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

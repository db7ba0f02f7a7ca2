package images

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression is how a layer's tar is stored and sent.
type Compression int

const (
	// Zstd, the zero value, is the fastest for containerd to unpack. Docker
	// engines before 23 cannot read it.
	Zstd Compression = iota
	// Gzip is understood everywhere.
	Gzip
	// Uncompressed costs disk and saves time; understood everywhere.
	Uncompressed
)

// String names the compression.
func (c Compression) String() string {
	switch c {
	case Zstd:
		return "zstd"
	case Gzip:
		return "gzip"
	case Uncompressed:
		return "uncompressed"
	}
	return fmt.Sprintf("Compression(%d)", int(c))
}

func (c Compression) mediaType() types.MediaType {
	switch c {
	case Gzip:
		return types.OCILayer
	case Uncompressed:
		return types.OCIUncompressedLayer
	}
	return types.OCILayerZStd
}

// writer compresses into w. The output depends on the input alone: the level
// and the number of workers are fixed, no name or time goes into a header.
func (c Compression) writer(w io.Writer) (io.WriteCloser, error) {
	switch c {
	case Zstd:
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(2))
	case Gzip:
		return gzip.NewWriterLevel(w, gzip.BestSpeed)
	case Uncompressed:
		return writeNopCloser{w}, nil
	}
	return nil, fmt.Errorf("unknown compression %d: use Zstd, Gzip or Uncompressed", int(c))
}

type writeNopCloser struct{ io.Writer }

func (writeNopCloser) Close() error { return nil }

// Layer returns a layer that holds the files. It is reproducible: entries are
// sorted, times are the epoch, owners are numbers, and missing parent
// directories are added (root, 0755). Contents are streamed, never held in
// memory: they are read once here, to know the digest, and again whenever the
// layer is read.
func Layer(files []File, c Compression) (v1.Layer, error) {
	arranged, err := arrange(files)
	if err != nil {
		return nil, err
	}
	return newLayer(c, func(w io.Writer) error { return writeTar(w, arranged) })
}

// LayerFromTar returns a layer whose content is exactly the uncompressed tar
// file at path; whether it is reproducible is the tar's doing. The file is
// streamed, read once here and again whenever the layer is read, so it must stay
// in place, unchanged, until the image is in a Cache.
func LayerFromTar(path string, c Compression) (v1.Layer, error) {
	l, err := newLayer(c, func(w io.Writer) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		r := bufio.NewReaderSize(f, 1<<20)
		// A compressed tar would be taken for the layer's content, and fail on
		// the node, far from the cause.
		if head, _ := r.Peek(4); bytes.HasPrefix(head, []byte{0x1f, 0x8b}) || bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}) {
			return fmt.Errorf("the file is compressed; give the plain tar")
		}
		_, err = io.Copy(w, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("layer from tar %s: %w", path, err)
	}
	return l, nil
}

// layer is a tar that can be written any number of times, with its digests known.
type layer struct {
	compression    Compression
	write          func(io.Writer) error // the uncompressed tar
	digest, diffID v1.Hash
	size           int64
}

func newLayer(c Compression, write func(io.Writer) error) (*layer, error) {
	l := &layer{compression: c, write: write}
	compressed, plain := sha256.New(), sha256.New()
	count := &countingWriter{w: compressed}
	cw, err := c.writer(count)
	if err != nil {
		return nil, err
	}
	if err := writeAndClose(cw, func(w io.Writer) error { return write(io.MultiWriter(plain, w)) }); err != nil {
		return nil, err
	}
	l.digest, l.diffID, l.size = sum(compressed), sum(plain), count.n
	return l, nil
}

func (l *layer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.diffID, nil }
func (l *layer) Size() (int64, error)                 { return l.size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return l.compression.mediaType(), nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return pipe(l.write), nil }

func (l *layer) Compressed() (io.ReadCloser, error) {
	return pipe(func(w io.Writer) error {
		cw, err := l.compression.writer(w)
		if err != nil {
			return err
		}
		return writeAndClose(cw, l.write)
	}), nil
}

// writeAndClose hides from write that the zstd encoder has a ReadFrom: it cuts
// its blocks in another way than Write does, so the same tar would get two digests.
func writeAndClose(cw io.WriteCloser, write func(io.Writer) error) error {
	if err := write(struct{ io.Writer }{cw}); err != nil {
		cw.Close()
		return err
	}
	return cw.Close()
}

// pipe turns a func that writes into a reader. Closing the reader early makes
// the writes fail, which ends the goroutine.
func pipe(write func(io.Writer) error) io.ReadCloser {
	pr, pw := io.Pipe()
	go func() {
		b := bufio.NewWriterSize(pw, 256<<10)
		err := write(b)
		if err == nil {
			err = b.Flush()
		}
		pw.CloseWithError(err) // nil means io.EOF
	}()
	return pr
}

// New assembles an OCI image from a config and its layers, lowest first.
// Config's RootFS and History are filled in from the layers; OS, Architecture
// and Created, where empty, become linux, this program's architecture, and the
// epoch.
func New(config v1.ConfigFile, layers ...v1.Layer) (v1.Image, error) {
	config = *config.DeepCopy()
	if config.OS == "" {
		config.OS = defaultPlatform().OS
	}
	if config.Architecture == "" {
		config.Architecture = defaultPlatform().Architecture
	}
	if config.Created.IsZero() {
		config.Created = v1.Time{Time: epoch}
	}
	config.History, config.RootFS = nil, v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}}
	img, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), &config)
	if err != nil {
		return nil, fmt.Errorf("assemble image: %w", err)
	}
	adds := make([]mutate.Addendum, len(layers))
	for i, l := range layers {
		adds[i] = mutate.Addendum{Layer: l, History: v1.History{Created: v1.Time{Time: epoch}}}
	}
	if img, err = mutate.Append(img, adds...); err != nil {
		return nil, fmt.Errorf("assemble image: %w", err)
	}
	return img, nil
}

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

package sourcetest

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// How a layer removes what lies below it.
// Source: OCI image specification, layer.md, "Whiteouts".
const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

// extract writes regular files of the image to dir, under their base names. The
// uppermost layer that has a file wins; layers below the last that is needed
// are not read.
func extract(ctx context.Context, img v1.Image, dir string, paths []string) error {
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	wanted := slices.Clone(paths)
	var absent []string
	for _, layer := range slices.Backward(layers) {
		if len(wanted) == 0 {
			break
		}
		found, hidden, err := extractLayer(ctx, layer, dir, wanted)
		if err != nil {
			return err
		}
		wanted = slices.DeleteFunc(wanted, func(p string) bool {
			if hidden[p] && !found[p] {
				absent = append(absent, p)
			}
			return found[p] || hidden[p]
		})
	}
	if absent = append(absent, wanted...); len(absent) > 0 {
		return fmt.Errorf("there is no %s; links on the way to a file are not followed", strings.Join(absent, ", no "))
	}
	return nil
}

// extractLayer writes those of the wanted files that the layer has, and tells of
// which it hides what is below it.
func extractLayer(ctx context.Context, layer v1.Layer, dir string, wanted []string) (found, hidden map[string]bool, err error) {
	rc, err := layer.Uncompressed()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = rc.Close() }()
	found, hidden = map[string]bool{}, map[string]bool{}
	tr := tar.NewReader(rc)
	for {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return found, hidden, nil
		}
		if err != nil {
			return nil, nil, err
		}
		name := path.Clean("/" + h.Name)
		if slices.Contains(wanted, name) {
			if err := write(tr, h, filepath.Join(dir, path.Base(name))); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", name, err)
			}
			found[name] = true
			continue
		}
		for _, p := range wanted {
			if hides(name, h.Typeflag, p) {
				hidden[p] = true
			}
		}
	}
}

// hides says whether the entry of a layer makes p of the layers below vanish.
func hides(entry string, typ byte, p string) bool {
	in, base := path.Split(entry) // in ends in a slash
	if base == opaque {
		return strings.HasPrefix(p, in)
	}
	if removed, ok := strings.CutPrefix(base, whiteout); ok {
		return p == in+removed || strings.HasPrefix(p, in+removed+"/")
	}
	// Where a directory was there is something else now.
	return typ != tar.TypeDir && strings.HasPrefix(p, entry+"/")
}

func write(r io.Reader, h *tar.Header, name string) error {
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("it is no regular file (type %q, link to %q): ask for what it stands for", h.Typeflag, h.Linkname)
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, h.FileInfo().Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Sync(), out.Close())
}

package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// File is one entry of a layer: a regular file, a directory (Mode.IsDir) or a
// symbolic link (Link not empty).
type File struct {
	// Path in the image, slash-separated; a leading slash makes no difference.
	Path string
	// Mode holds the permission bits, setuid, setgid and sticky, and for a
	// directory fs.ModeDir.
	Mode fs.FileMode
	// UID and GID are the owner's numbers.
	UID, GID int
	// Link is the target of a symbolic link, written as given.
	Link string
	// Open gives the content of a regular file. It is called more than once,
	// and must give the same bytes each time. Nil means an empty file.
	Open func() (io.ReadCloser, error)
	// Size is the content's length in bytes.
	Size int64
}

// FileFromBytes returns a regular file, owned by root, with the given content.
func FileFromBytes(name string, mode fs.FileMode, content []byte) File {
	return File{
		Path: name, Mode: mode.Perm(), Size: int64(len(content)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
	}
}

// FileFromDisk returns the entry name, owned by root, with the type, mode and
// content of the file src on disk. The content is read when the layer is
// written, not now.
func FileFromDisk(name, src string) (File, error) {
	info, err := os.Lstat(src)
	if err != nil {
		return File{}, fmt.Errorf("add %s to a layer: %w", name, err)
	}
	f := File{Path: name, Mode: info.Mode()}
	switch {
	case info.IsDir():
	case info.Mode()&fs.ModeSymlink != 0:
		if f.Link, err = os.Readlink(src); err != nil {
			return File{}, fmt.Errorf("add %s to a layer: %w", name, err)
		}
	case info.Mode().IsRegular():
		f.Size = info.Size()
		f.Open = func() (io.ReadCloser, error) { return os.Open(src) }
	default:
		return File{}, fmt.Errorf("add %s to a layer: %s is a %s; only files, directories and symbolic links can be added", name, src, info.Mode().Type())
	}
	return f, nil
}

// epoch is the time of everything inside an image: the clock is no input.
var epoch = time.Unix(0, 0).UTC()

// arrange returns the files as they stand in the tar: clean relative paths,
// sorted, every missing parent added as root's 0755 directory. It refuses what
// would make the layer ambiguous.
func arrange(files []File) ([]File, error) {
	byPath := make(map[string]File, len(files))
	for _, f := range files {
		given := f.Path
		if slices.Contains(strings.Split(given, "/"), "..") {
			return nil, fmt.Errorf("layer entry %q: the path leaves the image; give it without its '..' elements", given)
		}
		f.Path = strings.TrimPrefix(path.Clean("/"+given), "/")
		if f.Path == "" {
			return nil, fmt.Errorf("layer entry %q: the path is empty or the root", given)
		}
		if f.Mode.IsDir() && (f.Link != "" || f.Open != nil) {
			return nil, fmt.Errorf("layer entry %q: a directory with a link target or content", given)
		}
		if f.Link == "" && !f.Mode.IsDir() && f.Open == nil && f.Size != 0 {
			return nil, fmt.Errorf("layer entry %q: %d bytes but no Open to read them", given, f.Size)
		}
		if have, ok := byPath[f.Path]; ok {
			same := have.Mode == f.Mode && have.UID == f.UID && have.GID == f.GID
			if !have.Mode.IsDir() || !f.Mode.IsDir() || !same {
				return nil, fmt.Errorf("layer entry %q is given twice", f.Path)
			}
		}
		byPath[f.Path] = f
	}
	for _, f := range files {
		p := strings.TrimPrefix(path.Clean("/"+f.Path), "/")
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			have, ok := byPath[dir]
			if !ok {
				byPath[dir] = File{Path: dir, Mode: fs.ModeDir | 0o755}
			} else if !have.Mode.IsDir() {
				return nil, fmt.Errorf("layer entry %q lies under %q, which is not a directory in this layer; use its real path", f.Path, dir)
			}
		}
	}
	all := make([]File, 0, len(byPath))
	for _, f := range byPath {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return all, nil
}

// writeTar writes arranged files. No user names, no times, no host detail.
func writeTar(w io.Writer, files []File) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		if err := writeTarEntry(tw, f); err != nil {
			return fmt.Errorf("layer entry %q: %w", f.Path, err)
		}
	}
	return tw.Close()
}

func writeTarEntry(tw *tar.Writer, f File) error {
	// With no Format asked for, archive/tar takes USTAR and goes to PAX only for
	// an entry that USTAR cannot hold.
	h := &tar.Header{Name: f.Path, Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID, ModTime: epoch}
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if f.Mode&bit != 0 {
			h.Mode |= value
		}
	}
	switch {
	case f.Link != "":
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.Link, 0o777
		return tw.WriteHeader(h)
	case f.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
		return tw.WriteHeader(h)
	}
	h.Typeflag, h.Size = tar.TypeReg, f.Size
	if err := tw.WriteHeader(h); err != nil || f.Open == nil {
		return err
	}
	rc, err := f.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	n, err := io.Copy(tw, rc)
	if err == nil && n != f.Size {
		err = fmt.Errorf("content has %d bytes, Size says %d", n, f.Size)
	}
	return err
}

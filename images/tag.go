package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/internal/run"
)

// Tag returns an image tag that names the content of the source tree around dir.
//
// In a git work tree it is the first 12 digits of the commit. If any file of the
// work tree differs from the commit, or is new and not ignored, a dash and 8
// digits of a hash over those files follow; so two different trees never share a
// tag. Where dir is in no git work tree, is ignored by it, or has no commit
// yet, the tag is 12 digits of a hash over the files of dir.
func Tag(ctx context.Context, dir string) (string, error) {
	tag, err := sourceTag(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("tag of source tree %s: %w", dir, err)
	}
	return tag, nil
}

func sourceTag(ctx context.Context, dir string) (string, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", errors.New("it is not a directory")
	}
	git, err := inGit(dir)
	if err != nil {
		return "", err
	}
	if git {
		// Git says nothing about the files of an ignored folder.
		err := run.Cmd{Argv: []string{"git", "-C", dir, "check-ignore", "--quiet", "."}}.Run(ctx)
		if git = exitCode(err) == 1; !git && err != nil {
			return "", gitError(err)
		}
	}
	if !git {
		return treeHash(dir)
	}
	commit, err := run.Output(ctx, "git", "-C", dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	if exitCode(err) == 1 {
		return treeHash(dir)
	}
	if err != nil {
		return "", gitError(err)
	}
	if len(commit) < 12 {
		return "", fmt.Errorf("git names the commit %q", commit)
	}
	top, err := run.Output(ctx, "git", "-C", dir, "rev-parse", "--show-toplevel")
	if err != nil {
		return "", gitError(err)
	}
	// The whole work tree, whatever dir is: a package may import from anywhere in it.
	status, err := run.Output(ctx, "git", "-C", top, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all")
	if err != nil {
		return "", gitError(err)
	}
	if status == "" {
		return commit[:12], nil
	}
	var changed []string
	for _, entry := range strings.Split(strings.TrimSuffix(status, "\x00"), "\x00") {
		if len(entry) < 4 { // two letters, a space, the path
			return "", fmt.Errorf("git status printed %q", entry)
		}
		changed = append(changed, entry[3:])
	}
	content, err := hashFiles(top, changed)
	if err != nil {
		return "", err
	}
	return commit[:12] + "-" + content[:8], nil
}

// inGit looks for a .git above dir, so that git's failures, in whatever
// language, need not be told from the lack of a repository.
func inGit(dir string) (bool, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	for {
		_, err := os.Lstat(filepath.Join(abs, ".git"))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		parent := filepath.Dir(abs)
		if parent == abs {
			return false, nil
		}
		abs = parent
	}
}

func treeHash(dir string) (string, error) {
	h, err := hashFiles(dir, []string{"."})
	if err != nil {
		return "", err
	}
	return h[:12], nil
}

// hashFiles hashes names, types, executable bits and contents of the paths under
// root, and of everything below those that are directories, .git apart. A path
// that does not exist counts as deleted.
func hashFiles(root string, paths []string) (string, error) {
	slices.Sort(paths)
	h := sha256.New()
	for _, p := range slices.Compact(paths) {
		start := filepath.Join(root, p)
		if _, err := os.Lstat(start); errors.Is(err, fs.ErrNotExist) {
			writeField(h, "deleted", p)
			continue
		}
		err := filepath.WalkDir(start, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.Name() == ".git" {
				if d.IsDir() {
					return fs.SkipDir
				}
				return nil
			}
			if d.IsDir() {
				return nil
			}
			rel, err := filepath.Rel(root, name)
			if err != nil {
				return err
			}
			return hashFile(h, name, filepath.ToSlash(rel))
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashFile(h hash.Hash, name, rel string) error {
	info, err := os.Lstat(name)
	if err != nil {
		return err
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return err
		}
		writeField(h, "link", rel, target)
	case info.Mode().IsRegular():
		kind := "file"
		if info.Mode()&0o111 != 0 {
			kind = "executable"
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		content := sha256.New()
		if _, err := io.Copy(content, f); err != nil {
			return err
		}
		writeField(h, kind, rel, string(content.Sum(nil)))
	}
	// Sockets, pipes and devices are no source.
	return nil
}

// writeField writes each value with its length, so that no two lists give the
// same bytes.
func writeField(h hash.Hash, values ...string) {
	for _, v := range values {
		fmt.Fprintf(h, "%d:%s,", len(v), v)
	}
}

// exitCode is what a command ended with, 0 for no error, -1 if it did not run to
// its end.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[*run.Error](err); ok {
		return e.ExitCode
	}
	return -1
}

func gitError(err error) error {
	return fmt.Errorf("%w; git must be installed and able to read this repository (for one of another owner: git config --global --add safe.directory)", err)
}

package images

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/org/spire-vault-99-action/internal/run"
)

// repository makes a git repository with one commit and two tracked files.
func repository(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "main.go"), "package main")
	writeFile(t, filepath.Join(dir, "sub", "x.go"), "package sub")
	writeFile(t, filepath.Join(dir, ".gitignore"), "ignored*")
	git(t, dir, "init", "--quiet")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "--quiet", "-m", "first")
	return dir
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	argv := append([]string{"git", "-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"}, args...)
	out, err := run.Output(t.Context(), argv...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func writeFile(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tagOf(t *testing.T, dir string) string {
	t.Helper()
	tag, err := Tag(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

func TestTagOfCommit(t *testing.T) {
	dir := repository(t)
	want := git(t, dir, "rev-parse", "HEAD")[:12]
	writeFile(t, filepath.Join(dir, "ignored.log"), "noise")
	for _, d := range []string{dir, filepath.Join(dir, "sub")} {
		if got := tagOf(t, d); got != want {
			t.Errorf("clean tree, %s: %q, want %q", d, got, want)
		}
	}
}

func TestTagOfDirtyTree(t *testing.T) {
	dir := repository(t)
	clean := tagOf(t, dir)
	seen := map[string]string{clean: "clean"}
	dirty := func(what string) string {
		t.Helper()
		got := tagOf(t, dir)
		if !regexp.MustCompile(`^` + clean + `-[0-9a-f]{8}$`).MatchString(got) {
			t.Errorf("%s: %q", what, got)
		}
		if before, ok := seen[got]; ok {
			t.Errorf("%s has the tag of %s", what, before)
		}
		seen[got] = what
		if again := tagOf(t, dir); again != got {
			t.Errorf("%s: %q, then %q", what, got, again)
		}
		return got
	}
	writeFile(t, filepath.Join(dir, "main.go"), "package main // 1")
	first := dirty("changed file")
	git(t, dir, "add", "-A")
	if got := tagOf(t, dir); got != first {
		t.Errorf("the same content, staged: %q, not staged %q", got, first)
	}
	writeFile(t, filepath.Join(dir, "main.go"), "package main // 2")
	dirty("changed again")
	writeFile(t, filepath.Join(dir, "a dir", "new\nfile"), "x")
	dirty("new file")
	writeFile(t, filepath.Join(dir, "a dir", "new\nfile"), "y")
	dirty("new file changed")
	if err := os.Remove(filepath.Join(dir, "sub", "x.go")); err != nil {
		t.Fatal(err)
	}
	dirty("file deleted")
	if err := os.Chmod(filepath.Join(dir, "main.go"), 0o755); err != nil {
		t.Fatal(err)
	}
	dirty("made executable")
	if err := os.Symlink("main.go", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	dirty("link")
}

func TestTagWithoutGit(t *testing.T) {
	hash := regexp.MustCompile(`^[0-9a-f]{12}$`)
	plain := t.TempDir()
	empty := filepath.Join(t.TempDir(), "no commit yet")
	inIgnored := filepath.Join(repository(t), "ignored-dir")
	for _, dir := range []string{plain, empty, inIgnored} {
		writeFile(t, filepath.Join(dir, "f"), "1")
	}
	git(t, empty, "init", "--quiet")
	for _, dir := range []string{plain, empty, inIgnored} {
		a := tagOf(t, dir)
		writeFile(t, filepath.Join(dir, "f"), "2")
		b := tagOf(t, dir)
		if !hash.MatchString(a) || !hash.MatchString(b) || a == b {
			t.Errorf("%s: %q, changed %q", dir, a, b)
		}
	}
	if a, b := tagOf(t, plain), tagOf(t, empty); a != b {
		t.Errorf("the same content: %q and %q", a, b)
	}
}

func TestTagFails(t *testing.T) {
	_, err := Tag(t.Context(), filepath.Join(t.TempDir(), "absent"))
	wantError(t, err, "absent")
	broken := t.TempDir()
	writeFile(t, filepath.Join(broken, ".git", "HEAD"), "nonsense")
	_, err = Tag(t.Context(), broken)
	wantError(t, err, broken, "git must be installed and able to read")
}

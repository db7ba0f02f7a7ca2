package fromsource

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/internal/run"
)

// caBundle is where Debian's ca-certificates puts all of them in one file.
const caBundle = "etc/ssl/certs/ca-certificates.crt"

// certificates is the userland that images without one take their CA
// certificates from.
var certificates = userland{Suite: "bookworm", Packages: []string{"ca-certificates"}}

// HostPackages are the Debian packages that building an image with a userland
// needs on this machine.
func HostPackages() []string { return []string{"mmdebstrap"} }

// mmdebstrapArgs is the command line that makes the userland a tar file.
func mmdebstrapArgs(u userland, arch, mirror, out string) []string {
	argv := []string{
		"mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar", "--architectures=" + arch,
		"--include=" + strings.Join(u.Packages, ","),
		u.Suite, out,
	}
	if mirror != "" {
		argv = append(argv, mirror)
	}
	return argv
}

// buildUserland makes the userland as a tar file at dst: sorted, all times at
// the epoch, without what Remove names and without devices.
func (b *Builder) buildUserland(ctx context.Context, u userland, dst string) error {
	what := fmt.Sprintf("Debian %s userland with %s", u.Suite, strings.Join(u.Packages, " "))
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("building a %s: %w: install the Debian package mmdebstrap", what, err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("building a %s: it takes root to unpack packages as they are: run as root, or take images from a registry", what)
	}
	work, err := os.MkdirTemp(b.workDir(), "userland-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	raw := filepath.Join(work, "raw.tar")
	cmd := run.Cmd{
		Argv: mmdebstrapArgs(u, b.arch, b.cfg.DebianMirror, raw),
		Env:  run.Environ("SOURCE_DATE_EPOCH=0", "TMPDIR="+work, "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"),
	}
	if err := cmd.Run(ctx); err != nil {
		return fmt.Errorf("building a %s: %w", what, err)
	}
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := filepath.Join(work, "userland.tar")
	out, err := os.Create(tmp)
	if err != nil {
		return err
	}
	if err := errors.Join(filterUserland(in, out, u.Remove), out.Close()); err != nil {
		return fmt.Errorf("building a %s: %w", what, err)
	}
	return os.Rename(tmp, dst)
}

// unwanted are paths that differ between two runs or belong to the machine.
var unwanted = []string{
	"/dev/**", "/proc/**", "/sys/**", "/run/**", "/tmp/**",
	"/etc/hostname", "/etc/resolv.conf", "/etc/machine-id", "/var/lib/dbus/machine-id",
	"/var/cache/apt/**", "/var/cache/debconf/**", "/var/cache/ldconfig/**", "/var/lib/apt/**", "/var/log/**",
	"/var/lib/systemd/catalog/**", "/var/lib/systemd/random-seed", "/**/__pycache__/**",
}

// filterUserland copies a tar stream without the paths that remove (and
// unwanted) name. A hard link to a removed file is an error.
func filterUserland(in io.Reader, out io.Writer, remove []string) error {
	drop, err := globs(append(append([]string{}, unwanted...), remove...))
	if err != nil {
		return err
	}
	tr, tw := tar.NewReader(in), tar.NewWriter(out)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		name := path.Clean("/" + h.Name)
		if name == "/" || drop.MatchString(name) || h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock || h.Typeflag == tar.TypeFifo {
			continue
		}
		if h.Typeflag == tar.TypeLink {
			target := path.Clean("/" + h.Linkname)
			if drop.MatchString(target) {
				return fmt.Errorf("%s is a hard link to %s, which is to be removed", name, target)
			}
			h.Linkname = target[1:]
		}
		h.Name = name[1:]
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		h.ModTime, h.AccessTime, h.ChangeTime = time.Unix(0, 0), time.Time{}, time.Time{}
		h.Uname, h.Gname = "", ""
		h.Format = tar.FormatUnknown
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

// globs compiles path patterns to one expression: "*" stays within a path
// element, "**" does not.
func globs(patterns []string) (*regexp.Regexp, error) {
	var alternatives []string
	for _, p := range patterns {
		if !strings.HasPrefix(p, "/") {
			return nil, fmt.Errorf("pattern %q does not start with /", p)
		}
		q := regexp.QuoteMeta(p)
		q = strings.ReplaceAll(q, `\*\*`, ".*")
		q = strings.ReplaceAll(q, `\*`, "[^/]*")
		alternatives = append(alternatives, q)
	}
	return regexp.Compile("^(?:" + strings.Join(alternatives, "|") + ")$")
}

// readFromTar returns one file of a tar file.
func readFromTar(tarFile, name string) ([]byte, error) {
	f, err := os.Open(tarFile)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil, fmt.Errorf("no %s in %s", name, tarFile)
		}
		if err != nil {
			return nil, err
		}
		if h.Name == name {
			var data bytes.Buffer
			_, err := io.Copy(&data, tr)
			return data.Bytes(), err
		}
	}
}

package kindx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/internal/run"
)

// InstallPackages installs those of the named Debian packages that are not
// installed yet. With all of them there it does nothing, and needs no rights;
// else it needs root on a Debian or Ubuntu machine and says so.
func InstallPackages(ctx context.Context, names ...string) error {
	_, err := installPackages(ctx, realHost(), names)
	return err
}

// installPackages returns what it installed.
func installPackages(ctx context.Context, h host, names []string) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	if err := debian(h); err != nil {
		return nil, fmt.Errorf("packages %s are needed, and this machine cannot be asked for them: %w: install what provides them by your system's own means", strings.Join(names, ", "), err)
	}
	missing, err := missingPackages(ctx, h, names)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	install := append([]string{"apt-get", "install", "-y", "--no-install-recommends"}, missing...)
	if !h.root {
		return nil, fmt.Errorf("packages %s are missing and only root may install them: run `%s` as root", strings.Join(missing, ", "), strings.Join(install, " "))
	}
	// After an install that was interrupted, apt refuses everything until this is done.
	if err := h.run(ctx, "dpkg", "--configure", "-a"); err != nil {
		return nil, fmt.Errorf("finish an earlier, interrupted installation of packages: %w", err)
	}
	// Another apt may run; wait for it rather than fail at once.
	lockTimeout := []string{"-o", "DPkg::Lock::Timeout=300"}
	update := append([]string{"apt-get", "update", "-qq"}, lockTimeout...)
	updateErr := h.run(ctx, update...)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("install packages %s: %w", strings.Join(missing, ", "), err)
	}
	// Old lists often do, so a failed update is only told of if the rest fails.
	if err := h.run(ctx, append(install, lockTimeout...)...); err != nil {
		return nil, fmt.Errorf("install packages %s: %w", strings.Join(missing, ", "), errors.Join(err, updateErr))
	}
	return missing, nil
}

// missingPackages are those that dpkg does not call installed, in the order given.
func missingPackages(ctx context.Context, h host, names []string) ([]string, error) {
	// dpkg-query ends with 1 when it does not know one of them; what it knows, it prints.
	out, err := h.output(ctx, append([]string{"dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n"}, names...)...)
	if failed, ok := errors.AsType[*run.Error](err); err != nil && (!ok || failed.ExitCode != 1) {
		return nil, fmt.Errorf("ask dpkg which of the packages %s are installed: %w", strings.Join(names, ", "), err)
	}
	installed := map[string]bool{}
	for line := range strings.Lines(out) {
		if name, state, ok := strings.Cut(strings.TrimSpace(line), " "); ok && state == "installed" {
			installed[name] = true
		}
	}
	var missing []string
	for _, name := range names {
		if !installed[name] && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// debian is an error that says why packages cannot be had with apt.
func debian(h host) error {
	if h.osRelease == "" {
		return errors.New("it has no /etc/os-release")
	}
	ids := map[string]string{}
	for line := range strings.Lines(h.osRelease) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			ids[key] = strings.Trim(value, `"'`)
		}
	}
	family := append(strings.Fields(ids["ID_LIKE"]), ids["ID"])
	if !slices.Contains(family, "debian") && !slices.Contains(family, "ubuntu") {
		return fmt.Errorf("it is neither Debian nor Ubuntu but %q", ids["ID"])
	}
	return nil
}

// host is the machine, as far as setting it up goes.
type host struct {
	root      bool
	osRelease string // the text of /etc/os-release
	systemd   bool   // it is the init process
	run       func(ctx context.Context, argv ...string) error
	output    func(ctx context.Context, argv ...string) (string, error)
}

func realHost() host {
	release, _ := os.ReadFile("/etc/os-release") // absent elsewhere than on Linux
	_, err := os.Stat("/run/systemd/system")     // sd_booted(3)
	return host{
		root: os.Geteuid() == 0, osRelease: string(release), systemd: err == nil,
		run: func(ctx context.Context, argv ...string) error {
			return run.Cmd{Argv: argv, Env: run.Environ("DEBIAN_FRONTEND=noninteractive")}.Run(ctx)
		},
		output: run.Output,
	}
}

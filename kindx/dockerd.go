package kindx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/org/spire-vault-99-action/internal/run"
)

const (
	defaultEndpoint = "unix:///var/run/docker.sock"
	dockerdPIDFile  = "/var/run/docker.pid"
	// containerdPIDFile is where dockerd notes the containerd that it starts.
	containerdPIDFile = "/var/run/docker/containerd/containerd.pid"
)

// systemPath is where the system's programs lie: an unprivileged user's PATH, and
// that of many a CI job, leaves the sbin folders out.
var systemPath = [...]string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

func findProgram(program string) string {
	for _, dir := range systemPath {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return ""
	}
	return path
}

// dockerEndpoint is where the docker client looks for its engine, by its context
// and environment.
func dockerEndpoint(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	at, err := run.Output(ctx, "docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
	if err != nil || at == "" {
		return defaultEndpoint
	}
	return at
}

// runningDockerd finds a dockerd that runs. Where there is none it removes the
// process IDs that a dockerd left which ended with its machine: by now they may be
// other processes', which dockerd would take for itself, or for a containerd
// to be killed.
func runningDockerd() (int, error) {
	pid, err := livePID(dockerdPIDFile, "dockerd")
	if err != nil || pid != 0 {
		return pid, err
	}
	_, err = livePID(containerdPIDFile, "containerd")
	return 0, err
}

// livePID is the process in a PID file, if that runs the named program. Else the
// file is removed.
func livePID(path, program string) (int, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && pid > 0 {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err == nil && strings.TrimSpace(string(name)) == program {
			return pid, nil
		}
	}
	return 0, os.Remove(path)
}

// daemon is a dockerd that was started here.
type daemon struct {
	pid    int
	log    string
	exited <-chan error // gets the reason when the process ends
	stop   func()       // ends it, if it still runs
}

// startDockerd starts the daemon as a process of its own that outlives this one.
func startDockerd(path, stateDir, shim string) (daemon, error) {
	d := daemon{log: filepath.Join(stateDir, "dockerd.log")}
	log, err := os.Create(d.log)
	if err != nil {
		return daemon{}, fmt.Errorf("start dockerd: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(path, dockerdArgs(shim)...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", dockerdEnv(run.Environ()), log, log
	// Its own session, so that neither Ctrl-C nor a closed terminal reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return daemon{}, fmt.Errorf("start dockerd: %w", err)
	}
	d.pid = cmd.Process.Pid
	exited, gone := make(chan error, 1), make(chan struct{})
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("exit status 0")
		}
		exited <- err
		close(gone)
	}()
	d.exited = exited
	d.stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may be gone already
		select {
		case <-gone:
		case <-time.After(15 * time.Second):
			_ = cmd.Process.Kill()
			<-gone
		}
	}
	if err := os.WriteFile(filepath.Join(stateDir, "dockerd.pid"), []byte(strconv.Itoa(d.pid)+"\n"), 0o644); err != nil {
		d.stop()
		return daemon{}, fmt.Errorf("start dockerd: %w", err)
	}
	return d, nil
}

// dockerdArgs gives the shim by flags, which add to a /etc/docker/daemon.json
// rather than replace it.
func dockerdArgs(shim string) []string {
	if shim == "" {
		return nil
	}
	return []string{"--add-runtime=" + runtimeName + "=" + shim, "--default-runtime=" + runtimeName}
}

// dockerdEnv is what a daemon needs of an environment: the system's PATH, and how
// to get out to a registry. Anything else, tokens of a CI job say, stays out.
func dockerdEnv(environ []string) []string {
	env := []string{"PATH=" + strings.Join(systemPath[:], ":")}
	keep := []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR"}
	for _, kv := range environ {
		if key, _, ok := strings.Cut(kv, "="); ok && slices.Contains(keep, strings.ToUpper(key)) {
			env = append(env, kv)
		}
	}
	return env
}

// tail is the end of a file, for an error.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

package kindx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/org/spire-vault-99-action/internal/ociruntime"
	"github.com/org/spire-vault-99-action/internal/run"
)

const (
	debianRelease = "ID=debian\nVERSION_ID=\"12\"\n"
	ubuntuRelease = "ID=ubuntu\nID_LIKE=debian\n"
	otherRelease  = "ID=fedora\n"
)

// fakeHost is a machine on which installing and starting take effect at once.
type fakeHost struct {
	engineHost
	ran       []string
	answers   bool
	programs  map[string]bool
	installed map[string]bool
	info      engineInfo
	stopped   bool
}

var errNoEngine = errors.New("cannot connect to the Docker daemon")

// newFakeHost is root on a Debian without an engine, and with the capability.
func newFakeHost(t *testing.T) *fakeHost {
	f := &fakeHost{
		programs: map[string]bool{}, installed: map[string]bool{},
		info: engineInfo{Version: "20.10", CgroupVersion: 2, DefaultRuntime: "runc", Runtimes: map[string]string{}},
	}
	f.root, f.osRelease = true, debianRelease
	f.ask = func(context.Context, Provider) (engineInfo, error) {
		if !f.answers {
			return engineInfo{}, errNoEngine
		}
		return f.info, nil
	}
	f.client = func(p Provider) bool { return f.programs[string(p)] }
	f.endpoint = func(context.Context) string { return defaultEndpoint }
	f.daemonPID = func(string) int { return 42 }
	f.lacks = func(int) (bool, error) { return false, nil }
	f.find = func(p string) string {
		if f.programs[p] {
			return "/usr/sbin/" + p
		}
		return ""
	}
	f.running = func() (int, error) { return 0, nil }
	f.start = func(path, _, shim string) (daemon, error) {
		f.ran = append(f.ran, strings.Join(append([]string{path}, dockerdArgs(shim)...), " "))
		f.answers = true
		if shim != "" {
			f.info.DefaultRuntime, f.info.Runtimes[runtimeName] = runtimeName, shim
		}
		return daemon{pid: 42, log: filepath.Join(t.TempDir(), "log"), exited: make(chan error), stop: func() { f.stopped = true }}, nil
	}
	f.buildShim = func(_ context.Context, out, runc string) error {
		f.ran = append(f.ran, "build shim before "+runc)
		return os.WriteFile(out, []byte("shim"), 0o755)
	}
	f.run = func(_ context.Context, argv ...string) error {
		f.ran = append(f.ran, strings.Join(argv, " "))
		for _, p := range argv {
			switch p {
			case "docker.io":
				f.programs["dockerd"], f.programs["docker"], f.programs["runc"] = true, true, true
			case "iptables", "docker-cli":
				f.programs[strings.TrimSuffix(p, "-cli")] = true
			}
		}
		return nil
	}
	f.output = func(_ context.Context, argv ...string) (string, error) {
		out, unknown := "", false
		for _, p := range argv[4:] {
			if f.installed[p] {
				out += p + " installed\n"
			} else {
				unknown = true
			}
		}
		if unknown {
			return out, &run.Error{Argv: argv, ExitCode: 1, Err: errors.New("exit status 1")}
		}
		return out, nil
	}
	return f
}

func TestEnsureEngineUsesWhatAnswers(t *testing.T) {
	f := newFakeHost(t)
	f.answers, f.root = true, false
	var said []string
	e, err := ensureEngine(t.Context(), EngineConfig{OnEvent: func(e Event) { said = append(said, e.String()) }}, f.engineHost)
	if want := (Engine{Name: "docker", Version: "20.10", CgroupVersion: 2}); err != nil || e != want {
		t.Errorf("%+v, %v; want %+v", e, err, want)
	}
	if len(f.ran) != 0 || !slices.Equal(said, []string{"engine: docker 20.10 answers, cgroup v2; used as it is"}) {
		t.Errorf("ran %q, said %q", f.ran, said)
	}
}

func TestEnsureEngineInstallsAndStarts(t *testing.T) {
	const aptOptions = " -o DPkg::Lock::Timeout=300"
	tests := []struct {
		name      string
		change    func(*fakeHost)
		want      []string // %s is the state folder
		installed bool
		shim      bool
	}{
		{
			name: "bare Debian",
			want: []string{
				"dpkg --configure -a", "apt-get update -qq" + aptOptions,
				"apt-get install -y --no-install-recommends docker.io iptables" + aptOptions, "/usr/sbin/dockerd",
			},
			installed: true,
		},
		{
			name: "without the capability",
			change: func(f *fakeHost) {
				f.osRelease = ubuntuRelease
				f.lacks = func(int) (bool, error) { return true, nil }
				f.programs["dockerd"], f.programs["docker"], f.programs["iptables"], f.programs["runc"] = true, true, true, true
			},
			want: []string{
				"build shim before /usr/sbin/runc",
				"/usr/sbin/dockerd --add-runtime=" + runtimeName + "=%s/oci-runtime --default-runtime=" + runtimeName,
			},
			shim: true,
		},
		{
			name: "client in a package of its own",
			change: func(f *fakeHost) {
				f.programs["dockerd"], f.programs["iptables"] = true, true
			},
			want: []string{
				"dpkg --configure -a", "apt-get update -qq" + aptOptions,
				"apt-get install -y --no-install-recommends docker-cli" + aptOptions, "/usr/sbin/dockerd",
			},
			installed: true,
		},
		{
			name: "systemd",
			change: func(f *fakeHost) {
				f.systemd = true
				f.programs["dockerd"], f.programs["docker"], f.programs["iptables"] = true, true, true
				inner := f.run
				f.run = func(ctx context.Context, argv ...string) error {
					f.answers = argv[0] == "systemctl"
					return inner(ctx, argv...)
				}
			},
			want: []string{"systemctl start docker"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeHost(t)
			if tt.change != nil {
				tt.change(f)
			}
			state := t.TempDir()
			e, err := ensureEngine(t.Context(), EngineConfig{StateDir: state}, f.engineHost)
			if err != nil {
				t.Fatal(err)
			}
			for i, w := range tt.want {
				tt.want[i] = strings.ReplaceAll(w, "%s", state)
			}
			if !slices.Equal(f.ran, tt.want) {
				t.Errorf("ran\n%s\nwant\n%s", strings.Join(f.ran, "\n"), strings.Join(tt.want, "\n"))
			}
			if e.Installed != tt.installed || !e.Started || e.Shim != tt.shim {
				t.Errorf("got %+v", e)
			}
		})
	}
}

func TestEnsureEngineSaysWhatToDo(t *testing.T) {
	tests := []struct {
		name   string
		change func(*fakeHost)
		cfg    EngineConfig
		want   []string
	}{
		{"not root", func(f *fakeHost) { f.root = false }, EngineConfig{}, []string{"cannot connect", "install and start Docker", "as root"}},
		{"not Debian", func(f *fakeHost) { f.osRelease = otherRelease }, EngineConfig{}, []string{`"fedora"`, "https://docs.docker.com/engine/install/"}},
		{"not Linux", func(f *fakeHost) { f.osRelease = "" }, EngineConfig{}, []string{"install Docker"}},
		{"no state folder", nil, EngineConfig{}, []string{"StateDir"}},
		{"podman", nil, EngineConfig{Provider: Podman}, []string{"install and start podman"}},
		{"unknown", nil, EngineConfig{Provider: "lxc"}, []string{`"lxc"`}},
		{"no permission", func(f *fakeHost) {
			f.ask = func(context.Context, Provider) (engineInfo, error) {
				return engineInfo{}, errors.New("dial unix: permission denied")
			}
		}, EngineConfig{}, []string{"group docker"}},
		{"DOCKER_HOST", func(f *fakeHost) {
			f.programs["docker"] = true
			f.endpoint = func(context.Context) string { return "tcp://10.0.0.1:2375" }
		}, EngineConfig{StateDir: "/nowhere"}, []string{"tcp://10.0.0.1:2375", "DOCKER_HOST"}},
		{"runc without the capability", func(f *fakeHost) {
			f.answers = true
			f.lacks = func(pid int) (bool, error) { return pid == 42, nil }
		}, EngineConfig{}, []string{"CAP_SYS_RESOURCE", "process 42", "/etc/docker/daemon.json", "kill 42"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFakeHost(t)
			if tt.change != nil {
				tt.change(f)
			}
			if tt.cfg.StateDir != "" {
				tt.cfg.StateDir = t.TempDir()
			}
			_, err := ensureEngine(t.Context(), tt.cfg, f.engineHost)
			for _, words := range tt.want {
				if err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("error %v must say %q", err, words)
				}
			}
			if len(f.ran) != 0 {
				t.Errorf("ran %q", f.ran)
			}
		})
	}
}

// An engine whose daemon cannot be seen, in another PID namespace or on another
// machine, is not judged by what this process lacks.
func TestEnsureEngineDoesNotJudgeWhatItCannotSee(t *testing.T) {
	tests := map[string]func(*fakeHost){
		"socket of another namespace": func(f *fakeHost) { f.daemonPID = func(string) int { return 0 } },
		"another machine":             func(f *fakeHost) { f.endpoint = func(context.Context) string { return "ssh://host" } },
		"a runtime of its own":        func(f *fakeHost) { f.info.DefaultRuntime = "theirs" },
	}
	for name, change := range tests {
		f := newFakeHost(t)
		f.answers = true
		f.lacks = func(int) (bool, error) { return true, nil }
		change(f)
		if e, err := ensureEngine(t.Context(), EngineConfig{}, f.engineHost); err != nil || e.Shim {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// The cache with the shim was emptied while dockerd, which runs it, lived on.
func TestEnsureEngineRestoresTheShim(t *testing.T) {
	f := newFakeHost(t)
	shim := filepath.Join(t.TempDir(), "oci-runtime")
	f.answers = true
	f.lacks = func(int) (bool, error) { return true, nil }
	f.info.DefaultRuntime, f.info.Runtimes = runtimeName, map[string]string{runtimeName: shim}
	for range 2 {
		if e, err := ensureEngine(t.Context(), EngineConfig{}, f.engineHost); err != nil || !e.Shim {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if len(f.ran) != 1 {
		t.Errorf("built once, and then found: %q", f.ran)
	}
	if err := os.WriteFile(shim+".source", []byte("older"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ensureEngine(t.Context(), EngineConfig{}, f.engineHost); err != nil || len(f.ran) != 2 {
		t.Errorf("the shim of an older release is built anew: %q, %v", f.ran, err)
	}
	if mark, err := os.ReadFile(shim + ".source"); err != nil || string(mark) != ociruntime.Source() {
		t.Errorf("mark: %v", err)
	}
}

func TestEnsureEngineShowsTheLog(t *testing.T) {
	f := newFakeHost(t)
	f.programs["dockerd"], f.programs["docker"], f.programs["iptables"] = true, true, true
	log := filepath.Join(t.TempDir(), "dockerd.log")
	text := ""
	for i := range 50 {
		text += fmt.Sprintf("line %d\n", i)
	}
	if err := os.WriteFile(log, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	f.start = func(string, string, string) (daemon, error) {
		exited := make(chan error, 1)
		exited <- errors.New("exit status 1")
		return daemon{pid: 7, log: log, exited: exited, stop: func() { f.stopped = true }}, nil
	}
	_, err := ensureEngine(t.Context(), EngineConfig{StateDir: t.TempDir()}, f.engineHost)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "line 49") || strings.Contains(err.Error(), "line 29\n") {
		t.Errorf("got %v", err)
	}
}

func TestEnsureEngineGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeHost(t)
		f.programs["dockerd"], f.programs["docker"], f.programs["iptables"] = true, true, true
		start := f.start
		f.start = func(path, dir, shim string) (daemon, error) {
			d, err := start(path, dir, shim)
			f.answers = false
			return d, err
		}
		began := time.Now()
		_, err := ensureEngine(t.Context(), EngineConfig{StateDir: t.TempDir(), ReadyTimeout: 30 * time.Second}, f.engineHost)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), errNoEngine.Error()) || !f.stopped {
			t.Errorf("got %v, stopped %v", err, f.stopped)
		}
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("gave up after %s", took)
		}
	})
}

func TestInstallPackages(t *testing.T) {
	f := newFakeHost(t)
	f.installed["jq"] = true
	added, err := installPackages(t.Context(), f.host, []string{"jq", "curl", "xz-utils", "curl"})
	if err != nil || !slices.Equal(added, []string{"curl", "xz-utils"}) {
		t.Errorf("added %q, %v", added, err)
	}
	if got := f.ran[len(f.ran)-1]; !strings.HasPrefix(got, "apt-get install -y --no-install-recommends curl xz-utils") {
		t.Errorf("ran %q", got)
	}
	f.root, f.ran = false, nil
	if added, err := installPackages(t.Context(), f.host, []string{"jq"}); err != nil || added != nil {
		t.Errorf("all there: %q, %v", added, err)
	}
	if _, err := installPackages(t.Context(), f.host, []string{"curl"}); err == nil || !strings.Contains(err.Error(), "as root") {
		t.Errorf("not root: %v", err)
	}
	f.osRelease = otherRelease
	if _, err := installPackages(t.Context(), f.host, []string{"curl"}); err == nil || !strings.Contains(err.Error(), "fedora") {
		t.Errorf("not Debian: %v", err)
	}
	f = newFakeHost(t)
	f.run = func(_ context.Context, argv ...string) error {
		if argv[0] == "apt-get" {
			return errors.New(argv[1] + " refused")
		}
		return nil
	}
	if _, err := installPackages(t.Context(), f.host, []string{"curl"}); err == nil || !strings.Contains(err.Error(), "install refused") || !strings.Contains(err.Error(), "update refused") {
		t.Errorf("both failures: %v", err)
	}
}

func TestDockerdEnvHoldsNoSecrets(t *testing.T) {
	got := dockerdEnv([]string{"PATH=/home/me/bin", "GITHUB_TOKEN=secret", "https_proxy=http://p", "NO_PROXY=localhost", "HOME=/root"})
	want := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "https_proxy=http://p", "NO_PROXY=localhost"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLivePID(t *testing.T) {
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	self := strings.TrimSpace(string(comm))
	tests := []struct {
		name, text, program string
		want                int
	}{
		{"alive", fmt.Sprintln(os.Getpid()), self, os.Getpid()},
		{"now another's", fmt.Sprintln(os.Getpid()), "dockerd", 0},
		{"gone", "2147483646", "dockerd", 0},
		{"empty", "", "dockerd", 0},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "docker.pid")
		if err := os.WriteFile(path, []byte(tt.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := livePID(path, tt.program)
		if err != nil || got != tt.want {
			t.Errorf("%s: %d, %v; want %d", tt.name, got, err, tt.want)
		}
		if _, err := os.Stat(path); (err == nil) != (tt.want != 0) {
			t.Errorf("%s: a stale file must go, a live one stay: %v", tt.name, err)
		}
	}
	if got, err := livePID(filepath.Join(t.TempDir(), "none"), "dockerd"); err != nil || got != 0 {
		t.Errorf("no file: %d, %v", got, err)
	}
}

// A process stands in for dockerd: it is started in a session of its own, and
// what it prints and how it ends is seen.
func TestStartDockerd(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "dockerd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"$@\"\n[ $# -eq 0 ] && exec sleep 60\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d, err := startDockerd(path, dir, "/shim")
	if err != nil {
		t.Fatal(err)
	}
	if err := <-d.exited; err == nil || err.Error() != "exit status 3" {
		t.Errorf("exited: %v", err)
	}
	if got, want := tail(d.log, 5), "--add-runtime="+runtimeName+"=/shim --default-runtime="+runtimeName; got != want {
		t.Errorf("log %q, want %q", got, want)
	}
	d, err = startDockerd(path, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if pid, err := os.ReadFile(filepath.Join(dir, "dockerd.pid")); err != nil || strings.TrimSpace(string(pid)) != fmt.Sprint(d.pid) {
		t.Errorf("pid file %q, %v; want %d", pid, err, d.pid)
	}
	d.stop()
	if err := <-d.exited; err == nil {
		t.Error("it was stopped, yet says that all is well")
	}
}

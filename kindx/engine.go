package kindx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/internal/filelock"
	"github.com/org/spire-vault-99-action/internal/ociruntime"
)

// runtimeName is what dockerd knows the runtime shim by; an engine that was
// started by an earlier run is recognised by it.
const runtimeName = "spire-vault-99-runc"

// EngineConfig says how to get a container engine.
type EngineConfig struct {
	// Provider is the engine; "" is Docker, the only one that is installed and
	// started where it is missing.
	Provider Provider
	// StateDir keeps the runtime shim, the daemon's log and its process ID. It is
	// needed only where something has to be built or started, and has to outlive
	// the engine then.
	StateDir string
	// Packages are Debian packages to be there as well, installed if missing.
	Packages []string
	// ReadyTimeout is how long a started engine has to answer; 0 is 90 seconds.
	ReadyTimeout time.Duration
	// OnEvent, if not nil, gets each step.
	OnEvent func(Event)
}

// Engine is a container engine that answers.
type Engine struct {
	Name          string // the client's command, "docker"
	Version       string // the server's
	CgroupVersion int    // 1 or 2, 0 if the engine does not say
	RootDir       string // where it keeps images and containers; "" if it does not say
	Installed     bool   // by this call
	Started       bool   // by this call
	Shim          bool   // its containers go through the runtime shim
}

// EnsureEngine finds a container engine that answers, and uses it as it is. If
// none does, and this is root on Debian or Ubuntu, it installs docker.io, starts
// dockerd in the background, where it stays, and waits until it answers. Where
// dockerd lacks CAP_SYS_RESOURCE, it is started with a runtime that makes
// privileged containers possible all the same; building that needs Go. Anywhere
// else the error says what to install. Calls on the same StateDir wait for each
// other.
func EnsureEngine(ctx context.Context, cfg EngineConfig) (Engine, error) {
	return ensureEngine(ctx, cfg, realEngineHost())
}

// engineHost is the machine, as far as its engine goes.
type engineHost struct {
	host
	ask func(context.Context, Provider) (engineInfo, error)
	// client reports whether the engine's client is installed.
	client func(Provider) bool
	// endpoint is where the docker client looks for its engine.
	endpoint func(context.Context) string
	// daemonPID is the process that listens on a unix socket, 0 if it cannot be told.
	daemonPID func(socket string) int
	// lacks reports whether a process, or with 0 this one, lacks the capability.
	lacks func(pid int) (bool, error)
	// find is the path of a program of the system, "" if it is not there.
	find func(program string) string
	// running is the process that the stale or live daemon of an earlier start
	// left behind: its ID, or 0 after clearing away what it left.
	running   func() (int, error)
	start     func(path, stateDir, shim string) (daemon, error)
	buildShim func(ctx context.Context, out, runc string) error
}

func realEngineHost() engineHost {
	return engineHost{
		host: realHost(), ask: askEngine, client: clientInstalled, endpoint: dockerEndpoint, daemonPID: socketPeer,
		lacks: func(pid int) (bool, error) {
			if pid == 0 {
				return ociruntime.Needed()
			}
			return ociruntime.NeededBy(pid)
		},
		find: findProgram, running: runningDockerd, start: startDockerd, buildShim: ociruntime.Build,
	}
}

func ensureEngine(ctx context.Context, cfg EngineConfig, h engineHost) (Engine, error) {
	cfg.Provider = cfg.Provider.orDefault()
	if err := cfg.Provider.validate(); err != nil {
		return Engine{}, err
	}
	if cfg.ReadyTimeout == 0 {
		cfg.ReadyTimeout = 90 * time.Second
	}
	if cfg.StateDir != "" {
		dir, err := filepath.Abs(cfg.StateDir)
		if err != nil {
			return Engine{}, fmt.Errorf("engine state folder: %w", err)
		}
		cfg.StateDir = dir
		unlock, err := filelock.Take(ctx, filepath.Join(dir, "engine.lock"), filelock.Exclusive, func() {
			sink{"engine", cfg.OnEvent}.say("waiting for another process that sets it up")
		})
		if err != nil {
			return Engine{}, err
		}
		defer unlock()
	}
	s := engineSetup{cfg: cfg, h: h, sink: sink{"engine", cfg.OnEvent}}
	engine, err := s.ensure(ctx)
	if err != nil {
		return Engine{}, err
	}
	added, err := installPackages(ctx, h.host, cfg.Packages)
	if err != nil {
		return Engine{}, err
	}
	if len(added) > 0 {
		sink{"packages", cfg.OnEvent}.say("installed %s", strings.Join(added, ", "))
	}
	return engine, nil
}

type engineSetup struct {
	cfg EngineConfig
	h   engineHost
	sink
}

func (s engineSetup) ensure(ctx context.Context) (Engine, error) {
	p := s.cfg.Provider
	info, askErr := s.h.ask(ctx, p)
	if askErr == nil {
		engine := describe(p, info)
		var err error
		if engine.Shim, err = s.checkRuntime(ctx, info); err != nil {
			return Engine{}, err
		}
		s.say("%s %s answers%s; used as it is", p, info.Version, cgroupNote(info))
		return engine, nil
	}
	if err := ctx.Err(); err != nil {
		return Engine{}, fmt.Errorf("ask whether a container engine answers: %w", err)
	}
	if err := s.mayStart(ctx, askErr); err != nil {
		return Engine{}, err
	}
	if err := os.MkdirAll(s.cfg.StateDir, 0o755); err != nil {
		return Engine{}, fmt.Errorf("engine state folder: %w", err)
	}
	installed, err := s.install(ctx)
	if err != nil {
		return Engine{}, err
	}
	info, how, err := s.startAndWait(ctx)
	if err != nil {
		return Engine{}, err
	}
	engine := describe(p, info)
	engine.Installed, engine.Started = len(installed) > 0, true
	if engine.Shim, err = s.checkRuntime(ctx, info); err != nil {
		return Engine{}, err
	}
	did := how
	if engine.Installed {
		did = "installed " + strings.Join(installed, ", ") + " and " + how
	}
	s.say("no engine answered: %s; docker %s answers now%s", did, info.Version, cgroupNote(info))
	return engine, nil
}

func describe(p Provider, info engineInfo) Engine {
	return Engine{Name: string(p), Version: info.Version, CgroupVersion: info.CgroupVersion, RootDir: info.RootDir}
}

func cgroupNote(info engineInfo) string {
	if info.CgroupVersion == 0 {
		return ""
	}
	return fmt.Sprintf(", cgroup v%d", info.CgroupVersion)
}

// mayStart is an error that says why no engine can be started here, and what
// to do.
func (s engineSetup) mayStart(ctx context.Context, askErr error) error {
	p := s.cfg.Provider
	cannot := func(do string, args ...any) error {
		return fmt.Errorf("no %s engine answers: %w: %s", p, askErr, fmt.Sprintf(do, args...))
	}
	if p != Docker {
		return cannot("install and start %s; only docker is set up by itself", p)
	}
	if strings.Contains(askErr.Error(), "permission denied") {
		return cannot("it may run, but this user may not talk to it: join the group docker, or run as root")
	}
	// A daemon started here listens on the default socket; a client that looks
	// elsewhere would not find it.
	if s.h.client(p) {
		if at := s.h.endpoint(ctx); at != defaultEndpoint && at != "unix:///run/docker.sock" {
			return cannot("the client is told to use %s: start that engine, or unset DOCKER_HOST and run `docker context use default`", at)
		}
	}
	if !s.h.root {
		return cannot("install and start Docker (Debian and Ubuntu: apt-get install docker.io), or run this as root there, which does both")
	}
	if s.h.find("dockerd") == "" {
		if err := debian(s.h.host); err != nil {
			return cannot("install Docker (https://docs.docker.com/engine/install/) and start it; on Debian and Ubuntu that is done here, but of this machine %v", err)
		}
	}
	if s.cfg.StateDir == "" {
		return cannot("to start it here, EngineConfig.StateDir must name a folder for its log and runtime")
	}
	return nil
}

// install brings dockerd, what it runs, and its client.
func (s engineSetup) install(ctx context.Context) (installed []string, err error) {
	need := func(packages ...string) error {
		s.say("installing %s with apt-get", strings.Join(packages, ", "))
		added, err := installPackages(ctx, s.h.host, packages)
		installed = append(installed, added...)
		return err
	}
	if s.h.find("dockerd") == "" {
		// Not a dependency of docker.io, but no container has a network without.
		if err := need("docker.io", "iptables"); err != nil {
			return nil, err
		}
	} else if s.h.find("iptables") == "" {
		if err := need("iptables"); err != nil {
			return nil, err
		}
	}
	// Newer releases keep the client in a package of its own.
	if !s.h.client(Docker) {
		if err := need("docker-cli"); err != nil {
			return nil, err
		}
	}
	if s.h.find("dockerd") == "" {
		return nil, fmt.Errorf("installed %s, but there is no dockerd: install Docker by hand", strings.Join(installed, ", "))
	}
	return installed, nil
}

// startAndWait starts dockerd, or finds it starting, and returns what it says
// when it answers.
func (s engineSetup) startAndWait(ctx context.Context) (info engineInfo, how string, err error) {
	lacks, err := s.h.lacks(0)
	if err != nil {
		return engineInfo{}, "", err
	}
	shim := ""
	if lacks {
		if shim, err = s.shim(ctx, filepath.Join(s.cfg.StateDir, "oci-runtime")); err != nil {
			return engineInfo{}, "", err
		}
	}
	// The unit that the package brings knows nothing of the shim.
	if s.h.systemd && !lacks {
		if err := s.h.run(ctx, "systemctl", "start", "docker"); err != nil {
			return engineInfo{}, "", fmt.Errorf("start docker: %w: see `journalctl -u docker`", err)
		}
		info, err := s.await(ctx, nil)
		return info, "started docker with systemctl", err
	}
	pid, err := s.h.running()
	if err != nil {
		return engineInfo{}, "", err
	}
	if pid != 0 {
		info, err := s.await(ctx, nil)
		if err != nil {
			return engineInfo{}, "", fmt.Errorf("dockerd runs as process %d but does not answer: %w: look at its log, or stop it (kill %d) and try again", pid, err, pid)
		}
		return info, fmt.Sprintf("dockerd was starting as process %d", pid), nil
	}
	d, err := s.h.start(s.h.find("dockerd"), s.cfg.StateDir, shim)
	if err != nil {
		return engineInfo{}, "", err
	}
	info, err = s.await(ctx, d.exited)
	if err != nil {
		d.stop()
		return engineInfo{}, "", fmt.Errorf("start dockerd: %w; the end of its log, %s:\n%s", err, d.log, tail(d.log, 20))
	}
	how = fmt.Sprintf("started dockerd in the background (process %d, log %s)", d.pid, d.log)
	if shim != "" {
		how += " with a runtime that does without CAP_SYS_RESOURCE, which is missing here"
	}
	return info, how, nil
}

// await waits until the engine answers, or exited says that it never will.
func (s engineSetup) await(ctx context.Context, exited <-chan error) (info engineInfo, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ReadyTimeout)
	defer cancel()
	err = waitFor(ctx, "the engine to answer", 200*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		select {
		case err := <-exited:
			return false, "", fmt.Errorf("it ended by itself: %w", err)
		default:
		}
		var askErr error
		info, askErr = s.h.ask(ctx, Docker)
		if askErr != nil {
			return false, askErr.Error(), nil
		}
		return true, "", nil
	})
	return info, err
}

// checkRuntime makes sure that an engine that answers can run privileged
// containers, as far as that can be told from here.
func (s engineSetup) checkRuntime(ctx context.Context, info engineInfo) (shim bool, err error) {
	f, err := runtimeOf(ctx, s.h, s.cfg.Provider, info)
	if err != nil {
		return false, err
	}
	switch {
	case f.shimPath != "":
		// The cache may have been emptied, or hold the shim of an older release.
		if _, err := s.shim(ctx, f.shimPath); err != nil {
			return false, err
		}
		return true, nil
	case !f.lacks:
		return false, nil
	case !isRunc(info.DefaultRuntime):
		s.warn("the engine lacks CAP_SYS_RESOURCE; its default runtime %s is taken to deal with that", info.DefaultRuntime)
		return false, nil
	}
	path := "<path of the shim>"
	if s.cfg.StateDir != "" {
		if path, err = s.shim(ctx, filepath.Join(s.cfg.StateDir, "oci-runtime")); err != nil {
			return false, err
		}
	}
	return false, errors.New(f.trouble(path))
}

// shim makes sure that the shim at path is there and built from this release's
// source.
func (s engineSetup) shim(ctx context.Context, path string) (string, error) {
	mark := path + ".source"
	if built, err := os.ReadFile(mark); err == nil && string(built) == ociruntime.Source() {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	if err := s.h.buildShim(ctx, path, s.h.find("runc")); err != nil {
		return "", fmt.Errorf("CAP_SYS_RESOURCE is missing here, so a runtime that does without it is needed: %w", err)
	}
	if err := os.WriteFile(mark, []byte(ociruntime.Source()), 0o644); err != nil {
		return "", fmt.Errorf("keep the runtime shim: %w", err)
	}
	return path, nil
}

// runtimeFinding is whether an engine's containers can have all capabilities.
type runtimeFinding struct {
	pid      int    // the daemon, 0 if it cannot be seen from here
	lacks    bool   // the daemon lacks CAP_SYS_RESOURCE
	shimPath string // the shim that is its default runtime, "" if it is not
	runtime  string // its default runtime
}

func runtimeOf(ctx context.Context, h engineHost, p Provider, info engineInfo) (runtimeFinding, error) {
	f := runtimeFinding{runtime: info.DefaultRuntime}
	if p != Docker {
		return f, nil
	}
	socket, local := strings.CutPrefix(h.endpoint(ctx), "unix://")
	if !local {
		return f, nil
	}
	if f.pid = h.daemonPID(socket); f.pid == 0 {
		return f, nil
	}
	var err error
	if f.lacks, err = h.lacks(f.pid); err != nil {
		return f, fmt.Errorf("find out whether the engine can run privileged containers: %w", err)
	}
	if info.DefaultRuntime == runtimeName {
		f.shimPath = info.Runtimes[runtimeName]
	}
	return f, nil
}

func (f runtimeFinding) trouble(shim string) string {
	return fmt.Sprintf("the engine that answers (dockerd, process %d) lacks CAP_SYS_RESOURCE and its default runtime is %s, so every privileged container fails, a cluster's nodes too: "+
		`put {"runtimes": {%q: {"path": %q}}, "default-runtime": %q} into /etc/docker/daemon.json and restart dockerd, or stop dockerd (kill %d) and run this as root again, which starts it so`,
		f.pid, f.runtime, runtimeName, shim, runtimeName, f.pid)
}

// isRunc reports whether a runtime is one of those that come with an engine.
func isRunc(name string) bool {
	switch name {
	case "runc", "crun", "io.containerd.runc.v2", "":
		return true
	}
	return false
}

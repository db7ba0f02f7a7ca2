package kindx

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Status is the outcome of one look at the machine. Its zero value means that it
// could not be told.
type Status int

// What a Finding can come to.
const (
	Unknown Status = iota
	OK
	Warn // it will do, for now or with less
	Fail // a cluster will not come up
)

func (s Status) String() string {
	switch s {
	case OK:
		return "ok"
	case Warn:
		return "warn"
	case Fail:
		return "fail"
	}
	return "unknown"
}

// Finding is one thing that a cluster needs of the machine.
type Finding struct {
	Name   string // "engine", "privileged", "cgroup", "inotify", "disk", "memory" or "ports"
	Status Status
	Saw    string
	Do     string // what to do about it; "" if nothing
}

func (f Finding) String() string {
	s := f.Name + ": " + f.Status.String() + ": " + f.Saw
	if f.Do != "" {
		s += ": " + f.Do
	}
	return s
}

// PreflightConfig says which cluster is to come up.
type PreflightConfig struct {
	// Name, Workers and PortMappings are those of the Config to come. A cluster of
	// that name that is there may hold the ports.
	Name         string
	Workers      int
	PortMappings []PortMapping
	// MinDisk and MinMemory are the free bytes below which to warn, with failure
	// below a quarter and a half of them; 0 is 4 GiB and 3 GiB for each node, and 0.5
	// GiB and 0.5 GiB for each node.
	MinDisk, MinMemory uint64
	// Provider is the container engine; "" is Docker.
	Provider Provider
}

// Preflight looks for what would keep a cluster from coming up, and changes
// nothing. Each finding says what to do; Failures makes an error of those that
// are in the way. The error of Preflight itself is a wrong configuration or the
// end of ctx.
func Preflight(ctx context.Context, cfg PreflightConfig) ([]Finding, error) {
	c, err := Config{Name: cfg.Name, Workers: cfg.Workers, PortMappings: cfg.PortMappings, Provider: cfg.Provider}.withDefaults()
	if err != nil {
		return nil, err
	}
	cfg.Name, cfg.PortMappings, cfg.Provider = c.Name, c.PortMappings, c.Provider
	return preflight(ctx, cfg, probes{
		ask: askEngine,
		privileged: func(ctx context.Context, info engineInfo) (runtimeFinding, error) {
			return runtimeOf(ctx, realEngineHost(), cfg.Provider, info)
		},
		nodes: func(ctx context.Context) ([]nodeState, error) {
			return newBackend(cfg.Provider, sink{}).nodes(ctx, cfg.Name)
		},
		readFile: os.ReadFile, diskFree: diskFree, listen: tryListen,
	})
}

// Failures is an error that names the findings that failed, with what to do; nil
// if there are none.
func Failures(findings []Finding) error {
	var all []error
	for _, f := range findings {
		if f.Status == Fail {
			all = append(all, fmt.Errorf("%s: %s: %s", f.Name, f.Saw, f.Do))
		}
	}
	return errors.Join(all...)
}

// probes are the questions that Preflight asks of the machine.
type probes struct {
	ask        func(context.Context, Provider) (engineInfo, error)
	privileged func(context.Context, engineInfo) (runtimeFinding, error)
	nodes      func(context.Context) ([]nodeState, error)
	readFile   func(path string) ([]byte, error)
	diskFree   func(path string) (uint64, error)
	listen     func(context.Context, PortMapping) error
}

func preflight(ctx context.Context, cfg PreflightConfig, p probes) ([]Finding, error) {
	nodes := uint64(1 + cfg.Workers)
	var all []Finding
	info, err := p.ask(ctx, cfg.Provider)
	if err != nil {
		all = append(all, Finding{"engine", Fail, fmt.Sprintf("%s does not answer: %v", cfg.Provider, err), engineAdvice(cfg.Provider)})
	} else {
		all = append(all,
			Finding{"engine", OK, fmt.Sprintf("%s %s", cfg.Provider, info.Version), ""},
			privilegedFinding(ctx, p, info),
			cgroupFinding(info),
		)
	}
	all = append(all, inotifyFinding(p, nodes))
	if err == nil {
		all = append(all, diskFinding(p, info.RootDir, nodes, cfg.MinDisk))
	}
	all = append(all, memoryFinding(p, nodes, cfg.MinMemory), portsFinding(ctx, cfg, p, err == nil))
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("preflight: %w", err)
	}
	return all, nil
}

func privilegedFinding(ctx context.Context, p probes, info engineInfo) Finding {
	f := Finding{Name: "privileged"}
	r, err := p.privileged(ctx, info)
	switch {
	case err != nil:
		f.Saw = err.Error()
	case r.pid == 0:
		f.Saw = "the engine's daemon cannot be seen from here"
	case !r.lacks:
		f.Status, f.Saw = OK, "the engine has all capabilities that nodes need"
	case r.shimPath != "":
		f.Status, f.Saw = OK, "CAP_SYS_RESOURCE is missing; the runtime "+runtimeName+" does without it"
	case !isRunc(r.runtime):
		f.Status, f.Saw, f.Do = Warn, "CAP_SYS_RESOURCE is missing", "make sure that the default runtime "+r.runtime+" does without it"
	default:
		f.Status, f.Saw, f.Do = Fail, "CAP_SYS_RESOURCE is missing", r.trouble("<path of the shim>")
	}
	return f
}

func cgroupFinding(info engineInfo) Finding {
	switch info.CgroupVersion {
	case 2:
		return Finding{"cgroup", OK, "v2", ""}
	case 1:
		return Finding{"cgroup", Warn, "v1, which Kubernetes is about to drop; the kubelet is told to start all the same",
			"boot with systemd.unified_cgroup_hierarchy=1 when you can"}
	}
	return Finding{"cgroup", Unknown, "the engine does not say its version", ""}
}

// What a node with a few pods was seen to need, with room to spare; kind
// recommends 512 instances and 524288 watches whatever the size.
// https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files
const (
	instancesPerNode = 40
	watchesPerNode   = 16384
)

func inotifyFinding(p probes, nodes uint64) Finding {
	f := Finding{Name: "inotify"}
	instances, err := readNumber(p, "/proc/sys/fs/inotify/max_user_instances")
	watches, err2 := readNumber(p, "/proc/sys/fs/inotify/max_user_watches")
	if err := errors.Join(err, err2); err != nil {
		f.Saw = err.Error()
		return f
	}
	f.Status, f.Saw = OK, fmt.Sprintf("%d instances and %d watches for each user", instances, watches)
	if instances < nodes*instancesPerNode || watches < nodes*watchesPerNode {
		f.Status = Warn
		f.Saw += fmt.Sprintf(", and %d nodes may need %d and %d", nodes, nodes*instancesPerNode, nodes*watchesPerNode)
		f.Do = "run `sysctl fs.inotify.max_user_instances=512 fs.inotify.max_user_watches=524288` as root if pods fail with \"too many open files\""
	}
	return f
}

func readNumber(p probes, path string) (uint64, error) {
	text, err := p.readFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

const gib = 1 << 30

func diskFinding(p probes, dir string, nodes, least uint64) Finding {
	if least == 0 {
		least = (4 + 3*nodes) * gib
	}
	f := Finding{Name: "disk"}
	if dir == "" {
		f.Saw = "the engine does not say where it keeps its data"
		return f
	}
	free, err := p.diskFree(dir)
	if err != nil {
		f.Saw = fmt.Sprintf("cannot look at %s: %v", dir, err)
		return f
	}
	f.Status, f.Saw = OK, fmt.Sprintf("%s free for %s", size(free), dir)
	if free < least {
		f.Status = Warn
		if free < least/4 {
			f.Status = Fail
		}
		f.Saw += fmt.Sprintf(", less than %s", size(least))
		f.Do = "make room, with `docker system prune` for one, or move the engine's data to a larger disk"
	}
	return f
}

func memoryFinding(p probes, nodes, least uint64) Finding {
	if least == 0 {
		least = (1 + nodes) * gib / 2
	}
	f := Finding{Name: "memory"}
	text, err := p.readFile("/proc/meminfo")
	if err != nil {
		f.Saw = err.Error()
		return f
	}
	free, err := available(string(text))
	if err != nil {
		f.Saw = err.Error()
		return f
	}
	f.Status, f.Saw = OK, size(free)+" available"
	if free < least {
		f.Status = Warn
		if free < least/2 {
			f.Status = Fail
		}
		f.Saw += fmt.Sprintf(", less than %s", size(least))
		f.Do = "end what is not needed, or take fewer workers"
	}
	return f
}

// available reads /proc/meminfo, proc_meminfo(5).
func available(meminfo string) (uint64, error) {
	for line := range strings.Lines(meminfo) {
		if kb, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(kb), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read /proc/meminfo: %w", err)
			}
			return n * 1024, nil
		}
	}
	return 0, errors.New("/proc/meminfo does not say how much memory is available")
}

func portsFinding(ctx context.Context, cfg PreflightConfig, p probes, engine bool) Finding {
	f := Finding{Name: "ports", Status: OK, Saw: "none is wanted"}
	var taken, free []string
	for _, m := range cfg.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		if err := p.listen(ctx, m); err != nil {
			taken = append(taken, fmt.Sprintf("%s (%v)", m, err))
		} else {
			free = append(free, m.String())
		}
	}
	if len(free) > 0 {
		f.Saw = "free: " + strings.Join(free, ", ")
	}
	if len(taken) == 0 {
		return f
	}
	f.Saw = "taken: " + strings.Join(taken, ", ")
	if engine {
		if nodes, err := p.nodes(ctx); err == nil && len(nodes) > 0 {
			f.Saw += fmt.Sprintf(", as the cluster %q that is there may hold them", cfg.Name)
			return f
		}
	}
	f.Status, f.Do = Fail, "stop what uses them (`ss -lptn` names it), or map others"
	return f
}

func diskFree(path string) (uint64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return 0, err
	}
	return fs.Bavail * uint64(fs.Bsize), nil //nolint:gosec // a block size is positive
}

func size(n uint64) string { return fmt.Sprintf("%.1f GiB", float64(n)/gib) }

func engineAdvice(p Provider) string {
	if p == Docker {
		return "install and start docker; as root on Debian or Ubuntu EnsureEngine does both"
	}
	return "install and start " + string(p)
}

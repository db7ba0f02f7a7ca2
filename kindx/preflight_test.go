package kindx

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"testing"
)

// machine is one on which all is well; a test spoils one thing.
type machine struct {
	probes
	files map[string]string
}

func goodMachine() *machine {
	m := &machine{files: map[string]string{
		"/proc/sys/fs/inotify/max_user_instances": "512\n",
		"/proc/sys/fs/inotify/max_user_watches":   "524288\n",
		"/proc/meminfo":                           "MemTotal: 24000000 kB\nMemAvailable:   16000000 kB\n",
	}}
	m.ask = func(context.Context, Provider) (engineInfo, error) {
		return engineInfo{Version: "28", CgroupVersion: 2, RootDir: "/data"}, nil
	}
	m.privileged = func(context.Context, engineInfo) (runtimeFinding, error) {
		return runtimeFinding{pid: 1, runtime: "runc"}, nil
	}
	m.nodes = func(context.Context) ([]nodeState, error) { return nil, nil }
	m.readFile = func(path string) ([]byte, error) {
		if text, ok := m.files[path]; ok {
			return []byte(text), nil
		}
		return nil, fs.ErrNotExist
	}
	m.diskFree = func(string) (uint64, error) { return 100 * gib, nil }
	m.listen = func(context.Context, PortMapping) error { return nil }
	return m
}

func TestPreflight(t *testing.T) {
	taken := func(context.Context, PortMapping) error { return errors.New("address already in use") }
	privileged := func(f runtimeFinding) func(*machine) {
		return func(m *machine) {
			m.privileged = func(context.Context, engineInfo) (runtimeFinding, error) { return f, nil }
		}
	}
	info := func(i engineInfo) func(*machine) {
		return func(m *machine) { m.ask = func(context.Context, Provider) (engineInfo, error) { return i, nil } }
	}
	file := func(path, text string) func(*machine) { return func(m *machine) { m.files[path] = text } }
	tests := []struct {
		name    string
		spoil   func(*machine)
		finding string
		want    Status
		saw, do string
	}{
		{"no engine", func(m *machine) {
			m.ask = func(context.Context, Provider) (engineInfo, error) { return engineInfo{}, errors.New("cannot connect") }
		}, "engine", Fail, "cannot connect", "install and start docker"},
		{"no capability", privileged(runtimeFinding{pid: 7, lacks: true, runtime: "runc"}), "privileged", Fail, "CAP_SYS_RESOURCE", "daemon.json"},
		{"shim", privileged(runtimeFinding{pid: 7, lacks: true, runtime: runtimeName, shimPath: "/s"}), "privileged", OK, runtimeName, ""},
		{"own runtime", privileged(runtimeFinding{pid: 7, lacks: true, runtime: "theirs"}), "privileged", Warn, "CAP_SYS_RESOURCE", "theirs"},
		{"daemon out of sight", privileged(runtimeFinding{}), "privileged", Unknown, "cannot be seen", ""},
		{"cgroup v1", info(engineInfo{Version: "20", CgroupVersion: 1, RootDir: "/data"}), "cgroup", Warn, "v1", "unified_cgroup_hierarchy"},
		{"cgroup unknown", info(engineInfo{Version: "20", RootDir: "/data"}), "cgroup", Unknown, "does not say", ""},
		{"few instances", file("/proc/sys/fs/inotify/max_user_instances", "100\n"), "inotify", Warn, "100 instances", "sysctl fs.inotify.max_user_instances=512"},
		{"just enough instances", file("/proc/sys/fs/inotify/max_user_instances", "128\n"), "inotify", OK, "128 instances", ""},
		{"few watches", file("/proc/sys/fs/inotify/max_user_watches", "8192\n"), "inotify", Warn, "8192 watches", "max_user_watches=524288"},
		{"no inotify", func(m *machine) { delete(m.files, "/proc/sys/fs/inotify/max_user_watches") }, "inotify", Unknown, "not exist", ""},
		{"little disk", func(m *machine) { m.diskFree = func(string) (uint64, error) { return 12 * gib, nil } }, "disk", Warn, "12.0 GiB", "make room"},
		{"no disk", func(m *machine) { m.diskFree = func(string) (uint64, error) { return gib, nil } }, "disk", Fail, "1.0 GiB", "make room"},
		{"disk elsewhere", func(m *machine) { m.diskFree = func(string) (uint64, error) { return 0, fs.ErrNotExist } }, "disk", Unknown, "/data", ""},
		{"no root dir", info(engineInfo{Version: "20", CgroupVersion: 2}), "disk", Unknown, "does not say", ""},
		{"little memory", file("/proc/meminfo", "MemAvailable: 1572864 kB\n"), "memory", Warn, "1.5 GiB", "fewer workers"},
		{"no memory", file("/proc/meminfo", "MemAvailable: 524288 kB\n"), "memory", Fail, "0.5 GiB", "fewer workers"},
		{"strange memory", file("/proc/meminfo", "MemAvailable: x kB\n"), "memory", Unknown, "meminfo", ""},
		{"port taken", func(m *machine) { m.listen = taken }, "ports", Fail, "127.0.0.1:8080", "ss -lptn"},
		{"port of the cluster", func(m *machine) {
			m.listen = taken
			m.nodes = func(context.Context) ([]nodeState, error) { return []nodeState{{}}, nil }
		}, "ports", OK, "may hold them", ""},
	}
	cfg := PreflightConfig{Name: "c", Workers: 2, PortMappings: []PortMapping{{Listen: "127.0.0.1", HostPort: 8080, NodePort: 80, Protocol: "tcp"}}, Provider: Docker}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := goodMachine()
			tt.spoil(m)
			findings, err := preflight(t.Context(), cfg, m.probes)
			if err != nil {
				t.Fatal(err)
			}
			seen := false
			for _, f := range findings {
				if f.Name != tt.finding {
					if f.Status != OK && tt.name != "no engine" && tt.finding != "disk" {
						t.Errorf("also: %s", f)
					}
					continue
				}
				seen = true
				if f.Status != tt.want || !strings.Contains(f.Saw, tt.saw) || !strings.Contains(f.Do, tt.do) || (tt.do == "") != (f.Do == "") {
					t.Errorf("got %s\nwant %s, saw %q, do %q", f, tt.want, tt.saw, tt.do)
				}
			}
			if !seen {
				t.Errorf("no finding %q in %v", tt.finding, findings)
			}
			if failed := Failures(findings); (failed != nil) != (tt.want == Fail) {
				t.Errorf("failures: %v", failed)
			}
		})
	}
}

func TestPreflightOnAGoodMachine(t *testing.T) {
	findings, err := preflight(t.Context(), PreflightConfig{Provider: Docker}, goodMachine().probes)
	if err != nil || len(findings) != 7 {
		t.Errorf("%d findings, %v", len(findings), err)
	}
	for _, f := range findings {
		if f.Status != OK || f.Do != "" {
			t.Error(f)
		}
	}
	if _, err := Preflight(t.Context(), PreflightConfig{Workers: -1}); err == nil {
		t.Error("a wrong configuration must be an error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := preflight(ctx, PreflightConfig{}, goodMachine().probes); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestStatusZeroIsUnknown(t *testing.T) {
	var s Status
	if s != Unknown || s.String() != "unknown" || OK.String() != "ok" || Warn.String() != "warn" || Fail.String() != "fail" {
		t.Errorf("%v %v %v %v", s, OK, Warn, Fail)
	}
}

package kindx

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func ensureOn(t *testing.T, m *fakeMachine, cfg Config) (*Cluster, error) {
	t.Helper()
	return ensureCtx(t.Context(), t, m, cfg)
}

func ensureCtx(ctx context.Context, t *testing.T, m *fakeMachine, cfg Config) (*Cluster, error) {
	t.Helper()
	cfg.Image = "node:1"
	if m.images == nil {
		m.images = []string{"node:1"}
	}
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	return ensureCluster(ctx, cfg, m)
}

func TestEnsureCreatesThenReuses(t *testing.T) {
	m := &fakeMachine{cgroup: 1}
	state := t.TempDir()
	cfg := Config{Workers: 2, Kubeconfig: "/kc", StateDir: state, PortMappings: []PortMapping{{HostPort: 8080, NodePort: 80}}}
	first, err := ensureOn(t, m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Created || first.Name != DefaultName || first.Kubeconfig != "/kc" || first.Fingerprint == "" {
		t.Errorf("first: %+v", first)
	}
	if got := m.wrote.KubeadmConfigPatches; len(got) != 1 || !strings.Contains(got[0], "failCgroupV1: false") {
		t.Errorf("on cgroup v1 the kubelet must be told to start: %q", got)
	}
	// The cluster itself holds its port now.
	m.taken = []int{8080}
	second, err := ensureOn(t, m, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if second.Created || second.Fingerprint != first.Fingerprint || m.called("create") != 1 {
		t.Errorf("second: %+v, calls %q", second, m.calls)
	}
	if m.called(`export precinct-99 to "/kc"`) != 1 {
		t.Errorf("the kubeconfig entry must be there again after a reuse: %q", m.calls)
	}
	nodes, err := second.Nodes(t.Context())
	if err != nil || len(nodes) != 3 || nodes[0].Role() != "control-plane" || nodes[2].Role() != "worker" {
		t.Errorf("nodes %v, %v", nodes, err)
	}
	if left, _ := filepath.Glob(filepath.Join(state, "*.unfinished")); len(left) != 0 {
		t.Errorf("the note that it is being made is still there: %v", left)
	}
}

func TestEnsureStartsStoppedNodes(t *testing.T) {
	m := &fakeMachine{}
	if _, err := ensureOn(t, m, Config{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	m.have[0].state, m.have[1].state = "exited", "exited"
	if _, err := ensureOn(t, m, Config{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	if m.called("start [precinct-99-control-plane precinct-99-worker]") != 1 || m.called("exec in precinct-99-worker: [ctr version]") != 1 {
		t.Errorf("calls %q", m.calls)
	}
}

// Another version of Kubernetes is another node image, and so another cluster.
func TestAnotherNodeImageIsAnotherCluster(t *testing.T) {
	have, want := shapeOf(Config{Image: "kindest/node:v1.36.4"}), shapeOf(Config{Image: "kindest/node:v1.37.2"})
	got, err := want.compare(have.marker())
	if err != nil || !slices.Equal(got, []Difference{{"image", `"kindest/node:v1.36.4"`, `"kindest/node:v1.37.2"`}}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestEnsureNamesEachDifference(t *testing.T) {
	m := &fakeMachine{}
	if _, err := ensureOn(t, m, Config{Workers: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := ensureOn(t, m, Config{Workers: 2, KubeProxyMode: "none", PortMappings: []PortMapping{{HostPort: 8080, NodePort: 80}}})
	mismatch, ok := errors.AsType[*MismatchError](err)
	if !ok {
		t.Fatalf("got %v, want a *MismatchError", err)
	}
	want := []Difference{
		{"kubeProxyMode", `"iptables"`, `"none"`},
		{"portMappings", "none", `["127.0.0.1:8080 to 80/tcp"]`},
		{"workers", "1", "2"},
	}
	if !slices.Equal(mismatch.Differences, want) {
		t.Errorf("differences %v, want %v", mismatch.Differences, want)
	}
	if !strings.Contains(err.Error(), "workers: 1 → 2") || !strings.Contains(err.Error(), "recreated") {
		t.Errorf("the message must name the difference and what to do: %v", err)
	}
	if len(m.have) != 2 {
		t.Error("the cluster that was there must be left alone")
	}
	c, err := ensureOn(t, m, Config{Workers: 2, Recreate: true})
	if err != nil || !c.Created || len(m.have) != 3 {
		t.Errorf("recreate: %+v, %v", c, err)
	}
	m.have = m.have[:2] // by hand
	if _, err := ensureOn(t, m, Config{Workers: 2}); err == nil || !strings.Contains(err.Error(), "nodes: 2 → 3") {
		t.Errorf("a node that was removed: %v", err)
	}
}

func TestEnsureLeavesForeignClustersAlone(t *testing.T) {
	foreign := []nodeState{{DefaultName + "-control-plane", "control-plane", "running"}}
	m := &fakeMachine{have: slices.Clone(foreign)}
	state := t.TempDir()
	_, err := ensureOn(t, m, Config{StateDir: state})
	if !errors.Is(err, ErrNotOurs) || m.called("remove") != 0 {
		t.Fatalf("%v, calls %q", err, m.calls)
	}
	// Half a marker is none.
	m.files = map[string]string{DefaultName + "-control-plane:" + markerPath: `{"for`}
	if _, err := ensureOn(t, m, Config{StateDir: state}); !errors.Is(err, ErrNotOurs) {
		t.Fatal(err)
	}
	// With our own note that we were at it, it is what a killed run left.
	if err := newRecord(state, DefaultName).begin(); err != nil {
		t.Fatal(err)
	}
	c, err := ensureOn(t, m, Config{StateDir: state})
	if err != nil || !c.Created || m.called("remove") != 1 {
		t.Errorf("%+v, %v, calls %q", c, err, m.calls)
	}
}

func TestEnsureFailsBeforeAnythingIsMade(t *testing.T) {
	tests := []struct {
		name string
		m    *fakeMachine
		want []string
	}{
		{"port", &fakeMachine{taken: []int{8080}}, []string{"127.0.0.1:8080 to 80/tcp", "already in use", "stop what uses the port"}},
		{"image", &fakeMachine{images: []string{"other:1"}, pullErr: errors.New("manifest unknown")}, []string{"node:1", "manifest unknown", "load it"}},
		{"engine", &fakeMachine{engineErr: errors.New("cannot connect")}, []string{"docker does not answer", "cannot connect", "start it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ensureOn(t, tt.m, Config{PortMappings: []PortMapping{{HostPort: 8080, NodePort: 80}}})
			for _, words := range tt.want {
				if err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("error %v must say %q", err, words)
				}
			}
			if tt.m.called("create") != 0 || tt.m.called("remove") != 0 {
				t.Errorf("calls %q", tt.m.calls)
			}
		})
	}
}

func TestEnsureRemovesWhatFailed(t *testing.T) {
	tests := map[string]*fakeMachine{
		"kind":   {createErr: errors.New("kubeadm init failed")},
		"marker": {execErr: errors.New("no space left")},
	}
	for name, m := range tests {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			_, err := ensureOn(t, m, Config{StateDir: state, LogDir: "/logs", Kubeconfig: "/kc"})
			if err == nil || len(m.have) != 0 || m.called(`remove precinct-99 from "/kc"`) == 0 {
				t.Errorf("%v, left %v", err, m.have)
			}
			if m.called("logs to /logs/precinct-99") != 1 || !strings.HasPrefix(m.calls[len(m.calls)-1], "remove") {
				t.Errorf("the logs come before the removal: %q", m.calls)
			}
			if newRecord(state, DefaultName).begun() {
				t.Error("nothing is left, yet the note says so")
			}
		})
	}
}

func TestEnsureGivesUpOnTheAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{notReady: "500: etcd failed"}
		_, err := ensureOn(t, m, Config{ReadyTimeout: time.Minute})
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "etcd failed") || !strings.Contains(err.Error(), "API server") {
			t.Errorf("the error must say what was waited for and seen: %v", err)
		}
		if len(m.have) != 0 {
			t.Errorf("left %v", m.have)
		}
	})
}

func TestEnsureCancelledRemovesWhatIsHalfMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{hold: make(chan struct{})}
		state := t.TempDir()
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() {
			_, err := ensureCtx(ctx, t, m, Config{StateDir: state})
			result <- err
		}()
		synctest.Wait() // create hangs, its node is there
		if !newRecord(state, DefaultName).begun() {
			t.Error("a run that is killed now must leave a note")
		}
		cancel()
		time.Sleep(3500 * time.Millisecond) // of the bubble's time: kind has not noticed yet
		synctest.Wait()
		close(m.hold)
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if len(m.have) != 0 || m.called("remove") < 3 {
			t.Errorf("left %v, calls %q", m.have, m.calls)
		}
		if newRecord(state, DefaultName).begun() {
			t.Error("all is removed, yet the note says otherwise")
		}
	})
}

// Where kind does not come to an end, Ensure does, and leaves a note.
func TestEnsureCancelledIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &fakeMachine{hold: make(chan struct{})}
		state := t.TempDir()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_, err := ensureCtx(ctx, t, m, Config{StateDir: state})
		if took := time.Since(start); took > cleanupTime+5*time.Second {
			t.Errorf("took %s", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the next run tries again") {
			t.Errorf("got %v", err)
		}
		if !newRecord(state, DefaultName).begun() {
			t.Error("what may be left must be noted")
		}
		close(m.hold)
	})
}

func TestDelete(t *testing.T) {
	m := &fakeMachine{have: []nodeState{{"c-control-plane", "control-plane", "running"}}}
	state := t.TempDir()
	cfg, err := Config{Name: "c", Kubeconfig: "/kc", StateDir: state}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is none
		if err := deleteCluster(t.Context(), cfg, m); err != nil {
			t.Fatal(err)
		}
	}
	if m.called(`remove c from "/kc"`) != 2 || len(m.have) != 0 || newRecord(state, "c").begun() {
		t.Errorf("calls %q", m.calls)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	cfg, err := Config{Name: "c"}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := &fakeMachine{}
	if _, err := openCluster(t.Context(), cfg, m); !errors.Is(err, ErrNotFound) {
		t.Errorf("no cluster: %v", err)
	}
	if _, err := listNodes(t.Context(), m, Docker, "c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("no nodes: %v", err)
	}
	m.have = []nodeState{{"c-control-plane", "control-plane", "exited"}}
	if _, err := openCluster(t.Context(), cfg, m); err == nil || !strings.Contains(err.Error(), "c-control-plane is exited") {
		t.Errorf("stopped: %v", err)
	}
	m.have[0].state = "running"
	if c, err := openCluster(t.Context(), cfg, m); err != nil || c.Created || string(c.kubeconfig) != "kubeconfig of c" {
		t.Errorf("%+v, %v", c, err)
	}
}

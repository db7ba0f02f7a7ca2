package kindx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
)

// fakeMachine is an engine with at most one cluster in it. Like kind, its create
// makes the nodes one by one and fails when one vanishes meanwhile.
type fakeMachine struct {
	mu    sync.Mutex
	calls []string
	have  []nodeState
	files map[string]string // node:path to content

	engineErr, createErr, pullErr, execErr, logsErr error
	images                                          []string
	taken                                           []int         // ports
	notReady                                        string        // what the API server says instead of ok
	hold                                            chan struct{} // create waits for it, half made
	wrote                                           *v1alpha4.Cluster
	cgroup                                          int
}

var _ backend = (*fakeMachine)(nil)

func (m *fakeMachine) did(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

func (m *fakeMachine) called(prefix string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, c := range m.calls {
		if strings.HasPrefix(c, prefix) {
			n++
		}
	}
	return n
}

func (m *fakeMachine) info(context.Context) (engineInfo, error) {
	return engineInfo{Version: "1", CgroupVersion: m.cgroup}, m.engineErr
}

func (m *fakeMachine) nodes(ctx context.Context, _ string) ([]nodeState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.have), ctx.Err()
}

func (m *fakeMachine) create(config *v1alpha4.Cluster, kubeconfig string) error {
	m.did("create %s in %q", config.Name, kubeconfig)
	m.mu.Lock()
	m.wrote = config
	for i, n := range config.Nodes {
		name := fmt.Sprintf("%s-%s", config.Name, n.Role)
		if i > 1 {
			name += fmt.Sprint(i)
		}
		m.have = append(m.have, nodeState{name, string(n.Role), "running"})
	}
	m.mu.Unlock()
	if m.hold != nil {
		<-m.hold
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.createErr == nil && len(m.have) == 0 {
		return errors.New("a node vanished")
	}
	return m.createErr
}

func (m *fakeMachine) start(_ context.Context, nodes []nodeState) error {
	m.did("start %v", names(nodes))
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.have {
		m.have[i].state = "running"
	}
	return nil
}

func (m *fakeMachine) remove(ctx context.Context, cluster, kubeconfig string) error {
	m.did("remove %s from %q", cluster, kubeconfig)
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.have, m.files = nil, nil
	return nil
}

func (m *fakeMachine) kubeconfig(ctx context.Context, cluster string) ([]byte, error) {
	return []byte("kubeconfig of " + cluster), ctx.Err()
}

func (m *fakeMachine) exportKubeconfig(_ context.Context, cluster, path string) error {
	m.did("export %s to %q", cluster, path)
	return nil
}

func (m *fakeMachine) logs(_ context.Context, _, dir string) error {
	m.did("logs to %s", dir)
	return m.logsErr
}

func (m *fakeMachine) hasImage(_ context.Context, ref string) bool {
	return slices.Contains(m.images, ref)
}

func (m *fakeMachine) pull(_ context.Context, ref string) error {
	m.did("pull %s", ref)
	return m.pullErr
}

func (m *fakeMachine) readFile(_ context.Context, node, path string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if doc, ok := m.files[node+":"+path]; ok {
		return []byte(doc), nil
	}
	return nil, nil
}

// exec knows the commands with which the marker is written.
func (m *fakeMachine) exec(_ context.Context, node string, stdin io.Reader, argv ...string) error {
	m.did("exec in %s: %v", node, argv)
	if m.execErr != nil {
		return m.execErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.files == nil {
		m.files = map[string]string{}
	}
	switch argv[0] {
	case "cp":
		doc, err := io.ReadAll(stdin)
		if err != nil {
			return err
		}
		m.files[node+":"+argv[2]] = string(doc)
	case "mv":
		m.files[node+":"+argv[2]] = m.files[node+":"+argv[1]]
		delete(m.files, node+":"+argv[1])
	}
	return nil
}

func (m *fakeMachine) listen(_ context.Context, p PortMapping) error {
	if slices.Contains(m.taken, p.HostPort) {
		return errors.New("address already in use")
	}
	return nil
}

func (m *fakeMachine) ready(context.Context, []byte) (bool, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.notReady == "", m.notReady
}

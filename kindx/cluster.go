package kindx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/org/spire-vault-99-action/internal/run"
)

var (
	// ErrNotFound is a cluster that does not exist.
	ErrNotFound = errors.New("there is no such cluster")
	// ErrNotOurs is a cluster of the wanted name that Ensure did not make, or did not
	// finish.
	ErrNotOurs = errors.New("the cluster was not made here, or was not finished")
)

// Cluster is a cluster whose API server answers, or did when it was found.
type Cluster struct {
	Name       string
	Kubeconfig string // the file that has its entry, "" for the one that kubectl would use
	Created    bool   // by the call that returned it
	// Started are the nodes that the call found stopped and started. What the API
	// server says of their pods is what was true before, until their kubelets report.
	Started     []string
	Fingerprint string // of its configuration; "" if the cluster was only opened

	kubeconfig []byte
	b          backend
	provider   Provider
}

// Ensure returns a running cluster of this configuration. One that exists is used
// again, its stopped nodes started; one that differs is a *MismatchError, one
// that Ensure did not make is ErrNotOurs, unless Config.Recreate asks for it to
// be removed. A new one is there when its API server answers: its nodes may not
// be ready, and without a pod network will not be.
//
// If it fails, or ctx ends, before a new cluster is finished, what there is of it
// is removed; that may take a minute. An engine that answers is expected: see
// EnsureEngine.
func Ensure(ctx context.Context, cfg Config) (*Cluster, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := sink{cfg.Name, cfg.OnEvent}
	return ensureCluster(ctx, cfg, newBackend(cfg.Provider, s))
}

// Open finds a cluster whose nodes run, and changes nothing. Of the Config, the
// Provider and the Kubeconfig count.
func Open(ctx context.Context, name string, cfg Config) (*Cluster, error) {
	cfg.Name = name
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return openCluster(ctx, cfg, newBackend(cfg.Provider, sink{cfg.Name, cfg.OnEvent}))
}

// Delete removes a cluster and its kubeconfig entry, and nothing else. It is fine
// if there is none. Of the Config, the Provider, Kubeconfig, StateDir and OnEvent
// count.
func Delete(ctx context.Context, name string, cfg Config) error {
	cfg.Name = name
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	return deleteCluster(ctx, cfg, newBackend(cfg.Provider, sink{cfg.Name, cfg.OnEvent}))
}

// Nodes are the nodes of a cluster in Docker, the control plane's first.
func Nodes(ctx context.Context, name string) ([]*Node, error) {
	return listNodes(ctx, newBackend(Docker, sink{}), Docker, name)
}

// NodesOf are the nodes of a cluster, the control plane's first. Of the Config, the
// Provider counts.
func NodesOf(ctx context.Context, name string, cfg Config) ([]*Node, error) {
	p := cfg.Provider.orDefault()
	if err := p.validate(); err != nil {
		return nil, err
	}
	return listNodes(ctx, newBackend(p, sink{}), p, name)
}

// Clusters are the names of kind's clusters, whoever made them, sorted. Of the Config,
// the Provider counts.
func Clusters(ctx context.Context, cfg Config) ([]string, error) {
	p := cfg.Provider.orDefault()
	if err := p.validate(); err != nil {
		return nil, err
	}
	nodes, err := run.Output(ctx, clusterNodesArgv(p)...)
	if err == nil && nodes != "" {
		nodes, err = run.Output(ctx, clusterLabelsArgv(p, strings.Fields(nodes))...)
	}
	if err != nil {
		return nil, fmt.Errorf("list the clusters of %s: %w", p, err)
	}
	return parseClusters(nodes), nil
}

// Kubeconfig is the kubeconfig of a cluster in Docker, with its credentials: keep
// it out of logs.
func Kubeconfig(ctx context.Context, name string) ([]byte, error) {
	c, err := Open(ctx, name, Config{})
	if err != nil {
		return nil, err
	}
	return c.kubeconfig, nil
}

// REST is the admin connection to a cluster in Docker.
func REST(ctx context.Context, name string) (*rest.Config, error) {
	c, err := Open(ctx, name, Config{})
	if err != nil {
		return nil, err
	}
	return c.REST()
}

// ExportLogs writes the logs of a cluster in Docker, of its nodes and their pods,
// below dir, which is made if need be.
func ExportLogs(ctx context.Context, name, dir string) error {
	b := newBackend(Docker, sink{})
	if _, err := listNodes(ctx, b, Docker, name); err != nil {
		return err
	}
	return b.logs(ctx, name, dir)
}

// REST is the admin connection to the cluster.
func (c *Cluster) REST() (*rest.Config, error) {
	cfg, err := clientcmd.RESTConfigFromKubeConfig(c.kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig of cluster %q: %w", c.Name, err)
	}
	return cfg, nil
}

// Nodes are the cluster's nodes, the control plane's first.
func (c *Cluster) Nodes(ctx context.Context) ([]*Node, error) {
	return listNodes(ctx, c.b, c.provider, c.Name)
}

// ExportLogs writes the logs of the cluster, of its nodes and their pods, below
// dir, which is made if need be.
func (c *Cluster) ExportLogs(ctx context.Context, dir string) error {
	return c.b.logs(ctx, c.Name, dir)
}

func listNodes(ctx context.Context, b backend, p Provider, name string) ([]*Node, error) {
	found, err := b.nodes(ctx, name)
	if err != nil {
		return nil, err
	}
	var all []*Node
	for _, n := range found {
		if n.kubernetes() {
			all = append(all, &Node{name: n.name, role: n.role, provider: p})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("nodes of cluster %q: %w", name, ErrNotFound)
	}
	return all, nil
}

func openCluster(ctx context.Context, cfg Config, b backend) (*Cluster, error) {
	nodes, err := b.nodes(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, fmt.Errorf("open cluster %q: %w: make it first", cfg.Name, ErrNotFound)
	}
	for _, n := range nodes {
		if n.state != "running" {
			return nil, fmt.Errorf("open cluster %q: its node %s is %s: bring the cluster up again, which starts it", cfg.Name, n.name, n.state)
		}
	}
	doc, err := b.kubeconfig(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	return &Cluster{Name: cfg.Name, Kubeconfig: cfg.Kubeconfig, kubeconfig: doc, b: b, provider: cfg.Provider}, nil
}

func deleteCluster(ctx context.Context, cfg Config, b backend) error {
	unlock, err := lockCluster(ctx, cfg)
	if err != nil {
		return err
	}
	defer unlock()
	nodes, err := b.nodes(ctx, cfg.Name)
	if err != nil {
		return err
	}
	note := newRecord(cfg.StateDir, cfg.Name)
	if len(nodes) > 0 {
		// Interrupted, this leaves a cluster that must not be taken for another's.
		if err := note.begin(); err != nil {
			return err
		}
	}
	if err := b.remove(ctx, cfg.Name, cfg.Kubeconfig); err != nil {
		return err
	}
	if len(nodes) > 0 {
		sink{cfg.Name, cfg.OnEvent}.say("cluster of %s removed", count(len(nodes)))
	}
	return note.end()
}

func ensureCluster(ctx context.Context, cfg Config, b backend) (*Cluster, error) {
	unlock, err := lockCluster(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e := ensuring{cfg: cfg, b: b, shape: shapeOf(cfg), record: newRecord(cfg.StateDir, cfg.Name), sink: sink{cfg.Name, cfg.OnEvent}}
	if e.engine, err = b.info(ctx); err != nil {
		return nil, fmt.Errorf("cluster %q needs a container engine, and %s does not answer: %w: start it", cfg.Name, cfg.Provider, err)
	}
	nodes, err := b.nodes(ctx, cfg.Name)
	if err != nil {
		return nil, err
	}
	if len(nodes) > 0 {
		again, err := e.mustRemove(ctx, nodes)
		if err != nil {
			return nil, err
		}
		if again == "" {
			return e.reuse(ctx, nodes)
		}
		e.say("removing the cluster of that name, %s", again)
		// Interrupted, this leaves a cluster that must not be taken for another's.
		if err := e.record.begin(); err != nil {
			return nil, err
		}
		if err := b.remove(ctx, cfg.Name, cfg.Kubeconfig); err != nil {
			return nil, err
		}
	}
	return e.create(ctx)
}

// ensuring is one run of Ensure.
type ensuring struct {
	cfg    Config
	b      backend
	shape  shape
	record record
	engine engineInfo
	sink
}

// mustRemove says why the cluster that is there has to go, "" if it is the one
// that is wanted. An error means that it is neither.
func (e ensuring) mustRemove(ctx context.Context, nodes []nodeState) (why string, err error) {
	if e.cfg.Recreate {
		return "as it is to be made anew", nil
	}
	var mark []byte
	if nodes[0].controlPlane() {
		if mark, err = e.b.readFile(ctx, nodes[0].name, markerPath); err != nil {
			return "", err
		}
	}
	differences, err := e.shape.compare(mark)
	if err != nil {
		if e.record.begun() {
			return "which an interrupted run left unfinished", nil
		}
		return "", fmt.Errorf("cluster %q exists, with the nodes %v, but has no readable %s: %w: take another name, delete it, or ask for it to be recreated", e.cfg.Name, names(nodes), markerPath, ErrNotOurs)
	}
	if len(differences) > 0 {
		return "", &MismatchError{Name: e.cfg.Name, Differences: differences}
	}
	// Somebody may have removed a node by hand.
	have := 0
	for _, n := range nodes {
		if n.kubernetes() {
			have++
		}
	}
	if want := 1 + e.cfg.Workers; have != want {
		return "", &MismatchError{Name: e.cfg.Name, Differences: []Difference{{"nodes", fmt.Sprint(have), fmt.Sprint(want)}}}
	}
	return "", nil
}

// reuse brings the cluster that is wanted, and there, back to life.
func (e ensuring) reuse(ctx context.Context, nodes []nodeState) (*Cluster, error) {
	var stopped []nodeState
	for _, n := range nodes {
		if n.state != "running" {
			stopped = append(stopped, n)
		}
	}
	if len(stopped) > 0 {
		e.say("starting the stopped nodes %v", names(stopped))
		if err := e.b.start(ctx, stopped); err != nil {
			return nil, err
		}
		if err := e.awaitContainerd(ctx, stopped); err != nil {
			return nil, err
		}
	}
	c, err := e.awaitAPI(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: look at its logs (ExportLogs), or ask for it to be recreated", err)
	}
	if err := e.b.exportKubeconfig(ctx, e.cfg.Name, e.cfg.Kubeconfig); err != nil {
		return nil, err
	}
	if err := e.record.end(); err != nil {
		return nil, err
	}
	for _, n := range stopped {
		c.Started = append(c.Started, n.name)
	}
	e.say("cluster of %s is there and as wanted; used again", count(len(nodes)))
	return c, nil
}

// awaitContainerd waits until started nodes can be given images and run pods.
func (e ensuring) awaitContainerd(ctx context.Context, nodes []nodeState) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ReadyTimeout)
	defer cancel()
	for _, n := range nodes {
		err := waitFor(ctx, "containerd in node "+n.name, 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
			if err := e.b.exec(ctx, n.name, nil, "ctr", "version"); err != nil {
				return false, err.Error(), nil
			}
			return true, "", nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// awaitAPI waits until the API server says that it is ready.
func (e ensuring) awaitAPI(ctx context.Context) (*Cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.ReadyTimeout)
	defer cancel()
	c := &Cluster{Name: e.cfg.Name, Kubeconfig: e.cfg.Kubeconfig, Fingerprint: e.shape.fingerprint(), b: e.b, provider: e.cfg.Provider}
	what := fmt.Sprintf("the API server of cluster %q", e.cfg.Name)
	err := waitFor(ctx, what, 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		// A node that has just been started may not have it yet.
		if c.kubeconfig == nil {
			doc, err := e.b.kubeconfig(ctx, e.cfg.Name)
			if err != nil {
				return false, err.Error(), nil
			}
			c.kubeconfig = doc
		}
		ok, saw := e.b.ready(ctx, c.kubeconfig)
		return ok, saw, nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// create makes the cluster, or removes what it made of it.
func (e ensuring) create(ctx context.Context) (*Cluster, error) {
	if err := checkPorts(ctx, e.b, e.cfg.PortMappings); err != nil {
		return nil, fmt.Errorf("create cluster %q: %w", e.cfg.Name, err)
	}
	if err := e.ensureImage(ctx); err != nil {
		return nil, err
	}
	if err := e.record.begin(); err != nil {
		return nil, err
	}
	start := time.Now()
	done := make(chan error, 1)
	go func() { done <- e.b.create(e.cfg.kindConfig(e.engine.CgroupVersion), e.cfg.Kubeconfig) }()
	c, err := e.finish(ctx, done)
	if err != nil {
		err = fmt.Errorf("create cluster %q: %w", e.cfg.Name, err)
		if ctx.Err() == nil && e.cfg.LogDir != "" {
			e.keepLogs(ctx)
		}
		return nil, errors.Join(err, e.removeHalfMade(ctx, done))
	}
	if err := e.record.end(); err != nil {
		return nil, err
	}
	c.Created = true
	e.say("cluster of %s made in %s", count(1+e.cfg.Workers), time.Since(start).Round(time.Second))
	return c, nil
}

// finish waits until kind is done and the API server answers, and marks the
// cluster as finished.
func (e ensuring) finish(ctx context.Context, done chan error) (*Cluster, error) {
	select {
	case err := <-done:
		done <- nil // whoever asks again learns that it has ended
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c, err := e.awaitAPI(ctx)
	if err != nil {
		return nil, err
	}
	node := e.cfg.Name + "-control-plane"
	// In two steps, since half a marker would be none.
	if err := e.b.exec(ctx, node, bytes.NewReader(e.shape.marker()), "cp", "/dev/stdin", markerPath+".new"); err != nil {
		return nil, err
	}
	if err := e.b.exec(ctx, node, nil, "mv", markerPath+".new", markerPath); err != nil {
		return nil, err
	}
	return c, nil
}

func (e ensuring) ensureImage(ctx context.Context) error {
	if e.b.hasImage(ctx, e.cfg.Image) {
		return nil
	}
	e.say("pulling the node image %s", e.cfg.Image)
	if err := e.b.pull(ctx, e.cfg.Image); err != nil {
		return fmt.Errorf("create cluster %q: node image %s is not in the engine and cannot be pulled: %w: load it into the engine, or name one that exists", e.cfg.Name, e.cfg.Image, err)
	}
	return nil
}

// keepLogs saves what can be had: a node that did not come up has not all of them.
func (e ensuring) keepLogs(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir := filepath.Join(e.cfg.LogDir, e.cfg.Name)
	note := ""
	if err := e.b.logs(ctx, e.cfg.Name, dir); err != nil {
		note = ", as far as they could be had"
	}
	e.warn("the cluster did not come up; its logs are in %s%s", dir, note)
}

// cleanupTime is how long removing a half made cluster may take.
const cleanupTime = 2 * time.Minute

// removeHalfMade removes what there is, again and again until kind, which cannot
// be told to stop, has stumbled over its missing nodes and given up.
func (e ensuring) removeHalfMade(ctx context.Context, done <-chan error) error {
	e.say("removing what was made so far")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	for {
		err := e.b.remove(ctx, e.cfg.Name, e.cfg.Kubeconfig)
		select {
		case <-done: //nolint:errcheck // that it has ended is what counts
			// What kind made since, and what was in the way of the removal before.
			if err := e.b.remove(ctx, e.cfg.Name, e.cfg.Kubeconfig); err != nil {
				return e.notRemoved(err)
			}
			return e.record.end()
		case <-ctx.Done():
			return e.notRemoved(errors.Join(err, ctx.Err()))
		case <-time.After(time.Second):
		}
	}
}

// notRemoved leaves the record where it is, so that the next run removes the rest.
func (e ensuring) notRemoved(err error) error {
	return fmt.Errorf("remove what was made of cluster %q: %w: the next run tries again; by hand: remove the containers with the label %s=%s", e.cfg.Name, err, clusterLabel, e.cfg.Name)
}

package kindx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"
	"sigs.k8s.io/kind/pkg/cluster"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/kind/pkg/log"

	"github.com/org/spire-vault-99-action/internal/run"
)

// backend is what Ensure and its like do to the machine.
type backend interface {
	info(ctx context.Context) (engineInfo, error)
	nodes(ctx context.Context, cluster string) ([]nodeState, error)
	// create blocks until it is done: kind knows no context.
	create(config *v1alpha4.Cluster, kubeconfig string) error
	start(ctx context.Context, nodes []nodeState) error
	// remove takes away the nodes and the entry in the kubeconfig; either may not be there.
	remove(ctx context.Context, cluster, kubeconfig string) error
	kubeconfig(ctx context.Context, cluster string) ([]byte, error)
	exportKubeconfig(ctx context.Context, cluster, path string) error
	logs(ctx context.Context, cluster, dir string) error
	// hasImage and pull are about the image of the nodes.
	hasImage(ctx context.Context, ref string) bool
	pull(ctx context.Context, ref string) error
	// readFile is of a node, running or not; nil if there is no such file.
	readFile(ctx context.Context, node, file string) ([]byte, error)
	exec(ctx context.Context, node string, stdin io.Reader, argv ...string) error
	// listen is an error if the port cannot be had.
	listen(ctx context.Context, p PortMapping) error
	// ready asks an API server; saw is what it said.
	ready(ctx context.Context, kubeconfig []byte) (ok bool, saw string)
}

// kindBackend is the real one: kind for what kind knows, the engine's own
// client, which takes a context, for the rest.
type kindBackend struct {
	provider Provider
	kind     *cluster.Provider
}

func newBackend(p Provider, s sink) *kindBackend {
	options := map[Provider]cluster.ProviderOption{
		Docker: cluster.ProviderWithDocker(), Podman: cluster.ProviderWithPodman(), Nerdctl: cluster.ProviderWithNerdctl(""),
	}
	return &kindBackend{provider: p, kind: cluster.NewProvider(cluster.ProviderWithLogger(kindLogger{s}), options[p])}
}

func (b *kindBackend) engine(args ...string) []string {
	return append([]string{string(b.provider)}, args...)
}

func (b *kindBackend) info(ctx context.Context) (engineInfo, error) {
	return askEngine(ctx, b.provider)
}

// https://github.com/kubernetes-sigs/kind, pkg/cluster/internal/providers/docker/constants.go
const (
	clusterLabel = "io.x-k8s.kind.cluster"
	roleLabel    = "io.x-k8s.kind.role"
)

func (b *kindBackend) nodeNames(ctx context.Context, cluster string) ([]string, error) {
	out, err := run.Output(ctx, b.engine("ps", "--all", "--filter", "label="+clusterLabel+"="+cluster, "--format", "{{.Names}}")...)
	if err != nil {
		return nil, fmt.Errorf("list the nodes of cluster %q: %w", cluster, err)
	}
	return strings.Fields(out), nil
}

func (b *kindBackend) nodes(ctx context.Context, cluster string) ([]nodeState, error) {
	const format = "{{.Name}}\t{{.State.Status}}\t{{index .Config.Labels \"" + roleLabel + "\"}}"
	found, err := b.nodeNames(ctx, cluster)
	for err == nil && len(found) > 0 {
		out, lookErr := run.Output(ctx, append(b.engine("inspect", "--type=container", "--format", format), found...)...)
		if lookErr == nil {
			return parseNodes(out)
		}
		// One may have gone in between.
		before := found
		if found, err = b.nodeNames(ctx, cluster); err == nil && slices.Equal(before, found) {
			return nil, fmt.Errorf("look at the nodes of cluster %q: %w", cluster, lookErr)
		}
	}
	return nil, err
}

func (b *kindBackend) create(config *v1alpha4.Cluster, kubeconfig string) error {
	return kindError(b.kind.Create(config.Name,
		cluster.CreateWithV1Alpha4Config(config),
		cluster.CreateWithKubeconfigPath(kubeconfig),
		cluster.CreateWithRetain(true), // removing it is up to the caller, which may want its logs first
	))
}

func (b *kindBackend) start(ctx context.Context, nodes []nodeState) error {
	for _, n := range nodes {
		verb := "start"
		if n.state == "paused" {
			verb = "unpause"
		}
		if _, err := run.Output(ctx, b.engine(verb, n.name)...); err != nil {
			return fmt.Errorf("start node %s: %w", n.name, err)
		}
	}
	return nil
}

func (b *kindBackend) remove(ctx context.Context, cluster, kubeconfig string) error {
	if err := removeOutside(ctx, cluster, b.provider); err != nil {
		return err
	}
	found, err := b.nodeNames(ctx, cluster)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		if _, err := run.Output(ctx, append(b.engine("rm", "--force", "--volumes"), found...)...); err != nil {
			return fmt.Errorf("remove the nodes of cluster %q: %w", cluster, err)
		}
	}
	// With the nodes gone, this is about the kubeconfig alone.
	if err := await(ctx, func() error { return b.kind.Delete(cluster, kubeconfig) }); err != nil {
		return fmt.Errorf("remove cluster %q from the kubeconfig: %w", cluster, kindError(err))
	}
	return nil
}

func (b *kindBackend) kubeconfig(ctx context.Context, cluster string) ([]byte, error) {
	var doc string
	err := await(ctx, func() (err error) {
		doc, err = b.kind.KubeConfig(cluster, false)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get the kubeconfig of cluster %q: %w", cluster, kindError(err))
	}
	return []byte(doc), nil
}

func (b *kindBackend) exportKubeconfig(ctx context.Context, cluster, path string) error {
	err := await(ctx, func() error { return b.kind.ExportKubeConfig(cluster, path, false) })
	if err != nil {
		return fmt.Errorf("add cluster %q to the kubeconfig: %w", cluster, kindError(err))
	}
	return nil
}

func (b *kindBackend) logs(ctx context.Context, cluster, dir string) error {
	err := await(ctx, func() error { return b.kind.CollectLogs(cluster, dir) })
	if err != nil {
		return fmt.Errorf("collect the logs of cluster %q in %s: %w", cluster, dir, kindError(err))
	}
	return nil
}

func (b *kindBackend) hasImage(ctx context.Context, ref string) bool {
	_, err := run.Output(ctx, b.engine("image", "inspect", "--format", "{{.ID}}", ref)...)
	return err == nil
}

func (b *kindBackend) pull(ctx context.Context, ref string) error {
	_, err := run.Output(ctx, b.engine("pull", ref)...)
	return err
}

func (b *kindBackend) readFile(ctx context.Context, node, file string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "kindx-")
	if err != nil {
		return nil, fmt.Errorf("read %s of node %s: %w", file, node, err)
	}
	defer os.RemoveAll(dir)
	// Unlike a command in the node, cp works while the node is stopped. Into a folder: nerdctl
	// writes no archive to stdout.
	_, err = run.Output(ctx, b.engine("cp", node+":"+file, dir)...)
	if failed, ok := errors.AsType[*run.Error](err); ok && noSuchFile(failed.Stderr) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of node %s: %w", file, node, err)
	}
	doc, err := os.ReadFile(filepath.Join(dir, path.Base(file)))
	if err != nil {
		return nil, fmt.Errorf("read %s of node %s: %w", file, node, err)
	}
	return doc, nil
}

// noSuchFile knows the words of docker ("Could not find the file", older: "No such
// container:path"), podman ("could not be found") and nerdctl ("source does not
// exist", older: "no such file").
func noSuchFile(stderr string) bool {
	said := strings.ToLower(stderr)
	for _, words := range []string{"could not find the file", "no such container:path", "could not be found", "source does not exist", "no such file"} {
		if strings.Contains(said, words) {
			return true
		}
	}
	return false
}

func (b *kindBackend) exec(ctx context.Context, node string, stdin io.Reader, argv ...string) error {
	return (&Node{name: node, provider: b.provider}).Exec(ctx, stdin, nil, argv...)
}

func (b *kindBackend) listen(ctx context.Context, p PortMapping) error { return tryListen(ctx, p) }

func (b *kindBackend) ready(ctx context.Context, kubeconfig []byte) (bool, string) {
	return askReady(ctx, kubeconfig)
}

// await runs what knows no context, and leaves it to itself when ctx ends first.
func await(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kindError adds what the command that failed had printed.
func kindError(err error) error {
	if err == nil {
		return nil
	}
	if failed := kindexec.RunErrorForError(err); failed != nil && len(failed.Output) > 0 {
		const most = 4096
		out := strings.TrimSpace(string(failed.Output[max(0, len(failed.Output)-most):]))
		err = fmt.Errorf("%w: %s", err, out)
	}
	if said := err.Error(); strings.Contains(said, ".lock") && strings.Contains(said, "exists") {
		err = fmt.Errorf("%w: another program is writing that kubeconfig, or one was killed while it did: if none is, remove the lock file", err)
	}
	return err
}

// kindLogger makes kind's messages events: one for the start of each step.
type kindLogger struct{ sink }

var (
	_ log.Logger     = kindLogger{}
	_ log.InfoLogger = kindLogger{}
)

func (l kindLogger) Warn(message string)           { l.warn("%s", plain(message)) }
func (l kindLogger) Warnf(format string, a ...any) { l.Warn(fmt.Sprintf(format, a...)) }
func (l kindLogger) Error(message string)          { l.Warn(message) }
func (l kindLogger) Errorf(format string, a ...any) {
	l.Warn(fmt.Sprintf(format, a...))
}
func (l kindLogger) Info(message string) {
	// The end of a step is the start of the next one, or the error returned.
	if strings.Contains(message, "✓") || strings.Contains(message, "✗") {
		return
	}
	if message = plain(message); message != "" {
		l.say("%s", message)
	}
}
func (l kindLogger) Infof(format string, a ...any) { l.Info(fmt.Sprintf(format, a...)) }
func (l kindLogger) Enabled() bool                 { return true }
func (l kindLogger) V(level log.Level) log.InfoLogger {
	if level > 0 {
		return log.NoopInfoLogger{}
	}
	return l
}

// plain takes the pictures and dots out of kind's messages, and makes them one line.
func plain(message string) string {
	ascii := strings.Map(func(r rune) rune {
		if r > 126 {
			return -1
		}
		return r
	}, message)
	return strings.TrimSpace(strings.TrimSuffix(strings.Join(strings.Fields(ascii), " "), "..."))
}

package kindx

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"sigs.k8s.io/kind/pkg/cluster/constants"

	"github.com/org/spire-vault-99-action/internal/run"
)

// Node is one node of a cluster: a container of the engine.
type Node struct {
	name, role string
	provider   Provider
}

// Name is the node's name, in Kubernetes and in the engine.
func (n *Node) Name() string { return n.name }

// Role is "control-plane" or "worker".
func (n *Node) Role() string { return n.role }

// Exec runs a command in the node, as root, with the given stdin and stdout; either
// may be nil. The error ends with what the command wrote to stderr. When ctx ends,
// the call ends too, but the command may go on inside the node.
func (n *Node) Exec(ctx context.Context, stdin io.Reader, stdout io.Writer, argv ...string) error {
	err := run.Cmd{Argv: n.execArgv(stdin != nil, argv), Stdin: stdin, Stdout: stdout}.Run(ctx)
	if err != nil {
		return fmt.Errorf("run %s in node %s: %w", argv, n.name, err)
	}
	return nil
}

func (n *Node) execArgv(stdin bool, argv []string) []string {
	all := []string{string(n.provider), "exec", "--privileged"}
	if stdin {
		all = append(all, "--interactive")
	}
	return slices.Concat(all, []string{n.name}, argv)
}

// Which format a list of containers takes for a label differs between engines and
// versions of podman; of a container's own description it is one.
func clusterNodesArgv(p Provider) []string {
	return []string{string(p), "ps", "--all", "--filter", "label=" + clusterLabel, "--format", "{{.Names}}"}
}

func clusterLabelsArgv(p Provider, nodes []string) []string {
	return append([]string{string(p), "inspect", "--type=container", "--format", "{{index .Config.Labels \"" + clusterLabel + "\"}}"}, nodes...)
}

func parseClusters(out string) []string {
	all := strings.Fields(out)
	slices.Sort(all)
	return slices.Compact(all)
}

// nodeState is a node as the engine sees it.
type nodeState struct {
	name, role, state string
}

func (n nodeState) controlPlane() bool { return n.role == constants.ControlPlaneNodeRoleValue }

func (n nodeState) kubernetes() bool {
	return n.controlPlane() || n.role == constants.WorkerNodeRoleValue
}

// parseNodes reads lines of name, state and role, divided by tabs, and puts the
// control plane first.
func parseNodes(out string) ([]nodeState, error) {
	var all []nodeState
	for line := range strings.Lines(out) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("read the list of nodes: %q has not three fields", line)
		}
		all = append(all, nodeState{name: strings.TrimPrefix(f[0], "/"), state: f[1], role: f[2]})
	}
	slices.SortFunc(all, func(a, b nodeState) int {
		if a.controlPlane() != b.controlPlane() {
			if a.controlPlane() {
				return -1
			}
			return 1
		}
		// worker, worker2, ... worker10
		return cmp.Or(cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return all, nil
}

func names(nodes []nodeState) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.name)
	}
	return all
}

func count(nodes int) string {
	if nodes == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", nodes)
}

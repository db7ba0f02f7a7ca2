package cilium

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// AuthEntry is one authenticated pair in the auth map of one node: until Expires
// that node lets LocalIdentity and RemoteIdentity talk where a policy asks for
// authentication.
type AuthEntry struct {
	Node                          string
	LocalIdentity, RemoteIdentity uint32
	// RemoteNodeID is the local node's own number for the other node.
	RemoteNodeID uint16
	// AuthType is "spire", "test-always-fail" or "disabled".
	AuthType string
	Expires  time.Time
}

// AuthEntries are the authenticated pairs of every node with a ready agent, by node.
func AuthEntries(ctx context.Context, cluster *rest.Config) ([]AuthEntry, error) {
	client, err := connect(cluster)
	if err != nil {
		return nil, err
	}
	return authEntries(ctx, client)
}

func authEntries(ctx context.Context, p pods) ([]AuthEntry, error) {
	agents, err := agentPods(ctx, p, "")
	if err != nil {
		return nil, err
	}
	perNode, err := onAgents(ctx, agents, func(ctx context.Context, pod corev1.Pod) ([]AuthEntry, error) {
		out, err := bpfAuth(ctx, p, pod, "list", "-o", "json")
		if err != nil {
			return nil, err
		}
		entries, err := parseAuthList(pod.Spec.NodeName, out)
		if err != nil {
			return nil, fmt.Errorf("cilium: auth map of node %s: %w", pod.Spec.NodeName, err)
		}
		return entries, nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(perNode...), nil
}

// FlushAuth empties the auth map of a node, of every node if node is "". The next
// packet of an authenticated edge is then dropped and starts a fresh handshake.
func FlushAuth(ctx context.Context, cluster *rest.Config, node string) error {
	client, err := connect(cluster)
	if err != nil {
		return err
	}
	return flushAuth(ctx, client, node)
}

func flushAuth(ctx context.Context, p pods, node string) error {
	agents, err := agentPods(ctx, p, node)
	if err != nil {
		return err
	}
	_, err = onAgents(ctx, agents, func(ctx context.Context, pod corev1.Pod) (struct{}, error) {
		_, err := bpfAuth(ctx, p, pod, "flush")
		return struct{}{}, err
	})
	return err
}

// bpfAuth runs `cilium-dbg bpf auth …`. That command exits with 0 also where there
// is no auth map or an entry could not be deleted; only its stderr tells.
func bpfAuth(ctx context.Context, p pods, pod corev1.Pod, argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	err := p.Exec(ctx, kube.Exec{
		Namespace: Namespace, Pod: pod.Name, Container: agentContainer,
		Argv:   append([]string{"cilium-dbg", "bpf", "auth"}, argv...),
		Stdout: &stdout, Stderr: &stderr,
	})
	said := stderr.String()
	switch {
	case err != nil:
	case strings.Contains(said, "Cannot find auth bpf map"):
		err = errors.New("there is no auth map: mutual authentication is off (set Config.TrustDomain)")
	case strings.Contains(said, "Error deleting"):
		err = saw(said)
	}
	if err != nil {
		return nil, fmt.Errorf("cilium: `bpf auth %s` on node %s (pod %s): %w", argv[0], pod.Spec.NodeName, pod.Name, err)
	}
	return stdout.Bytes(), nil
}

// parseAuthList reads `cilium-dbg bpf auth list -o json`, which is null when empty:
// https://github.com/cilium/cilium/blob/v1.20.2/cilium-dbg/cmd/bpf_auth_list.go.
func parseAuthList(node string, out []byte) ([]AuthEntry, error) {
	var list []struct {
		LocalIdentity, RemoteIdentity uint32
		RemoteNodeID                  uint16
		AuthType                      uint8
		Expiration                    time.Time
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("the answer is not the JSON expected: %w", err)
	}
	entries := make([]AuthEntry, len(list))
	for i, e := range list {
		// https://github.com/cilium/cilium/blob/v1.20.2/pkg/policy/types/auth.go
		authType := fmt.Sprintf("unknown-%d", e.AuthType)
		if names := []string{"disabled", "spire", "test-always-fail"}; int(e.AuthType) < len(names) {
			authType = names[e.AuthType]
		}
		entries[i] = AuthEntry{node, e.LocalIdentity, e.RemoteIdentity, e.RemoteNodeID, authType, e.Expiration}
	}
	return entries, nil
}

package cilium

import (
	"bytes"
	"context"
	"encoding/binary"
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
		return listAuth(ctx, p, pod)
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(perNode...), nil
}

// FlushAuth deletes what the auth map of a node holds, of every node if node is "".
// The next packet of an authenticated edge is then dropped and starts a fresh handshake,
// so an entry that is in the map afterwards is younger than the call. The map need not be
// empty: edges may be in use.
//
// It deletes the entries one by one with bpftool: `cilium-dbg bpf auth flush` of
// 1.20 waits for itself as soon as there is an entry to delete (it holds the map's
// lock for reading while it walks, and asks for it for writing).
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
		return struct{}{}, flushAgent(ctx, p, pod)
	})
	return err
}

// flushAgent deletes what the agent's map holds. An entry that expires between
// listing and deleting fails its batch, so it looks again before it gives up.
func flushAgent(ctx context.Context, p pods, pod corev1.Pod) error {
	var failed error
	for range 3 {
		entries, err := listAuth(ctx, p, pod)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return nil
		}
		var said bytes.Buffer
		failed = p.Exec(ctx, kube.Exec{
			Namespace: Namespace, Pod: pod.Name, Container: agentContainer,
			Argv:  []string{"bpftool", "batch", "file", "-"},
			Stdin: strings.NewReader(deleteBatch(entries)), Stdout: &said, Stderr: &said,
		})
		if failed == nil {
			return nil
		}
		failed = fmt.Errorf("%w: %s", failed, strings.Join(strings.Fields(said.String()), " "))
	}
	return fmt.Errorf("cilium: flush the auth map of node %s (pod %s): %w", pod.Spec.NodeName, pod.Name, failed)
}

// authMap is where the agent pins the map.
const authMap = "/sys/fs/bpf/tc/globals/cilium_auth_map"

// deleteBatch is bpftool's batch that deletes the entries: a key is struct auth_key
// of https://github.com/cilium/cilium/blob/v1.20.2/bpf/lib/common.h, whose numbers
// are little-endian on every architecture that Cilium runs on.
func deleteBatch(entries []AuthEntry) string {
	var batch strings.Builder
	for _, e := range entries {
		key := binary.LittleEndian.AppendUint32(nil, e.LocalIdentity)
		key = binary.LittleEndian.AppendUint32(key, e.RemoteIdentity)
		key = binary.LittleEndian.AppendUint16(key, e.RemoteNodeID)
		key = append(key, authNumber(e.AuthType), 0)
		fmt.Fprintf(&batch, "map delete pinned %s key hex % x\n", authMap, key)
	}
	return batch.String()
}

// listAuth runs `cilium-dbg bpf auth list` on an agent. That command exits with 0
// also where there is no auth map; only its stderr tells.
func listAuth(ctx context.Context, p pods, pod corev1.Pod) ([]AuthEntry, error) {
	var stdout, stderr bytes.Buffer
	err := p.Exec(ctx, kube.Exec{
		Namespace: Namespace, Pod: pod.Name, Container: agentContainer,
		Argv:   []string{"cilium-dbg", "bpf", "auth", "list", "-o", "json"},
		Stdout: &stdout, Stderr: &stderr,
	})
	if err == nil && strings.Contains(stderr.String(), "Cannot find auth bpf map") {
		err = errors.New("there is no auth map: mutual authentication is off (set Config.TrustDomain)")
	}
	var entries []AuthEntry
	if err == nil {
		entries, err = parseAuthList(pod.Spec.NodeName, stdout.Bytes())
	}
	if err != nil {
		return nil, fmt.Errorf("cilium: list the auth map of node %s (pod %s): %w", pod.Spec.NodeName, pod.Name, err)
	}
	return entries, nil
}

// authTypes are the names of the types by number:
// https://github.com/cilium/cilium/blob/v1.20.2/pkg/policy/types/auth.go
var authTypes = []string{"disabled", "spire", "test-always-fail"}

const unknownAuth = "unknown-%d"

func authName(n uint8) string {
	if int(n) < len(authTypes) {
		return authTypes[n]
	}
	return fmt.Sprintf(unknownAuth, n)
}

func authNumber(name string) uint8 {
	if i := slices.Index(authTypes, name); i >= 0 {
		return uint8(i)
	}
	var n uint8
	_, _ = fmt.Sscanf(name, unknownAuth, &n)
	return n
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
		entries[i] = AuthEntry{node, e.LocalIdentity, e.RemoteIdentity, e.RemoteNodeID, authName(e.AuthType), e.Expiration}
	}
	return entries, nil
}

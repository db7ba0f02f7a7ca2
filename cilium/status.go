package cilium

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// Status is how Cilium is, as the cluster and each agent say.
type Status struct {
	Agents, Operator, Relay Rollout
	// Nodes are the nodes with a ready agent, by name.
	Nodes []NodeStatus
}

// Rollout counts the pods of one workload.
type Rollout struct {
	// Found says that the workload exists.
	Found          bool
	Desired, Ready int
}

// NodeStatus is what one agent says of itself.
type NodeStatus struct {
	Node, Pod string
	// Version is the agent's, such as "1.20.2".
	Version string
	// State is "Ok", "Warning", "Failure" or "Disabled"; Message is Cilium's.
	State, Message string
	// AuthProvider is the state of the provider of mutual authentication's
	// certificates: "Ok" when the SPIRE agent answers, "Disabled" when mutual
	// authentication is off.
	AuthProvider, AuthProviderMessage string
}

// Problems says, one line each, what keeps s from being healthy; none means that
// all is well. An authentication provider that is off is no problem here.
func (s Status) Problems() []string {
	var out []string
	for _, w := range []struct {
		name string
		Rollout
	}{{"agents", s.Agents}, {"operator", s.Operator}, {"Hubble Relay", s.Relay}} {
		switch {
		case !w.Found:
			out = append(out, w.name+": not installed")
		case w.Desired == 0:
			out = append(out, w.name+": no pod is wanted")
		case w.Ready < w.Desired:
			out = append(out, fmt.Sprintf("%s: %d of %d ready", w.name, w.Ready, w.Desired))
		}
	}
	if len(s.Nodes) < s.Agents.Desired {
		out = append(out, fmt.Sprintf("agents: %d of %d could be asked", len(s.Nodes), s.Agents.Desired))
	}
	for _, n := range s.Nodes {
		if n.State != "Ok" {
			out = append(out, fmt.Sprintf("node %s: agent is %s: %s", n.Node, orDefault(n.State, "in an unknown state"), n.Message))
		}
		if n.AuthProvider != "Ok" && n.AuthProvider != "Disabled" {
			out = append(out, fmt.Sprintf("node %s: authentication provider is %s: %s", n.Node, orDefault(n.AuthProvider, "in an unknown state"), n.AuthProviderMessage))
		}
	}
	return out
}

// GetStatus asks the cluster for the rollouts and every ready agent for its own
// status. An unhealthy Cilium is a Status with [Status.Problems], not an error.
func GetStatus(ctx context.Context, cluster *rest.Config) (Status, error) {
	client, err := connect(cluster)
	if err != nil {
		return Status{}, err
	}
	return getStatus(ctx, client.Clientset(), client)
}

func getStatus(ctx context.Context, cs kubernetes.Interface, p pods) (Status, error) {
	var s Status
	ds, err := cs.AppsV1().DaemonSets(Namespace).Get(ctx, "cilium", metav1.GetOptions{})
	switch {
	case err == nil:
		s.Agents = Rollout{Found: true, Desired: int(ds.Status.DesiredNumberScheduled), Ready: int(ds.Status.NumberReady)}
	case !apierrors.IsNotFound(err):
		return Status{}, fmt.Errorf("cilium: read DaemonSet %s/cilium: %w", Namespace, err)
	}
	for name, r := range map[string]*Rollout{"cilium-operator": &s.Operator, "hubble-relay": &s.Relay} {
		d, err := cs.AppsV1().Deployments(Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			*r = Rollout{Found: true, Desired: 1, Ready: int(d.Status.ReadyReplicas)}
			if d.Spec.Replicas != nil {
				r.Desired = int(*d.Spec.Replicas)
			}
		case !apierrors.IsNotFound(err):
			return Status{}, fmt.Errorf("cilium: read Deployment %s/%s: %w", Namespace, name, err)
		}
	}
	if s.Agents.Ready == 0 {
		return s, nil
	}
	agents, err := agentPods(ctx, p, "")
	if err != nil {
		return s, err
	}
	s.Nodes, err = onAgents(ctx, agents, func(ctx context.Context, pod corev1.Pod) (NodeStatus, error) {
		return askStatus(ctx, p, pod)
	})
	return s, err
}

func askStatus(ctx context.Context, p pods, pod corev1.Pod) (NodeStatus, error) {
	var stdout, stderr bytes.Buffer
	err := p.Exec(ctx, kube.Exec{
		Namespace: Namespace, Pod: pod.Name, Container: agentContainer,
		Argv:   []string{"cilium-dbg", "status", "-o", "json"},
		Stdout: &stdout, Stderr: &stderr,
	})
	// A sick agent answers in full and then exits with 1, so the answer counts first.
	n, parseErr := parseStatus(stdout.Bytes())
	if parseErr != nil {
		return NodeStatus{}, fmt.Errorf("cilium: status of the agent on %s (pod %s): %w", pod.Spec.NodeName, pod.Name,
			errors.Join(err, parseErr, saw(stderr.String())))
	}
	n.Node, n.Pod = pod.Spec.NodeName, pod.Name
	return n, nil
}

func saw(stderr string) error {
	if stderr = strings.TrimSpace(stderr); stderr != "" {
		return errors.New("it wrote: " + stderr)
	}
	return nil
}

// parseStatus reads `cilium-dbg status -o json`:
// https://github.com/cilium/cilium/blob/v1.20.2/api/v1/models/status_response.go.
func parseStatus(out []byte) (NodeStatus, error) {
	type state struct{ State, Msg string }
	var answer struct {
		Cilium *state
		Auth   *state `json:"auth-certificate-provider"`
	}
	if err := json.Unmarshal(out, &answer); err != nil {
		return NodeStatus{}, fmt.Errorf("the answer is not the JSON expected: %w", err)
	}
	if answer.Cilium == nil {
		return NodeStatus{}, errors.New("the answer has no field \"cilium\"")
	}
	n := NodeStatus{State: answer.Cilium.State, Message: answer.Cilium.Msg}
	// The message is "<version> (v<version>-<revision>)" and then what is wrong.
	if f := strings.Fields(n.Message); len(f) > 0 {
		n.Version = strings.TrimPrefix(f[0], "v")
	}
	if answer.Auth != nil {
		n.AuthProvider, n.AuthProviderMessage = answer.Auth.State, answer.Auth.Msg
	}
	return n, nil
}

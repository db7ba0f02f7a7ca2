package zerotrust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// fetchSVID asks the SPIRE agent of a node for the SVIDs of a container, whose ID is $1, as a
// process of it would: the agent attests by the cgroups of whoever asks. SPIRE attests no
// ephemeral container, and the images of workloads need not have anything to ask with; so it
// is the agent's own client, from the node. What it prints holds no key. Where memory has a
// hierarchy of its own, that of the client is not charged to the workload.
var fetchSVID = `set -e
pid=$(crictl inspect --output go-template --template '{{.info.pid}}' "$1")
agent=$(pgrep -o -x spire-agent)
while IFS=: read -r _ controllers path; do
  dir="/sys/fs/cgroup/${controllers#name=}$path"
  if [ "$controllers" != memory ] && [ -d "$dir" ]; then
    echo $$ > "$dir/cgroup.procs"
  fi
done < "/proc/$pid/cgroup"
exec "/proc/$agent/root/opt/spire/bin/spire-agent" api fetch x509 -timeout 10s -socketPath "` + socketDir + `/agent.sock"
`

// svidChecks want every workload to get its own SVID, and no other.
func (s *Stack) svidChecks() []phase.Check {
	var all []phase.Check
	for _, w := range s.cfg.Intent.Workloads {
		all = append(all, phase.Check{
			Name: "SVID of " + w.Name, Doc: "Asked from within each of its containers' cgroups, the node's SPIRE agent gives the workload its own SVID, valid now, and no other.",
			Hint: "kubectl -n spire-system logs ds/spire-agent | grep -i " + w.Account() + "; run again without --verify: the identities phase puts its entry right.",
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkSVID(ctx, w) },
		})
	}
	return all
}

func (s *Stack) checkSVID(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Want: s.cfg.Intent.ID(w).String() + " alone, valid now", Source: "SPIRE agent of the pod's node: Workload API, from the cgroups of its container"}
	pods, err := s.runningPods(ctx, w)
	if err != nil {
		return ev, err
	}
	nodes, err := kindx.Nodes(ctx, s.cfg.Intent.Name)
	if err != nil {
		return ev, err
	}
	var wrong []string
	for _, p := range pods {
		i := slices.IndexFunc(nodes, func(n *kindx.Node) bool { return n.Name() == p.Spec.NodeName })
		if i < 0 || len(p.Status.ContainerStatuses) == 0 {
			return ev, fmt.Errorf("pod %s: node %q is none of kind's, or it has no container", p.Name, p.Spec.NodeName)
		}
		for _, c := range p.Status.ContainerStatuses {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			var printed bytes.Buffer
			err := nodes[i].Exec(ctx, nil, &printed, "sh", "-c", fetchSVID, "fetch", id)
			if err != nil && !strings.Contains(err.Error(), "no identity issued") {
				return ev, fmt.Errorf("pod %s, container %s: %w", p.Name, c.Name, err)
			}
			said, err := soleSVID(printed.String(), s.cfg.Intent.ID(w).String(), time.Now())
			if err != nil {
				wrong = append(wrong, fmt.Sprintf("container %s of pod %s: %v", c.Name, p.Name, err))
				continue
			}
			ev.Details = append(ev.Details, fmt.Sprintf("container %s of pod %s: %s", c.Name, p.Name, said))
		}
	}
	if len(wrong) > 0 {
		return ev, phase.Want(ev.Want, strings.Join(wrong, "; "))
	}
	ev.Got = ev.Want
	return ev, nil
}

// runningPods are the workload's, ready or not: it may not be for want of its SVID.
func (s *Stack) runningPods(ctx context.Context, w Workload) ([]corev1.Pod, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return nil, err
	}
	all, err := client.Clientset().CoreV1().Pods(w.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of namespace %s: %w", w.Namespace, err)
	}
	pods := slices.DeleteFunc(all.Items, func(p corev1.Pod) bool {
		return p.Spec.ServiceAccountName != w.Account() || p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil
	})
	if len(pods) == 0 {
		return nil, fmt.Errorf("workload %s: no running pod in namespace %s has service account %s", w.Name, w.Namespace, w.Account())
	}
	return pods, nil
}

var (
	svidID  = regexp.MustCompile(`(?m)^SPIFFE ID:\s+(\S+)$`)
	svidEnd = regexp.MustCompile(`(?m)^SVID Valid Until:\s+(.+)$`)
)

// soleSVID reads what "spire-agent api fetch x509" printed: it must be one SVID, of that ID,
// that has not expired.
func soleSVID(printed, want string, now time.Time) (string, error) {
	ids, ends := svidID.FindAllStringSubmatch(printed, -1), svidEnd.FindAllStringSubmatch(printed, -1)
	switch {
	case len(ids) == 0:
		return "", errors.New("no SVID")
	case len(ids) > 1 || ids[0][1] != want:
		var all []string
		for _, id := range ids {
			all = append(all, id[1])
		}
		return "", fmt.Errorf("%s", strings.Join(all, ", "))
	case len(ends) != 1:
		return "", fmt.Errorf("its end is not told: %q", printed)
	}
	// The zone comes twice, as Go's Time.String has it.
	end, err := time.Parse("2006-01-02 15:04:05 -0700 MST", ends[0][1])
	if err != nil {
		return "", fmt.Errorf("its end: %w", err)
	}
	if !now.Before(end) {
		return "", fmt.Errorf("it expired at %s", end.UTC().Format(time.RFC3339))
	}
	return "until " + end.UTC().Format(time.RFC3339), nil
}

package probe

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	program    = "/app/prober" // where images.Build puts it
	namePrefix = "zerotrust-probe-"
	user       = 65532 // as images.Build has it

	// maxFailed is how many containers in a row may fail in a pod. One may fail to
	// start on a busy node; but none can be removed, so a bad image must not add one
	// with every try.
	maxFailed = 3
)

// step is what is to be done to have a prober in a pod. One of use and add is set, or
// neither: then one is on its way.
type step struct {
	use string // the container that tries run in
	add string // the name of the container to add
	saw string // how far it is
}

// decide looks at a pod and says what is next. An error is one that waiting does not mend.
func decide(pod *corev1.Pod, cfg Config) (step, error) {
	switch phase := pod.Status.Phase; {
	case pod.DeletionTimestamp != nil:
		return step{}, fmt.Errorf("it is being deleted: take another pod")
	case phase == corev1.PodSucceeded || phase == corev1.PodFailed:
		return step{}, fmt.Errorf("it has ended (%s): take a pod that runs", phase)
	}
	all := probers(pod)
	next := step{add: containerName(1)}
	if len(all) > 0 {
		next.add = containerName(all[len(all)-1].number + 1)
	}
	all = slices.DeleteFunc(all, func(c prober) bool { return c.Image != cfg.Image })
	for _, c := range slices.Backward(all) {
		if c.state.Running != nil {
			return step{use: c.Name}, nil
		}
	}
	for _, c := range slices.Backward(all) {
		// One that waits for its image may not be allowed to pull it.
		if c.state.Terminated == nil && c.ImagePullPolicy == corev1.PullPolicy(cfg.PullPolicy) {
			return c.awaited(pod)
		}
	}
	if n := failedInARow(all); n >= maxFailed {
		last := all[len(all)-1]
		return step{}, fmt.Errorf("the last %d containers of image %s failed there, container %s with %s: give a working image as Config.Image, or delete the pod to have it made anew",
			n, cfg.Image, last.Name, ending(last.state.Terminated))
	}
	return next, nil
}

// awaited is the step while a container is not running yet.
func (c prober) awaited(pod *corev1.Pod) (step, error) {
	w := c.state.Waiting
	if w == nil {
		return step{saw: fmt.Sprintf("container %s is not reported yet, pod %s on node %q", c.Name, pod.Status.Phase, pod.Spec.NodeName)}, nil
	}
	why := strings.TrimSuffix(w.Reason+": "+w.Message, ": ")
	switch w.Reason {
	case "ErrImageNeverPull":
		return step{}, fmt.Errorf("container %s waits for image %s, which node %s does not have and may not pull: load it into the node, or set Config.PullPolicy to IfNotPresent if a registry has it (%s)",
			c.Name, c.Image, pod.Spec.NodeName, why)
	case "InvalidImageName":
		return step{}, fmt.Errorf("container %s: Config.Image %q is no image reference (%s)", c.Name, c.Image, why)
	case "ErrImagePull", "ImagePullBackOff":
		return step{saw: fmt.Sprintf("container %s: node %s cannot pull image %s, so load it there (%s)", c.Name, pod.Spec.NodeName, c.Image, why)}, nil
	}
	return step{saw: fmt.Sprintf("container %s on node %s: %s", c.Name, pod.Spec.NodeName, why)}, nil
}

// prober is one of our containers in a pod.
type prober struct {
	corev1.EphemeralContainer
	number int
	state  corev1.ContainerState // empty until the node has reported it
}

// probers are our containers in a pod, by number.
func probers(pod *corev1.Pod) []prober {
	var all []prober
	for _, c := range pod.Spec.EphemeralContainers {
		digits, ours := strings.CutPrefix(c.Name, namePrefix)
		n, err := strconv.Atoi(digits)
		if !ours || err != nil || c.Name != containerName(n) {
			continue
		}
		p := prober{EphemeralContainer: c, number: n}
		for _, s := range pod.Status.EphemeralContainerStatuses {
			if s.Name == c.Name {
				p.state = stateOf(s)
			}
		}
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b prober) int { return cmp.Compare(a.number, b.number) })
	return all
}

// stateOf is how a container stands. In pods that restart their containers the kubelet
// reports one that could not be started as waiting for it; but an ephemeral container
// is never started again:
// https://kubernetes.io/docs/concepts/workloads/pods/ephemeral-containers/
func stateOf(s corev1.ContainerStatus) corev1.ContainerState {
	if s.State.Waiting != nil && s.LastTerminationState.Terminated != nil {
		return s.LastTerminationState
	}
	return s.State
}

func containerName(n int) string { return namePrefix + strconv.Itoa(n) }

// failedInARow counts the last containers that failed by themselves: the runtime could
// not start them (126 to 128), or the program gave up. From 129 on it is a signal, or a
// restarted node.
func failedInARow(all []prober) int {
	n := 0
	for _, c := range slices.Backward(all) {
		t := c.state.Terminated
		if t == nil || t.ExitCode <= 0 || t.ExitCode > 128 {
			break
		}
		n++
	}
	return n
}

func ending(t *corev1.ContainerStateTerminated) string {
	s := fmt.Sprintf("exit code %d (%s)", t.ExitCode, t.Reason)
	if m := strings.TrimSpace(t.Message); m != "" {
		s += ": " + m
	}
	return s
}

// container is the ephemeral container as it is added to the pod.
func container(name string, pod *corev1.Pod, cfg Config) corev1.EphemeralContainer {
	yes, no, id := true, false, int64(user)
	return corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name:            name,
		Image:           cfg.Image,
		ImagePullPolicy: corev1.PullPolicy(cfg.PullPolicy),
		Command:         []string{program, "serve", "-idle", cfg.Idle.String(), "-socket", socket(name, pod)},
		// So that the container's status says why it failed.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		SecurityContext: &corev1.SecurityContext{
			RunAsNonRoot: &yes, RunAsUser: &id, RunAsGroup: &id,
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
	}}
}

// socket is where a try reaches its container's serve. The name is known in the whole
// network namespace, which pods on the host's network share with each other.
func socket(container string, pod *corev1.Pod) string { return container + "." + string(pod.UID) }

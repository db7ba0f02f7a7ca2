package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
)

// ReadyPods are the pods with these labels that are ready and not about to go, by
// name. None is not an error.
func (c *Client) ReadyPods(ctx context.Context, namespace, labelSelector string) ([]corev1.Pod, error) {
	list, err := c.clientset.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelSelector})
	if err != nil {
		return nil, fmt.Errorf("kube: list the pods of namespace %s with labels %q: %w", namespace, labelSelector, err)
	}
	pods := slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return !isReady(p) })
	slices.SortFunc(pods, func(a, b corev1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return pods, nil
}

// WaitGone waits until a namespace has no pod with these labels.
func (c *Client) WaitGone(ctx context.Context, namespace, labelSelector string) error {
	return Wait(ctx, fmt.Sprintf("the end of the pods of namespace %s with labels %q", namespace, labelSelector), time.Second, func(ctx context.Context) (bool, string, error) {
		list, err := c.clientset.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labelSelector})
		if err != nil {
			return false, "", err
		}
		return len(list.Items) == 0, fmt.Sprintf("%d pods", len(list.Items)), nil
	})
}

func isReady(p corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning &&
		slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		})
}

// worstPod says which pod is furthest from being ready, why, and its last warning.
// It is best effort, and "" where all are ready.
func (c *Client) worstPod(ctx context.Context, namespace string, selector *metav1.LabelSelector) string {
	labels, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return ""
	}
	list, err := c.clientset.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.String()})
	if err != nil {
		return "its pods cannot be listed: " + err.Error()
	}
	if len(list.Items) == 0 {
		return "it has no pods" // its own events tell why: quota, admission
	}
	var worst corev1.Pod
	var worstRank int
	var reason string
	for _, p := range list.Items {
		if rank, why := trouble(p); rank > worstRank {
			worst, worstRank, reason = p, rank, why
		}
	}
	if worstRank == 0 {
		return ""
	}
	said := fmt.Sprintf("pod %s on node %q: %s", worst.Name, worst.Spec.NodeName, reason)
	if event := c.lastWarning(ctx, worst); event != "" {
		said += "; last event: " + event
	}
	return said
}

// Trouble says what keeps a pod from being ready, "" where it is.
func Trouble(p corev1.Pod) string {
	_, said := trouble(p)
	return said
}

// trouble ranks what is wrong with a pod (0: nothing) and says it.
func trouble(p corev1.Pod) (int, string) {
	if p.DeletionTimestamp != nil {
		return 1, "is being deleted"
	}
	if isReady(p) {
		return 0, ""
	}
	best, said := 2, fmt.Sprintf("phase %s, not ready", p.Status.Phase)
	note := func(rank int, why string) {
		if rank > best {
			best, said = rank, why
		}
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			note(4, fmt.Sprintf("%s: %s", c.Reason, c.Message))
		}
	}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		switch w, t := s.State.Waiting, s.State.Terminated; {
		case w != nil && (w.Reason == "ContainerCreating" || w.Reason == "PodInitializing"):
			note(3, fmt.Sprintf("container %s: %s", s.Name, w.Reason))
		case w != nil:
			why := fmt.Sprintf("container %s waits: %s", s.Name, w.Reason)
			if w.Message != "" {
				why += " (" + strings.TrimSpace(w.Message) + ")"
			}
			if last := s.LastTerminationState.Terminated; last != nil {
				why += fmt.Sprintf(", ended before with exit code %d", last.ExitCode)
				if last.Message != "" {
					why += " (" + strings.TrimSpace(last.Message) + ")"
				}
			}
			note(6, why)
		case t != nil && t.ExitCode != 0:
			note(5, fmt.Sprintf("container %s ended with exit code %d (%s)", s.Name, t.ExitCode, t.Reason))
		}
	}
	return best, said
}

// lastWarning is the newest Warning event of a pod.
func (c *Client) lastWarning(ctx context.Context, p corev1.Pod) string {
	events, err := c.clientset.CoreV1().Events(p.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.kind": "Pod", "involvedObject.name": p.Name, "type": corev1.EventTypeWarning}.String(),
	})
	if err != nil || len(events.Items) == 0 {
		return ""
	}
	newest := slices.MaxFunc(events.Items, func(a, b corev1.Event) int { return eventTime(a).Compare(eventTime(b).Time) })
	return fmt.Sprintf("%s: %s", newest.Reason, strings.TrimSpace(newest.Message))
}

func eventTime(e corev1.Event) metav1.Time {
	switch {
	case e.Series != nil:
		return metav1.Time(e.Series.LastObservedTime)
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp
	case !e.EventTime.IsZero():
		return metav1.Time(e.EventTime)
	}
	return e.CreationTimestamp
}

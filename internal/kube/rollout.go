package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// rolloutInterval is short, for others wait in turn for what is rolled out.
const rolloutInterval = 250 * time.Millisecond

// progress is how far a rollout has come.
type progress struct {
	done     bool
	saw      string
	selector *metav1.LabelSelector
}

// WaitRollout waits until the DaemonSet, Deployment or StatefulSet runs its newest
// template on all its pods and they are available. A DaemonSet that wants no pod yet is
// not done. One that is not there yet is waited for. When ctx ends first, the error tells
// the counts and why the worst of its pods is not ready.
func (c *Client) WaitRollout(ctx context.Context, kind, namespace, name string) error {
	look, err := c.rolloutProbe(kind, namespace, name)
	if err != nil {
		return err
	}
	var last progress
	err = Wait(ctx, fmt.Sprintf("the rollout of %s %s/%s", kind, namespace, name), rolloutInterval,
		func(ctx context.Context) (bool, string, error) {
			p, err := look(ctx)
			if err == nil {
				last = p
			}
			if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
				err = Permanent(err)
			}
			return p.done, p.saw, err
		})
	if err == nil {
		return nil
	}
	if last.selector != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		// The time is up, and the reason is what the reader needs.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if worst := c.worstPod(ctx, namespace, last.selector); worst != "" {
			err = fmt.Errorf("%w; %s", err, worst)
		}
	}
	return err
}

func (c *Client) rolloutProbe(kind, namespace, name string) (func(context.Context) (progress, error), error) {
	apps := c.clientset.AppsV1()
	switch kind {
	case "DaemonSet":
		return func(ctx context.Context) (progress, error) {
			o, err := apps.DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return progress{}, err
			}
			return daemonSetProgress(o), nil
		}, nil
	case "Deployment":
		return func(ctx context.Context) (progress, error) {
			o, err := apps.Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return progress{}, err
			}
			return deploymentProgress(o), nil
		}, nil
	case "StatefulSet":
		return func(ctx context.Context) (progress, error) {
			o, err := apps.StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return progress{}, err
			}
			return statefulSetProgress(o), nil
		}, nil
	}
	return nil, errors.New("kube: wait for a rollout of kind " + kind + ": only DaemonSet, Deployment and StatefulSet have one")
}

func daemonSetProgress(o *appsv1.DaemonSet) progress {
	s := o.Status
	want, updated := s.DesiredNumberScheduled, s.UpdatedNumberScheduled
	if o.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		updated = want // pods of the old template stay by intent
	}
	return newProgress(o.Spec.Selector, o.Generation, s.ObservedGeneration,
		want > 0 && updated >= want && s.NumberAvailable >= want,
		fmt.Sprintf("%d of %d pods available, %d updated", s.NumberAvailable, want, s.UpdatedNumberScheduled))
}

func deploymentProgress(o *appsv1.Deployment) progress {
	s, want := o.Status, replicas(o.Spec.Replicas)
	saw := fmt.Sprintf("%d of %d pods available, %d updated, %d in all", s.AvailableReplicas, want, s.UpdatedReplicas, s.Replicas)
	for _, c := range s.Conditions {
		if c.Status != "True" && c.Message != "" {
			saw += fmt.Sprintf("; %s: %s", c.Type, c.Message)
		}
	}
	return newProgress(o.Spec.Selector, o.Generation, s.ObservedGeneration,
		s.UpdatedReplicas >= want && s.Replicas <= s.UpdatedReplicas && s.AvailableReplicas >= want, saw)
}

func statefulSetProgress(o *appsv1.StatefulSet) progress {
	s, want := o.Status, replicas(o.Spec.Replicas)
	updated := s.UpdatedReplicas
	if s.UpdateRevision == s.CurrentRevision || o.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		updated = want
	} else if u := o.Spec.UpdateStrategy.RollingUpdate; u != nil && u.Partition != nil {
		updated += min(*u.Partition, want)
	}
	return newProgress(o.Spec.Selector, o.Generation, s.ObservedGeneration,
		updated >= want && s.AvailableReplicas >= want,
		fmt.Sprintf("%d of %d pods available, %d updated", s.AvailableReplicas, want, s.UpdatedReplicas))
}

func newProgress(selector *metav1.LabelSelector, generation, observed int64, done bool, saw string) progress {
	if observed < generation {
		// The counts are still those of the object before its last change.
		return progress{selector: selector, saw: "its controller has not yet seen the last change"}
	}
	return progress{selector: selector, done: done, saw: saw}
}

// replicas is a count whose absence means 1.
func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

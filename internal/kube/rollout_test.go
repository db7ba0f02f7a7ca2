package kube

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestProgress(t *testing.T) {
	three := int32(3)
	zero := int32(0)
	meta := metav1.ObjectMeta{Generation: 2}
	for _, tt := range []struct {
		what string
		p    progress
		done bool
		saw  string
	}{
		{"daemon set: all", daemonSetProgress(&appsv1.DaemonSet{ObjectMeta: meta, Status: appsv1.DaemonSetStatus{
			ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}}), true, "3 of 3"},
		{"daemon set: old pods left", daemonSetProgress(&appsv1.DaemonSet{ObjectMeta: meta, Status: appsv1.DaemonSetStatus{
			ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 2, NumberAvailable: 3}}), false, "2 updated"},
		{"daemon set: old pods are meant to stay", daemonSetProgress(&appsv1.DaemonSet{ObjectMeta: meta,
			Spec: appsv1.DaemonSetSpec{UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}},
			Status: appsv1.DaemonSetStatus{
				ObservedGeneration: 2, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 2, NumberAvailable: 3}}), true, "2 updated"},
		{"daemon set: no node wants it", daemonSetProgress(&appsv1.DaemonSet{ObjectMeta: meta, Status: appsv1.DaemonSetStatus{ObservedGeneration: 2}}), false, "0 of 0"},
		{"daemon set: not yet seen", daemonSetProgress(&appsv1.DaemonSet{ObjectMeta: meta, Status: appsv1.DaemonSetStatus{
			ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3}}), false, "not yet seen"},
		{"deployment: all", deploymentProgress(&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &three},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3}}), true, "3 of 3"},
		{"deployment: an old pod still goes", deploymentProgress(&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &three},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 4, UpdatedReplicas: 3, AvailableReplicas: 3}}), false, "4 in all"},
		{"deployment: tells a bad condition", deploymentProgress(&appsv1.Deployment{ObjectMeta: meta,
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2, Conditions: []appsv1.DeploymentCondition{
				{Type: "Available", Status: "False", Message: "no minimum availability"}, {Type: "Progressing", Status: "True", Message: "fine"}}}}), false, "; Available: no minimum availability"},
		{"deployment: none wanted", deploymentProgress(&appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Replicas: &zero},
			Status: appsv1.DeploymentStatus{ObservedGeneration: 2}}), true, "0 of 0"},
		{"stateful set: all, one by default", statefulSetProgress(&appsv1.StatefulSet{ObjectMeta: meta,
			Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, AvailableReplicas: 1, CurrentRevision: "a", UpdateRevision: "a"}}), true, "1 of 1"},
		{"stateful set: the update goes on", statefulSetProgress(&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &three},
			Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, AvailableReplicas: 3, UpdatedReplicas: 1, CurrentRevision: "a", UpdateRevision: "b"}}), false, "1 updated"},
		{"stateful set: not all there", statefulSetProgress(&appsv1.StatefulSet{ObjectMeta: meta, Spec: appsv1.StatefulSetSpec{Replicas: &three},
			Status: appsv1.StatefulSetStatus{ObservedGeneration: 2, AvailableReplicas: 2, UpdatedReplicas: 3, CurrentRevision: "b", UpdateRevision: "b"}}), false, "2 of 3"},
	} {
		if tt.p.done != tt.done || !strings.Contains(tt.p.saw, tt.saw) {
			t.Errorf("%s: done %t, saw %q", tt.what, tt.p.done, tt.p.saw)
		}
	}
}

func pod(name string, ready bool, change func(*corev1.Pod)) corev1.Pod {
	p := corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "a", Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{NodeName: "node-of-" + name},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse}}},
	}
	if ready {
		p.Status.Conditions[0].Status = corev1.ConditionTrue
	}
	if change != nil {
		change(&p)
	}
	return p
}

func TestWaitRollout(t *testing.T) {
	f, c := newFake(t)
	const path = "/apis/apps/v1/namespaces/a/daemonsets/x"
	ds := appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{Kind: "DaemonSet", APIVersion: "apps/v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "a", Generation: 1},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}},
		Status:     appsv1.DaemonSetStatus{ObservedGeneration: 1, DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 1},
	}
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}

	says(t, c.WaitRollout(t.Context(), "Job", "a", "x"), "Job", "DaemonSet, Deployment and StatefulSet")
	says(t, c.WaitRollout(short(), "DaemonSet", "a", "x"), "rollout of DaemonSet a/x", "not found")

	f.put(t, path, ds)
	says(t, c.WaitRollout(short(), "DaemonSet", "a", "x"), "1 of 3 pods available", "it has no pods")

	f.put(t, "/api/v1/namespaces/a/pods/good", pod("good", true, nil))
	f.put(t, "/api/v1/namespaces/a/pods/slow", pod("slow", false, nil))
	f.put(t, "/api/v1/namespaces/a/pods/bad", pod("bad", false, func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{
			Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImageNeverPull", Message: "Container image \"x:1\" is not present"}}}}
	}))
	event := func(reason string, at time.Time) corev1.Event {
		return corev1.Event{TypeMeta: metav1.TypeMeta{Kind: "Event", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: reason, Namespace: "a"},
			Reason: reason, Message: "because", LastTimestamp: metav1.NewTime(at)}
	}
	f.put(t, "/api/v1/namespaces/a/events/1", event("Newer", time.Unix(2000, 0)))
	f.put(t, "/api/v1/namespaces/a/events/2", event("Older", time.Unix(1000, 0)))
	var asked string
	f.mu.Lock()
	f.before = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/events") {
			asked = r.URL.Query().Get("fieldSelector")
		}
		return false
	}
	f.mu.Unlock()
	says(t, c.WaitRollout(short(), "DaemonSet", "a", "x"), "1 of 3 pods available",
		`pod bad on node "node-of-bad": container main waits: ErrImageNeverPull (Container image "x:1" is not present)`, "last event: Newer: because")
	if !strings.Contains(asked, "involvedObject.name=bad") || !strings.Contains(asked, "type=Warning") {
		t.Errorf("events were asked for with %q", asked)
	}

	ds.Status.NumberAvailable = 3
	f.put(t, path, ds)
	if err := c.WaitRollout(t.Context(), "DaemonSet", "a", "x"); err != nil {
		t.Error(err)
	}
}

func TestWaitRolloutStopsWhereItMayNotLook(t *testing.T) {
	f, c := newFake(t)
	f.before = func(w http.ResponseWriter, _ *http.Request) bool {
		answerStatus(w, http.StatusForbidden, metav1.StatusReasonForbidden, "user cannot get deployments", nil)
		return true
	}
	says(t, c.WaitRollout(t.Context(), "Deployment", "a", "x"), "user cannot get deployments")
}

func TestTrouble(t *testing.T) {
	waiting := func(reason string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "m", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3, Message: "no config"}}}}
		}
	}
	// From the best to the worst.
	ranked := []struct {
		p    corev1.Pod
		says string
	}{
		{pod("ready", true, nil), ""},
		{pod("going", true, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }), "being deleted"},
		{pod("slow", false, nil), "phase Running, not ready"},
		{pod("creating", false, waiting("ContainerCreating")), "container m: ContainerCreating"},
		{pod("nowhere", false, func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes"})
		}), "Unschedulable: 0/3 nodes"},
		{pod("ended", false, func(p *corev1.Pod) {
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "i", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error"}}}}
		}), "container i ended with exit code 1 (Error)"},
		{pod("loop", false, waiting("CrashLoopBackOff")), "container m waits: CrashLoopBackOff, ended before with exit code 3 (no config)"},
	}
	last := -1
	for _, r := range ranked {
		rank, said := trouble(r.p)
		if rank <= last || !strings.Contains(said, r.says) {
			t.Errorf("%s: rank %d (after %d), %q", r.p.Name, rank, last, said)
		}
		last = rank
	}
}

func TestReadyPods(t *testing.T) {
	f, c := newFake(t)
	for _, p := range []corev1.Pod{
		pod("z", true, nil), pod("b", true, nil), pod("not", false, nil),
		pod("going", true, func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }),
		pod("done", true, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
	} {
		f.put(t, "/api/v1/namespaces/a/pods/"+p.Name, p)
	}
	pods, err := c.ReadyPods(t.Context(), "a", "app=x")
	if err != nil {
		t.Fatal(err)
	}
	if len(pods) != 2 || pods[0].Name != "b" || pods[1].Name != "z" {
		t.Errorf("ready: %v", pods)
	}
	if pods, err := c.ReadyPods(t.Context(), "empty", ""); err != nil || len(pods) != 0 {
		t.Errorf("none: %v, %v", pods, err)
	}
	f.mu.Lock()
	f.before = func(w http.ResponseWriter, _ *http.Request) bool {
		answerStatus(w, http.StatusForbidden, metav1.StatusReasonForbidden, "user cannot list", nil)
		return true
	}
	f.mu.Unlock()
	_, err = c.ReadyPods(t.Context(), "a", "app=x")
	says(t, err, "namespace a", `"app=x"`, "user cannot list")
}

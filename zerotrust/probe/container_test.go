package probe

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// has is a pod with these ephemeral containers, each as "name image state", where the
// state is missing, "running", "unstartable", a number (it ended with that exit code), or
// why it waits.
func has(containers ...string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "p", UID: "u1"},
		Spec:       corev1.PodSpec{NodeName: "node1"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, c := range containers {
		f := strings.Fields(c)
		pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, corev1.EphemeralContainer{
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: f[0], Image: f[1], ImagePullPolicy: corev1.PullNever},
		})
		if len(f) < 3 {
			continue
		}
		var state, last corev1.ContainerState
		switch codes := map[string]int32{"0": 0, "1": 1, "128": 128, "137": 137, "255": 255}; {
		case f[2] == "running":
			state.Running = &corev1.ContainerStateRunning{}
		case f[2][0] >= '0' && f[2][0] <= '9':
			state.Terminated = &corev1.ContainerStateTerminated{ExitCode: codes[f[2]], Reason: "Error", Message: "it said this\n"}
		case f[2] == "unstartable": // as the kubelet of Kubernetes 1.37 has it
			state.Waiting = &corev1.ContainerStateWaiting{Reason: "RunContainerError", Message: "no such file"}
			last.Terminated = &corev1.ContainerStateTerminated{ExitCode: 128, Reason: "StartError", Message: "no such file"}
		default:
			state.Waiting = &corev1.ContainerStateWaiting{Reason: f[2], Message: "because"}
		}
		pod.Status.EphemeralContainerStatuses = append(pod.Status.EphemeralContainerStatuses, corev1.ContainerStatus{Name: f[0], State: state, LastTerminationState: last})
	}
	return pod
}

func TestDecide(t *testing.T) {
	const z = "zerotrust-probe-"
	going := has()
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	done := has(z + "1 i running")
	done.Status.Phase = corev1.PodSucceeded
	for _, tt := range []struct {
		what string
		pod  *corev1.Pod
		want step
		says string // of the step or of the error
	}{
		{"none", has(), step{add: z + "1"}, ""},
		{"others' alone", has("debugger-abc i running", z+"x i running", z+"01 i running", z+" i running"), step{add: z + "1"}, ""},
		{"one that runs", has(z + "1 i running"), step{use: z + "1"}, ""},
		{"two that run", has(z+"2 i running", z+"1 i running"), step{use: z + "2"}, ""},
		{"an older one that runs", has(z+"1 i running", z+"2 j running", z+"3 i 0"), step{use: z + "1"}, ""},
		{"another image", has(z + "1 j running"), step{add: z + "2"}, ""},
		{"another image that waits", has(z + "1 j ErrImageNeverPull"), step{add: z + "2"}, ""},
		{"one that ended", has(z + "1 i 0"), step{add: z + "2"}, ""},
		{"beyond nine, in any order", has(z+"10 i 0", z+"9 i 0"), step{add: z + "11"}, ""},
		{"one unreported", has(z + "1 i"), step{}, `zerotrust-probe-1 is not reported yet, pod Running on node "node1"`},
		{"one on its way", has(z + "1 i ContainerCreating"), step{}, "zerotrust-probe-1 on node node1: ContainerCreating: because"},
		{"one on its way, another image after it", has(z+"1 i ContainerCreating", z+"2 j"), step{}, "zerotrust-probe-1"},
		{"one that cannot be pulled", has(z + "1 i ImagePullBackOff"), step{}, "node node1 cannot pull image i, so load it there"},
		{"one that must not be pulled", has(z + "1 i ErrImageNeverPull"), step{}, "image i, which node node1 does not have and may not pull: load it into the node"},
		{"no image", has(z + "1 i InvalidImageName"), step{}, `Config.Image "i" is no image reference`},
		{"two failures", has(z+"1 i 1", z+"2 i 128"), step{add: z + "3"}, ""},
		{"one that did not start", has(z + "1 i unstartable"), step{add: z + "2"}, ""},
		{"three that did not start", has(z+"1 i unstartable", z+"2 i unstartable", z+"3 i unstartable"), step{}, "zerotrust-probe-3 with exit code 128 (StartError): no such file"},
		{"three failures", has(z+"1 i 1", z+"2 j running", z+"3 i 128", z+"4 i 1"), step{}, "the last 3 containers of image i failed there, container zerotrust-probe-4 with exit code 1 (Error): it said this"},
		{"three failures, not in a row", has(z+"1 i 1", z+"2 i 0", z+"3 i 1", z+"4 i 1"), step{add: z + "5"}, ""},
		{"three failures of another image", has(z+"1 j 1", z+"2 j 1", z+"3 j 1"), step{add: z + "4"}, ""},
		{"three ended by others", has(z+"1 i 137", z+"2 i 255", z+"3 i 137"), step{add: z + "4"}, ""},
		{"a pod that goes", going, step{}, "is being deleted"},
		{"a pod that is done", done, step{}, "has ended (Succeeded)"},
	} {
		got, err := decide(tt.pod, Config{Image: "i", PullPolicy: "Never"})
		said := got.saw
		if err != nil {
			said = err.Error()
		}
		got.saw = ""
		if got != tt.want || !strings.Contains(said, tt.says) || (said == "") != (tt.says == "") {
			t.Errorf("%s: %+v, %q; want %+v, %q", tt.what, got, said, tt.want, tt.says)
		}
	}
	// A container that waits is of no use to whom may pull.
	got, err := decide(has(z+"1 i ErrImageNeverPull"), Config{Image: "i", PullPolicy: "IfNotPresent"})
	if err != nil || got.add != z+"2" {
		t.Errorf("%+v, %v", got, err)
	}
}

// What Pod Security's level "restricted" asks of a container:
// https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
func TestContainer(t *testing.T) {
	pod := has()
	pod.UID = types.UID("0f3c")
	got := container("zerotrust-probe-7", pod, Config{Image: "r.example/prober:1", PullPolicy: "Never", Idle: 10 * time.Minute})
	yes, no, id := true, false, int64(65532)
	want := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "zerotrust-probe-7", Image: "r.example/prober:1", ImagePullPolicy: "Never",
		Command:                  []string{"/app/prober", "serve", "-idle", "10m0s", "-socket", "zerotrust-probe-7.0f3c"},
		TerminationMessagePolicy: "FallbackToLogsOnError",
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no,
			Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			RunAsNonRoot:             &yes,
			RunAsUser:                &id,
			RunAsGroup:               &id,
			SeccompProfile:           &corev1.SeccompProfile{Type: "RuntimeDefault"},
			ReadOnlyRootFilesystem:   &yes,
		},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

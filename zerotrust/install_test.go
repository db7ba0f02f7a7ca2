package zerotrust

import (
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// bareNode is one whose cluster has no network yet.
func bareNode(name string) corev1.Node {
	return corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: "10.1.0.0/24"},
		Status: corev1.NodeStatus{
			NodeInfo: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: runtime.GOARCH},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionFalse,
				Message: "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized"}},
		},
	}
}

func TestUnfit(t *testing.T) {
	in := Precinct99()
	isDefault := storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}}}
	for what, tt := range map[string]struct {
		change func(*found)
		want   []string // one for each reason
	}{
		"a bare cluster":        {func(*found) {}, nil},
		"an earlier run's work": {func(f *found) { f.claim, f.others, f.nodes[0].Status.Conditions = in.Name, []string{"Cilium"}, nil }, nil},
		"no rights":             {func(f *found) { f.mayNotDo = []string{"do this", "do that"} }, []string{"may not do this, nor do that"}},
		"an old one":            {func(f *found) { f.version = "v1.32.9" }, []string{"Kubernetes is v1.32.9, want 1.33 or later: SPIRE"}},
		"one of a provider":     {func(f *found) { f.version = "v1.33.1-gke.100" }, nil},
		"no version":            {func(f *found) { f.version = "x" }, []string{"Kubernetes is x"}},
		"no nodes":              {func(f *found) { f.nodes = nil }, []string{"no nodes"}},
		"no ranges":             {func(f *found) { f.nodes[1].Spec.PodCIDR = "" }, []string{"node b has no range"}},
		"another architecture":  {func(f *found) { f.nodes[1].Status.NodeInfo.Architecture = "s390x" }, []string{"node b is linux/s390x"}},
		"nowhere to keep data":  {func(f *found) { f.classes[0].Annotations = nil }, []string{"no default StorageClass"}},
		"host-path alone":       {func(f *found) { f.classes[0].Provisioner = "kubernetes.io/host-path" }, []string{"other than host-path"}},
		"another intent":        {func(f *found) { f.claim = "other" }, []string{`kept for the intent "other"`}},
		"another network":       {func(f *found) { f.nodes[0].Status.Conditions[0].Status = corev1.ConditionTrue }, []string{"node a is ready, so that it has a network already"}},
		"another Cilium": {func(f *found) {
			f.others = []string{"Cilium (pod x/y)"}
			f.nodes[0].Status.Conditions[0].Status = corev1.ConditionTrue
		}, []string{"Cilium (pod x/y) is there, by somebody else"}},
		"a sick node":              {func(f *found) { f.nodes[0].Status.Conditions[0].Message = "kubelet stopped posting" }, []string{"node a is not ready: kubelet stopped posting"}},
		"a node that says nothing": {func(f *found) { f.nodes[0].Status.Conditions = nil }, []string{"node a is not ready: its kubelet has not reported"}},
		"several at once":          {func(f *found) { f.version, f.nodes[0].Spec.PodCIDR = "v1.20.0", "" }, []string{"v1.20.0", "node a has no range"}},
	} {
		f := found{version: "v1.37.2", nodes: []corev1.Node{bareNode("a"), bareNode("b")}, classes: []storagev1.StorageClass{*isDefault.DeepCopy()}}
		tt.change(&f)
		got := f.unfit(in)
		if len(got) != len(tt.want) {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], tt.want[i]) {
				t.Errorf("%s: %q, want %q", what, got, tt.want)
			}
		}
	}
	in.Workloads = nil
	if f := (found{version: "v1.37.2", nodes: []corev1.Node{bareNode("a")}}); len(f.unfit(in)) > 0 {
		t.Errorf("an intent without servers needs no storage: %q", f.unfit(in))
	}
}

func TestInRegistry(t *testing.T) {
	cfg := Config{Registry: "reg.example:5000/team/"}
	for ref, want := range map[string]string{
		"quay.io/cilium/cilium:v1":              "reg.example:5000/team/quay.io/cilium/cilium:v1",
		"docker.io/library/postgres:15":         "reg.example:5000/team/docker.io/library/postgres:15",
		"zerotrust.local/precinct-99/backend:a": "reg.example:5000/team/precinct-99/backend:a",
	} {
		if got := cfg.inRegistry(ref); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
	kind := &Stack{}
	if got := kind.image(AgentImage); got != AgentImage {
		t.Errorf("on kind's nodes: %s", got)
	}
}

func TestNewRefusesHalfAnInstallation(t *testing.T) {
	in := Precinct99()
	for want, cfg := range map[string]Config{
		"Config.Cluster is required":          {Intent: in, Registry: "reg.example/x", Dir: t.TempDir(), SourceDir: ".."},
		"Config.ProberImage, or Registry":     {Intent: in, Cluster: &rest.Config{}},
		"Config.Dir and Config.SourceDir are": {Intent: in, Cluster: &rest.Config{}, Registry: "reg.example/x"},
	} {
		if s, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, %v; want %q", s, err, want)
		}
	}
}

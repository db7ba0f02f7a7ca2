package zerotrust

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

func TestWaysTo(t *testing.T) {
	pod := corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "gateway-x", Labels: map[string]string{"app": "gateway"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}}},
		Status:     corev1.PodStatus{PodIP: "10.0.0.1", HostIP: "192.0.2.1"},
	}
	service := func(selector string, spec corev1.ServiceSpec) corev1.Service {
		spec.Selector = map[string]string{"app": selector}
		return corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "public"}, Spec: spec}
	}
	balanced := service("gateway", corev1.ServiceSpec{ExternalIPs: []string{"198.51.100.7"}, Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP", TargetPort: intstr.FromString("http"), NodePort: 30880}}})
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.9"}, {Hostname: "lb.example"}}
	for what, tt := range map[string]struct {
		services []corev1.Service
		port     Port
		want     []string
	}{
		"no Service": {nil, TCP(8080), []string{"10.0.0.1:8080"}},
		"a load balancer, an external address and a node port": {[]corev1.Service{balanced}, TCP(8080),
			[]string{"203.0.113.9:80", "lb.example:80", "198.51.100.7:80", "192.0.2.1:30880", "10.0.0.1:8080"}},
		"by number": {[]corev1.Service{service("gateway", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8080, NodePort: 30001}}})}, TCP(8080),
			[]string{"192.0.2.1:30001", "10.0.0.1:8080"}},
		"another port's":     {[]corev1.Service{balanced}, TCP(9090), []string{"10.0.0.1:9090"}},
		"another protocol's": {[]corev1.Service{balanced}, UDP(8080), []string{"10.0.0.1:8080"}},
		"another workload's": {[]corev1.Service{service("queue", balanced.Spec)}, TCP(8080), []string{"10.0.0.1:8080"}},
		"inside alone":       {[]corev1.Service{service("gateway", corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8080}}})}, TCP(8080), []string{"10.0.0.1:8080"}},
	} {
		var got []string
		for _, w := range waysTo(tt.port, pod, tt.services) {
			got = append(got, w.address)
			if w.direct != (w.address == fmt.Sprintf("10.0.0.1:%d", tt.port.Number)) {
				t.Errorf("%s: %+v", what, w)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", what, got, tt.want)
		}
	}
}

// Nothing passes or fails without Hubble's account of the very attempt, or, where others put
// their address in the place of ours, of what got in at the same moment.
func TestJudgeFromHere(t *testing.T) {
	const port = 40000
	connected, silent := probe.Attempt{Connected: true, LocalPort: port}, probe.Attempt{Kind: probe.KindTimeout, LocalPort: port}
	refused, nowhere := probe.Attempt{Kind: probe.KindRefused, LocalPort: port}, probe.Attempt{Kind: probe.KindOther}
	flow := func(verdict, reason, label string, from uint16, pod string) *cilium.Flow {
		return &cilium.Flow{Verdict: verdict, DropReason: reason, Direction: "INGRESS", Source: cilium.Party{Port: from, Pod: pod, Labels: []string{label}}}
	}
	let, dropped := flow("FORWARDED", "", "reserved:world", port, ""), flow("DROPPED", "POLICY_DENIED", "reserved:world-ipv4", port, "")
	translated, dropped2 := flow("FORWARDED", "", "reserved:host", 7, ""), flow("DROPPED", "POLICY_DENIED", "reserved:remote-node", 7, "")
	inside, node := flow("DROPPED", "POLICY_DENIED", "k8s:app=x", port, "verify"), flow("DROPPED", "POLICY_DENIED", "reserved:host", port, "")
	other := flow("DROPPED", "NO_TUNNEL_OR_ENCAPSULATION_ENDPOINT", "reserved:world", port, "")
	service, direct := way{}, way{direct: true}
	unknown, passed, failed := phase.Unknown, phase.Passed, phase.Failed
	for _, tt := range []struct {
		what            string
		by              way
		r               probe.Attempt
		told            *cilium.Flow
		udp             bool
		allowed, denied phase.Status // of an edge that is
	}{
		{"connected and let in", direct, connected, let, false, passed, failed},
		{"connected, by a Service, and let in", service, connected, translated, false, passed, failed},
		{"something answered", direct, connected, nil, false, unknown, unknown},
		{"silence", direct, silent, nil, false, unknown, unknown},
		{"no route", direct, nowhere, nil, false, unknown, unknown},
		{"refused on the way", service, refused, nil, false, unknown, unknown},
		{"refused by the pod", direct, refused, let, false, unknown, failed},
		{"dropped by policy", direct, silent, dropped, false, failed, passed},
		{"dropped by policy, by a Service", service, silent, dropped, false, failed, passed},
		{"refused by policy", direct, refused, dropped, false, failed, passed},
		{"another's drop", service, silent, dropped2, false, unknown, unknown},
		{"dropped for another reason", direct, silent, other, false, unknown, unknown},
		{"from within the cluster", direct, silent, inside, false, unknown, unknown},
		{"from a node", direct, silent, node, false, unknown, unknown},
		{"over UDP, let in", direct, silent, let, true, passed, failed},
	} {
		for _, allowed := range []bool{true, false} {
			cell := Cell{From: Outside, To: "queue", Port: Port{Number: 5672, UDP: tt.udp}, Allowed: allowed}
			want := tt.denied
			if allowed {
				want = tt.allowed
			}
			if v := judgeFromHere(cell, tt.by, tt.r, tt.told); v.status != want || v.why == "" {
				t.Errorf("%s, allowed %t: %s (%s), want %s", tt.what, allowed, v.status, v.why, want)
			}
		}
	}
}

func TestSumFromHere(t *testing.T) {
	v := func(s phase.Status) verdict { return verdict{s, "by " + s.String()} }
	for _, tt := range []struct {
		allowed bool
		all     []verdict
		want    phase.Status
		says    string
	}{
		{true, []verdict{v(phase.Unknown), v(phase.Passed)}, phase.Passed, ""},
		{true, []verdict{v(phase.Failed), v(phase.Passed)}, phase.Passed, ""},
		{true, []verdict{v(phase.Unknown), v(phase.Failed)}, phase.Failed, "by failed"},
		{true, []verdict{v(phase.Unknown)}, phase.Unknown, "by unknown"},
		{false, []verdict{v(phase.Passed), v(phase.Failed)}, phase.Failed, "by failed"},
		{false, []verdict{v(phase.Unknown), v(phase.Passed)}, phase.Passed, ""},
		{false, []verdict{v(phase.Unknown), v(phase.Unknown)}, phase.Unknown, "by unknown; by unknown"},
		{false, nil, phase.Unknown, ""},
	} {
		_, err := sumFromHere(Cell{Allowed: tt.allowed}, tt.all)
		if statusOf(err) != tt.want || tt.says != "" && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

// The flow that counts: never another's where nothing connected, a drop before what was seen
// on the way, and ours before another's.
func TestToldOf(t *testing.T) {
	s := &Stack{cfg: Config{Intent: orders(false)}}
	cell := Cell{From: Outside, To: "queue", Port: TCP(5672)}
	flow := func(id, verdict, direction string, from uint16, pod string) cilium.Flow {
		return cilium.Flow{UUID: id, Verdict: verdict, Direction: direction, Protocol: "TCP", Source: cilium.Party{Port: from, Pod: pod},
			Destination: cilium.Party{Namespace: "shop", Port: 5672, Labels: []string{"k8s:" + accountLabel + "=queue"}}}
	}
	elsewhere := flow("elsewhere", "FORWARDED", "INGRESS", 7, "")
	elsewhere.Destination.Labels = []string{"k8s:" + accountLabel + "=other"}
	const port = 40000
	for _, tt := range []struct {
		what              string
		flows             []cilium.Flow
		connected, direct bool
		want              string
	}{
		{"a drop, after it was seen on the way", []cilium.Flow{flow("way", "FORWARDED", "", port, ""), flow("let", "FORWARDED", "INGRESS", port, ""), flow("drop", "DROPPED", "INGRESS", port, "")}, false, true, "drop"},
		{"let in, and no drop", []cilium.Flow{flow("way", "FORWARDED", "EGRESS", port, ""), flow("let", "FORWARDED", "INGRESS", port, "")}, false, true, "let"},
		{"only seen on the way", []cilium.Flow{flow("way", "FORWARDED", "EGRESS", port, "")}, false, true, ""},
		{"another's drop", []cilium.Flow{flow("other", "DROPPED", "INGRESS", 7, "")}, false, false, ""},
		{"connected, where no policy is", []cilium.Flow{flow("own", "FORWARDED", "EGRESS", port, "")}, true, true, "own"},
		{"connected, and others did too", []cilium.Flow{flow("other", "FORWARDED", "INGRESS", 7, ""), flow("own", "FORWARDED", "INGRESS", port, "")}, true, false, "own"},
		{"connected by way of others", []cilium.Flow{elsewhere, flow("pod", "FORWARDED", "INGRESS", 7, "billing"), flow("other", "FORWARDED", "INGRESS", 7, "")}, true, false, "other"},
		{"others', where none is on the way", []cilium.Flow{flow("other", "FORWARDED", "INGRESS", 7, "")}, true, true, ""},
	} {
		log := &flowLog{flows: append([]cilium.Flow{flow("earlier", "DROPPED", "INGRESS", port, "")}, tt.flows...), ended: true}
		got := ""
		if f := s.toldOf(t.Context(), log, 1, probe.Attempt{LocalPort: port, Connected: tt.connected}, cell, tt.direct); f != nil {
			got = f.UUID
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.what, got, tt.want)
		}
	}
}

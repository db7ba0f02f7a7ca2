package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

const (
	outsideTimeout = 5 * time.Second // of an allowed attempt: no handshake of SPIRE's delays it
	// outsidePatience is for Hubble: where there is no route, nothing will ever be heard.
	outsidePatience = 6 * time.Second
)

// outsideChecks try the cells from outside from this very process. Whether it is outside, and
// whether there is a way from here to there, is for Hubble to say: without its account of the
// attempt nothing is told.
func (s *Stack) outsideChecks(log *flowLog) []phase.Check {
	var all []phase.Check
	for _, cell := range Matrix(s.cfg.Intent) {
		if cell.From != Outside {
			continue
		}
		c := phase.Check{
			Name: "edge " + cell.String(),
			Edge: &phase.Edge{From: cell.From, To: cell.To, Port: cell.Port.String(), Allowed: cell.Allowed},
			Doc:  "The intent does not allow this edge: from this machine nothing gets through, and Hubble saw that very attempt dropped by policy.",
			Hint: "Run it on a machine outside the cluster that has routes to the pods, or answer for this edge in another way.",
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.proveFromHere(ctx, log, cell) },
		}
		if cell.Allowed {
			c.Doc = "The intent allows this edge: this machine gets through by an address of the workload's Services, or of its pod, and Hubble saw it arrive."
			c.Hint = "Run it on a machine outside the cluster that can reach the Service's address (kubectl get services -A)."
		}
		all = append(all, c)
	}
	return all
}

// way is an address at which a workload may be reached from outside.
type way struct {
	address string // "host:port"
	by      string // in words
	direct  bool   // it is the pod's own: nothing on the way puts another address in its place
}

// waysTo are those by Services, and the pod's own address last.
func waysTo(port Port, pod corev1.Pod, services []corev1.Service) []way {
	var all []way
	add := func(host string, number int32, by string) {
		w := way{address: net.JoinHostPort(host, fmt.Sprint(number)), by: by}
		if host != "" && !slices.ContainsFunc(all, func(o way) bool { return o.address == w.address }) {
			all = append(all, w)
		}
	}
	for _, svc := range services {
		if len(svc.Spec.Selector) == 0 || !labels.SelectorFromSet(svc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			continue
		}
		name := fmt.Sprintf("Service %s/%s", svc.Namespace, svc.Name)
		for _, p := range svc.Spec.Ports {
			if string(p.Protocol) != port.Protocol() && (p.Protocol != "" || port.UDP) || targetOf(p, pod) != port.Number {
				continue
			}
			for _, in := range svc.Status.LoadBalancer.Ingress {
				add(in.IP, p.Port, "load balancer of "+name)
				add(in.Hostname, p.Port, "load balancer of "+name)
			}
			for _, ip := range svc.Spec.ExternalIPs {
				add(ip, p.Port, "external address of "+name)
			}
			if p.NodePort != 0 {
				add(pod.Status.HostIP, p.NodePort, "node port of "+name) // of its own node, as the Service may ask for
			}
		}
	}
	return append(all, way{net.JoinHostPort(pod.Status.PodIP, fmt.Sprint(port.Number)), "pod " + pod.Name, true})
}

// targetOf is the pod's port that a Service's leads to, 0 if it has none of that name.
func targetOf(p corev1.ServicePort, pod corev1.Pod) int {
	if p.TargetPort.Type == intstr.Int {
		if p.TargetPort.IntVal == 0 {
			return int(p.Port)
		}
		return int(p.TargetPort.IntVal)
	}
	for _, c := range pod.Spec.Containers {
		for _, cp := range c.Ports {
			if cp.Name == p.TargetPort.StrVal {
				return int(cp.ContainerPort)
			}
		}
	}
	return 0
}

// proveFromHere tries each way and wants Hubble's account of it.
func (s *Stack) proveFromHere(ctx context.Context, log *flowLog, cell Cell) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "dropped by policy, by Hubble's account, from this machine", Source: "attempt from this process; Hubble Relay"}
	timeout := deniedTimeout
	if cell.Allowed {
		ev.Want, timeout = "connected from this machine, and forwarded by Hubble's account", outsideTimeout
	}
	to, _ := s.cfg.Intent.Workload(cell.To)
	pods, err := s.readyPods(ctx, to)
	if err != nil {
		return ev, err
	}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	services, err := client.Clientset().CoreV1().Services(to.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		err = permission{namespace: to.Namespace, verb: "list", resource: "services"}.named(fmt.Errorf("listing the Services of namespace %s: %w", to.Namespace, err))
		ev.Details = append(ev.Details, err.Error())
		services = &corev1.ServiceList{}
	}
	deaf := log.open(ctx)
	var verdicts []verdict
	for _, w := range waysTo(cell.Port, pods[0], services.Items) {
		target := w.address
		if cell.Port.UDP {
			target = "udp://" + target
		}
		since := log.now()
		r, err := s.here(ctx, target, timeout)
		if err != nil {
			return ev, err
		}
		var told *cilium.Flow
		if deaf == nil && r.LocalPort != 0 {
			told = s.toldOf(ctx, log, since, r, cell, w.direct)
		}
		v := judgeFromHere(cell, w, r, told)
		ev.Details = append(ev.Details, fmt.Sprintf("by the %s (%s): %s: %s", w.by, w.address, r, v.why))
		if told != nil {
			ev.Details = append(ev.Details, told.String())
		}
		if verdicts = append(verdicts, v); v.status == phase.Passed && cell.Allowed {
			break // one is enough
		}
	}
	ev.Got, err = sumFromHere(cell, verdicts)
	var mismatch *phase.Mismatch
	if err == nil || errors.As(err, &mismatch) {
		return ev, err
	}
	if deaf != nil {
		return ev, errors.Join(err, deaf)
	}
	return ev, errors.Join(err, log.complete())
}

// toldOf is the flow that says what became of an attempt, nil for none. Of one that connected
// it is that it was seen on its way into the pod; where others may have put an address of
// theirs in the place of ours, one of the same moment will do. Of any other it is its drop
// or, for want of one, that the pod's own side let it in.
func (s *Stack) toldOf(ctx context.Context, log *flowLog, since int, r probe.Attempt, cell Cell, direct bool) *cilium.Flow {
	to, _ := s.cfg.Intent.Workload(cell.To)
	arrives := func(f cilium.Flow) bool {
		return f.Destination.Namespace == to.Namespace && slices.Contains(f.Destination.Labels, "k8s:"+accountLabel+"="+to.Account()) &&
			f.Protocol == cell.Port.Protocol() && int(f.Destination.Port) == cell.Port.Number
	}
	own := func(f cilium.Flow) bool { return arrives(f) && int(f.Source.Port) == r.LocalPort }
	// Where no policy selects the pod, flows from the world have another direction, or none:
	// https://github.com/cilium/cilium/blob/v1.20.2/pkg/hubble/parser/threefour/parser.go
	first := func(f cilium.Flow) bool { return own(f) && decides(f) }
	better := func(f cilium.Flow) bool { return own(f) && f.Verdict == "DROPPED" }
	if r.Connected {
		first = func(f cilium.Flow) bool {
			return f.Verdict == "FORWARDED" && (own(f) || !direct && arrives(f) && f.Source.Pod == "")
		}
		better = func(f cilium.Flow) bool { return own(f) && f.Verdict == "FORWARDED" }
	}
	f, seen := log.find(ctx, since, outsidePatience, first)
	if !seen {
		return nil
	}
	if b, seen := log.find(ctx, since, time.Second, better); seen {
		return &b
	}
	return &f
}

// decides says whether the flow tells what became of a packet that nobody answered: that it
// was dropped, or let into the pod. That it was seen on the way tells nothing.
func decides(f cilium.Flow) bool {
	return f.Verdict == "DROPPED" || f.Verdict == "FORWARDED" && f.Direction == "INGRESS"
}

// verdict is what one way tells.
type verdict struct {
	status phase.Status
	why    string
}

// judgeFromHere judges one attempt by what Hubble told of it.
func judgeFromHere(cell Cell, w way, r probe.Attempt, told *cilium.Flow) verdict {
	if told == nil {
		switch {
		case r.Connected:
			return verdict{why: "something answered, as a gateway or proxy may for any address, but Hubble saw nothing get to the workload"}
		case r.Kind == probe.KindTimeout:
			return verdict{why: "no answer, and nothing of it seen by Hubble: there is no way from this machine to there, or something before the cluster stops it"}
		}
		return verdict{why: "no connection, and nothing of it seen by Hubble: there is no way from this machine to there, or nobody at its end"}
	}
	f := *told
	source := f.Source.String()
	world := slices.ContainsFunc(f.Source.Labels, func(l string) bool { return strings.HasPrefix(l, "reserved:world") })
	own := int(f.Source.Port) == r.LocalPort
	switch {
	case own && f.Source.Pod != "":
		return verdict{why: "this process is not outside: it is seen as " + source}
	case own && !world && w.direct:
		return verdict{why: "this machine is not outside, or a node has put its own address in the place of ours: it is seen as " + source}
	}
	passed, failed := phase.Passed, phase.Failed
	if !cell.Allowed {
		passed, failed = failed, passed
	}
	if f.Verdict == "FORWARDED" {
		if !r.Connected && !own {
			return verdict{why: "no connection"}
		}
		why := "let in, as Hubble saw"
		if !own {
			why += " a connection of the same moment; a node or load balancer has put another address in the place of ours (" + source + ")"
		}
		if cell.Allowed && !r.Connected && !cell.Port.UDP {
			return verdict{why: "let in, but no answer came back"}
		}
		return verdict{passed, why}
	}
	switch {
	case !slices.Contains([]string{"POLICY_DENIED", "POLICY_DENY"}, f.DropReason):
		return verdict{why: "dropped, but not by policy: " + f.DropReason}
	case !own || !world:
		return verdict{why: "a drop was seen, but of " + source}
	}
	return verdict{failed, "dropped by policy: " + f.DropReason}
}

// sumFromHere is what all ways tell together. One that gets through is enough for either
// answer; a denied edge is proven by a drop while no other way got through.
func sumFromHere(cell Cell, all []verdict) (string, error) {
	of := func(status phase.Status) []string {
		var why []string
		for _, v := range all {
			if v.status == status {
				why = append(why, v.why)
			}
		}
		return why
	}
	passed, failed, unknown := of(phase.Passed), of(phase.Failed), of(phase.Unknown)
	want := "connected"
	if !cell.Allowed {
		want = "dropped by policy"
	}
	switch {
	case cell.Allowed && len(passed) > 0:
		return passed[0], nil
	case len(failed) > 0:
		return failed[0], phase.Want(want, failed[0])
	case len(passed) > 0:
		return passed[0], nil
	}
	return "could not be tried from this machine", fmt.Errorf("not told from this machine: %s", strings.Join(unknown, "; "))
}

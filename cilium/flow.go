package cilium

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
)

// Flow is one event of one connection as Hubble saw it on one node.
type Flow struct {
	UUID string
	Time time.Time
	// Node is where it was seen, "<cluster>/<node>".
	Node string
	// Verdict is Hubble's: "FORWARDED", "DROPPED", "REDIRECTED", "AUDIT", "ERROR", …
	Verdict string
	// DropReason says why, when Verdict is "DROPPED": "POLICY_DENIED" (no rule
	// allows it), "POLICY_DENY" (a rule denies it), "AUTH_REQUIRED", … else empty.
	DropReason string
	// EventType is what made the event: "drop", "policy-verdict", "trace", "l7", …
	EventType string
	// AuthType is the authentication that the policy asked for, "SPIRE" or
	// "TEST_ALWAYS_FAIL"; empty for none. Only policy-verdict events carry it.
	AuthType string
	// Direction is "INGRESS" or "EGRESS" as the policy sees it, or empty.
	Direction           string
	Source, Destination Party
	// Protocol is "TCP", "UDP", "SCTP", "ICMPv4", "ICMPv6" or empty.
	Protocol string
	// IsReply says that the packet answers; it is false also where Hubble does not
	// know, as for drops.
	IsReply bool
	// AllowedBy and DeniedBy are the policies that decided, where Hubble knows.
	AllowedBy, DeniedBy []PolicyName
}

// Party is one end of a flow.
type Party struct {
	// Namespace and Pod are empty for what is no pod.
	Namespace, Pod string
	// Identity is the number of the security identity; those below 256 are reserved
	// (1 host, 2 world, 6 remote-node, 7 kube-apiserver).
	Identity uint32
	// Labels are the security labels, "k8s:app=backend", "reserved:world".
	Labels []string
	IP     string
	// Port is 0 for protocols without ports.
	Port uint16
}

// PolicyName names a policy object.
type PolicyName struct{ Kind, Namespace, Name string }

func (p PolicyName) String() string {
	if p.Namespace == "" {
		return p.Kind + "/" + p.Name
	}
	return p.Kind + "/" + p.Namespace + "/" + p.Name
}

// String is the pod, or the reserved name, or the address, with the port.
func (p Party) String() string {
	s := p.IP
	switch i := slices.IndexFunc(p.Labels, func(l string) bool { return strings.HasPrefix(l, "reserved:") }); {
	case p.Pod != "":
		s = p.Namespace + "/" + p.Pod
	case i >= 0:
		s = p.Labels[i] + "(" + p.IP + ")"
	}
	if p.Port == 0 {
		return s
	}
	if s == p.IP {
		return net.JoinHostPort(s, strconv.Itoa(int(p.Port)))
	}
	return s + ":" + strconv.Itoa(int(p.Port))
}

// String is the flow as one line, with what decided it.
func (f Flow) String() string {
	parts := []string{f.Time.UTC().Format("15:04:05.000"), fmt.Sprintf("%s -> %s", f.Source, f.Destination)}
	for _, s := range []string{f.Protocol, f.EventType, f.Direction, f.Verdict, f.DropReason} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	if f.AuthType != "" {
		parts = append(parts, "auth="+f.AuthType)
	}
	for _, p := range f.AllowedBy {
		parts = append(parts, "allowed-by="+p.String())
	}
	for _, p := range f.DeniedBy {
		parts = append(parts, "denied-by="+p.String())
	}
	return strings.Join(parts, " ")
}

// eventTypes are the numbers of
// https://github.com/cilium/cilium/blob/v1.20.2/pkg/monitor/api/types.go.
var eventTypes = map[string]int32{
	"drop": 1, "debug": 2, "capture": 3, "trace": 4, "policy-verdict": 5, "trace-sock": 7, "l7": 129,
}

func eventTypeName(n int32) string {
	for name, v := range eventTypes {
		if v == n {
			return name
		}
	}
	return ""
}

func newFlow(f *flowpb.Flow) Flow {
	out := Flow{
		UUID:        f.GetUuid(),
		Node:        f.GetNodeName(),
		Verdict:     f.GetVerdict().String(),
		EventType:   eventTypeName(f.GetEventType().GetType()),
		Source:      newParty(f.GetSource()),
		Destination: newParty(f.GetDestination()),
		IsReply:     f.GetIsReply().GetValue(),
		AllowedBy:   policyNames(f.GetEgressAllowedBy(), f.GetIngressAllowedBy()),
		DeniedBy:    policyNames(f.GetEgressDeniedBy(), f.GetIngressDeniedBy()),
	}
	if f.GetTime() != nil {
		out.Time = f.GetTime().AsTime()
	}
	if r := f.GetDropReasonDesc(); r != flowpb.DropReason_DROP_REASON_UNKNOWN {
		out.DropReason = r.String()
	}
	if a := f.GetAuthType(); a != flowpb.AuthType_DISABLED {
		out.AuthType = a.String()
	}
	if d := f.GetTrafficDirection(); d != flowpb.TrafficDirection_TRAFFIC_DIRECTION_UNKNOWN {
		out.Direction = d.String()
	}
	out.Source.IP, out.Destination.IP = f.GetIP().GetSource(), f.GetIP().GetDestination()
	ports := func(src, dst uint32) { out.Source.Port, out.Destination.Port = uint16(src), uint16(dst) }
	switch l4 := f.GetL4().GetProtocol().(type) {
	case *flowpb.Layer4_TCP:
		out.Protocol = "TCP"
		ports(l4.TCP.GetSourcePort(), l4.TCP.GetDestinationPort())
	case *flowpb.Layer4_UDP:
		out.Protocol = "UDP"
		ports(l4.UDP.GetSourcePort(), l4.UDP.GetDestinationPort())
	case *flowpb.Layer4_SCTP:
		out.Protocol = "SCTP"
		ports(l4.SCTP.GetSourcePort(), l4.SCTP.GetDestinationPort())
	case *flowpb.Layer4_ICMPv4:
		out.Protocol = "ICMPv4"
	case *flowpb.Layer4_ICMPv6:
		out.Protocol = "ICMPv6"
	}
	return out
}

func newParty(e *flowpb.Endpoint) Party {
	return Party{Namespace: e.GetNamespace(), Pod: e.GetPodName(), Identity: e.GetIdentity(), Labels: e.GetLabels()}
}

func policyNames(lists ...[]*flowpb.Policy) []PolicyName {
	var out []PolicyName
	for _, l := range lists {
		for _, p := range l {
			n := PolicyName{Kind: p.GetKind(), Namespace: p.GetNamespace(), Name: p.GetName()}
			if !slices.Contains(out, n) {
				out = append(out, n)
			}
		}
	}
	return out
}

package cilium

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// FlowFilter says which flows are wanted. Hubble filters, on each node. All fields
// that are set must match; within a list one match is enough. The zero value wants
// every flow.
type FlowFilter struct {
	From, To PartyFilter
	// Ports are destination ports.
	Ports []uint16
	// Protocols are "tcp", "udp", "icmp", "http", "dns", …
	Protocols []string
	// Verdicts and DropReasons are names as in Flow.
	Verdicts, DropReasons []string
	// EventTypes are names as in Flow: "drop", "policy-verdict", "trace", …
	EventTypes []string
	// Nodes are patterns of node names, "worker-*" or "cluster/worker-1".
	Nodes []string
	// BothWays wants also what goes from To to From, its Ports being source ports.
	BothWays bool

	// Since wants flows from then on, by the nodes' clocks, as far back as the nodes
	// still hold them (4095 events each, by default). Zero means all that they hold for Flows,
	// and from the moment of opening for OpenFlows.
	Since time.Time
}

// PartyFilter matches one end of a flow. Its zero value matches any.
type PartyFilter struct {
	Namespace string
	// Pod is the beginning of the pod's name.
	Pod string
	// Labels is a selector over the security labels: "app=backend,tier!=web".
	Labels string
	// IP is an address or a CIDR.
	IP       string
	Identity uint32
}

func (f FlowFilter) request(follow bool) (*observerpb.GetFlowsRequest, error) {
	way, err := f.oneWay(false)
	if err != nil {
		return nil, err
	}
	req := &observerpb.GetFlowsRequest{Follow: follow, Whitelist: []*flowpb.FlowFilter{way}}
	if f.BothWays {
		back, err := f.oneWay(true)
		if err != nil {
			return nil, err
		}
		req.Whitelist = append(req.Whitelist, back)
	}
	if !f.Since.IsZero() {
		req.Since = timestamppb.New(f.Since)
	} else if !follow {
		// With neither a time nor a number Hubble answers with the last few only.
		req.Since = timestamppb.New(time.Unix(0, 0))
	}
	return req, nil
}

func (f FlowFilter) oneWay(back bool) (*flowpb.FlowFilter, error) {
	out := &flowpb.FlowFilter{Protocol: f.Protocols, NodeName: f.Nodes}
	src, dst := f.From, f.To
	var ports []string
	for _, p := range f.Ports {
		ports = append(ports, strconv.Itoa(int(p)))
	}
	if back {
		src, dst = dst, src
		out.SourcePort = ports
	} else {
		out.DestinationPort = ports
	}
	if p := src.pod(); p != "" {
		out.SourcePod = []string{p}
	}
	if p := dst.pod(); p != "" {
		out.DestinationPod = []string{p}
	}
	out.SourceLabel, out.DestinationLabel = one(src.Labels), one(dst.Labels)
	out.SourceIp, out.DestinationIp = one(src.IP), one(dst.IP)
	out.SourceIdentity, out.DestinationIdentity = one(src.Identity), one(dst.Identity)

	for _, v := range f.Verdicts {
		n, ok := flowpb.Verdict_value[strings.ToUpper(v)]
		if !ok {
			return nil, unknownName("verdict", v, slices.Collect(maps.Keys(flowpb.Verdict_value)))
		}
		out.Verdict = append(out.Verdict, flowpb.Verdict(n))
	}
	for _, r := range f.DropReasons {
		n, ok := flowpb.DropReason_value[strings.ToUpper(r)]
		if !ok {
			return nil, unknownName("drop reason", r, []string{"POLICY_DENIED", "POLICY_DENY", "AUTH_REQUIRED"})
		}
		out.DropReasonDesc = append(out.DropReasonDesc, flowpb.DropReason(n))
	}
	for _, t := range f.EventTypes {
		n, ok := eventTypes[t]
		if !ok {
			return nil, unknownName("event type", t, slices.Collect(maps.Keys(eventTypes)))
		}
		out.EventType = append(out.EventType, &flowpb.EventTypeFilter{Type: n})
	}
	return out, nil
}

func unknownName(what, got string, some []string) error {
	slices.Sort(some)
	return fmt.Errorf("cilium: flow filter: unknown %s %q: use one of %s", what, got, strings.Join(some, ", "))
}

// pod is Hubble's "namespace/prefix", where an empty half matches anything.
func (p PartyFilter) pod() string {
	if p.Namespace == "" && p.Pod == "" {
		return ""
	}
	return p.Namespace + "/" + p.Pod
}

func one[T comparable](v T) []T {
	var zero T
	if v == zero {
		return nil
	}
	return []T{v}
}

package cilium

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	flowpb "github.com/cilium/cilium/api/v1/flow"
	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// relayTime is the clock of the fake Relay, far from ours.
var relayTime = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// fakeRelay speaks Hubble Relay's protocol on loopback.
type fakeRelay struct {
	observerpb.UnimplementedObserverServer
	mu       sync.Mutex
	requests []*observerpb.GetFlowsRequest
	// nodes is who is reached at the n-th request; the last one stays.
	nodes [][]string
	// send gives the flows of the stream proper after its handshake.
	send func(req *observerpb.GetFlowsRequest, s observerpb.Observer_GetFlowsServer) error
}

func nodeStatus(state relaypb.NodeState, message string, nodes ...string) *observerpb.GetFlowsResponse {
	return &observerpb.GetFlowsResponse{Time: timestamppb.New(relayTime), ResponseTypes: &observerpb.GetFlowsResponse_NodeStatus{
		NodeStatus: &relaypb.NodeStatusEvent{StateChange: state, NodeNames: nodes, Message: message}}}
}

func flowResponse(f *flowpb.Flow) *observerpb.GetFlowsResponse {
	return &observerpb.GetFlowsResponse{ResponseTypes: &observerpb.GetFlowsResponse_Flow{Flow: f}}
}

func (f *fakeRelay) GetFlows(req *observerpb.GetFlowsRequest, s observerpb.Observer_GetFlowsServer) error {
	f.mu.Lock()
	nodes := f.nodes[min(len(f.requests), len(f.nodes)-1)]
	f.requests = append(f.requests, req)
	f.mu.Unlock()
	if len(nodes) > 0 {
		if err := s.Send(nodeStatus(relaypb.NodeState_NODE_CONNECTED, "", nodes...)); err != nil {
			return err
		}
	} else if err := s.Send(nodeStatus(relaypb.NodeState_NODE_UNAVAILABLE, "", "c/w1", "c/w2")); err != nil {
		return err
	}
	if req.GetNumber() == 1 || f.send == nil {
		return nil
	}
	return f.send(req, s)
}

// serve connects to the fake as if it had the given number of agents behind it.
func (f *fakeRelay) serve(t *testing.T, agents int) (r *relay, closed func() bool) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	observerpb.RegisterObserverServer(server, f)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	done := false
	return &relay{client: observerpb.NewObserverClient(conn), agents: agents, close: func() { done = true; conn.Close() }}, func() bool { return done }
}

var both = [][]string{{"c/w1", "c/w2"}}

// denied is a flow as Hubble reports a drop by policy.
func denied(uuid string) *flowpb.Flow {
	return &flowpb.Flow{
		Uuid: uuid, Time: timestamppb.New(relayTime), NodeName: "c/w2",
		Verdict: flowpb.Verdict_DROPPED, DropReasonDesc: flowpb.DropReason_POLICY_DENIED,
		EventType:        &flowpb.CiliumEventType{Type: 5},
		TrafficDirection: flowpb.TrafficDirection_INGRESS,
		IP:               &flowpb.IP{Source: "10.0.0.1", Destination: "10.0.1.2"},
		L4:               &flowpb.Layer4{Protocol: &flowpb.Layer4_TCP{TCP: &flowpb.TCP{SourcePort: 40000, DestinationPort: 8000}}},
		Source:           &flowpb.Endpoint{Identity: 11, Namespace: "99-apps", PodName: "intruder-1", Labels: []string{"k8s:app=intruder"}},
		Destination:      &flowpb.Endpoint{Identity: 22, Namespace: "99-apps", PodName: "backend-1"},
		IngressDeniedBy:  []*flowpb.Policy{{Kind: "CiliumNetworkPolicy", Namespace: "99-apps", Name: "deny"}},
	}
}

func TestStreamHearsWhatComesAfterOpening(t *testing.T) {
	probed := make(chan struct{})
	f := &fakeRelay{nodes: both, send: func(_ *observerpb.GetFlowsRequest, s observerpb.Observer_GetFlowsServer) error {
		select {
		case <-probed:
		case <-s.Context().Done():
			return nil
		}
		if err := s.Send(flowResponse(denied("1"))); err != nil {
			return err
		}
		<-s.Context().Done()
		return nil
	}}
	r, closed := f.serve(t, 2)
	s, err := r.open(t.Context(), FlowFilter{To: PartyFilter{Namespace: "99-apps"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"c/w1", "c/w2"}, s.Nodes()); diff != "" {
		t.Errorf("nodes: %s", diff)
	}
	req := f.requests[len(f.requests)-1]
	if !s.Opened().Equal(relayTime) || !req.GetSince().AsTime().Equal(relayTime) || !req.GetFollow() {
		t.Errorf("opened at %s with since %s, follow %t: want Relay's clock %s and follow", s.Opened(), req.GetSince().AsTime(), req.GetFollow(), relayTime)
	}

	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if got, err := s.Collect(short, nil); !errors.Is(err, context.DeadlineExceeded) || len(got) != 0 {
		t.Errorf("before the probe: %v, %v", got, err)
	}
	close(probed)
	got, err := s.Collect(t.Context(), func(f Flow) bool { return f.DropReason == "POLICY_DENIED" })
	if err != nil || len(got) != 1 {
		t.Fatalf("after the probe: %v, %v", got, err)
	}
	want := Flow{
		UUID: "1", Time: relayTime, Node: "c/w2", Verdict: "DROPPED", DropReason: "POLICY_DENIED", EventType: "policy-verdict",
		Direction: "INGRESS", Protocol: "TCP",
		Source:      Party{"99-apps", "intruder-1", 11, []string{"k8s:app=intruder"}, "10.0.0.1", 40000},
		Destination: Party{"99-apps", "backend-1", 22, nil, "10.0.1.2", 8000},
		DeniedBy:    []PolicyName{{"CiliumNetworkPolicy", "99-apps", "deny"}},
	}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if err := s.Complete(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if !closed() {
		t.Error("Close did not give the connection back")
	}
	if _, err := s.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after Close: %v, want io.EOF", err)
	}
}

func TestOpenWaitsForEveryNode(t *testing.T) {
	f := &fakeRelay{nodes: [][]string{nil, {"c/w1"}, {"c/w1", "c/w2"}}}
	r, _ := f.serve(t, 2)
	s, err := r.open(t.Context(), FlowFilter{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(f.requests) != 4 || len(s.Nodes()) != 2 { // three questions, then the stream
		t.Errorf("%d requests, nodes %q", len(f.requests), s.Nodes())
	}

	f = &fakeRelay{nodes: [][]string{{"c/w1"}}}
	r, _ = f.serve(t, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = r.open(ctx, FlowFilter{}, true)
	if err == nil || !strings.Contains(err.Error(), "1 of 2 nodes (c/w1)") {
		t.Errorf("got %v, want who is heard", err)
	}
}

func TestGapsAreTold(t *testing.T) {
	f := &fakeRelay{nodes: both, send: func(_ *observerpb.GetFlowsRequest, s observerpb.Observer_GetFlowsServer) error {
		for _, resp := range []*observerpb.GetFlowsResponse{
			{NodeName: "c/w1", ResponseTypes: &observerpb.GetFlowsResponse_LostEvents{LostEvents: &flowpb.LostEvent{Source: flowpb.LostEventSource_HUBBLE_RING_BUFFER, NumEventsLost: 7}}},
			nodeStatus(relaypb.NodeState_NODE_ERROR, "went away", "c/w2"),
			flowResponse(denied("1")),
		} {
			if err := s.Send(resp); err != nil {
				return err
			}
		}
		return nil
	}}
	r, _ := f.serve(t, 2)
	s, err := r.open(t.Context(), FlowFilter{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := s.Collect(t.Context(), nil); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	var incomplete *IncompleteError
	if err := s.Complete(); !errors.As(err, &incomplete) || len(incomplete.Gaps) != 2 {
		t.Fatalf("got %v, want two gaps", err)
	}
	for _, say := range []string{"7 events lost in HUBBLE_RING_BUFFER on c/w1", "NODE_ERROR: went away on c/w2"} {
		if !strings.Contains(incomplete.Error(), say) {
			t.Errorf("it does not say %q: %v", say, incomplete)
		}
	}
}

func TestBrokenStream(t *testing.T) {
	for name, end := range map[string]error{"error": status.Error(codes.Unavailable, "relay is restarted"), "end of a stream that follows": nil} {
		t.Run(name, func(t *testing.T) {
			f := &fakeRelay{nodes: both, send: func(*observerpb.GetFlowsRequest, observerpb.Observer_GetFlowsServer) error { return end }}
			r, _ := f.serve(t, 2)
			s, err := r.open(t.Context(), FlowFilter{}, true)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Next(t.Context()); err == nil || !strings.Contains(err.Error(), "broke") {
				t.Errorf("Next: got %v", err)
			}
			if s.Complete() == nil {
				t.Error("a broken stream calls itself complete")
			}
		})
	}
}

func TestStreamEndsWithItsContext(t *testing.T) {
	f := &fakeRelay{nodes: both, send: func(_ *observerpb.GetFlowsRequest, s observerpb.Observer_GetFlowsServer) error {
		<-s.Context().Done()
		return nil
	}}
	r, _ := f.serve(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	s, err := r.open(ctx, FlowFilter{}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cancel()
	if _, err := s.Next(t.Context()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestFilterRequest(t *testing.T) {
	f := FlowFilter{
		From: PartyFilter{Namespace: "99-apps", Pod: "frontend-", Identity: 11}, To: PartyFilter{Labels: "app=backend", IP: "10.0.0.0/8"},
		Ports: []uint16{8000}, Protocols: []string{"tcp"}, Verdicts: []string{"dropped"}, DropReasons: []string{"AUTH_REQUIRED"},
		EventTypes: []string{"drop", "policy-verdict"}, Nodes: []string{"worker-*"}, BothWays: true,
	}
	req, err := f.request(false)
	if err != nil {
		t.Fatal(err)
	}
	there, back := req.GetWhitelist()[0], req.GetWhitelist()[1]
	got := map[string]any{
		"src": there.GetSourcePod(), "id": there.GetSourceIdentity(), "dst": there.GetDestinationLabel(), "ip": there.GetDestinationIp(),
		"port": there.GetDestinationPort(), "verdict": there.GetVerdict(), "reason": there.GetDropReasonDesc(), "type": []int32{there.GetEventType()[0].GetType(), there.GetEventType()[1].GetType()},
		"proto": there.GetProtocol(), "node": there.GetNodeName(),
		"back dst": back.GetDestinationPod(), "back src": back.GetSourceLabel(), "back port": back.GetSourcePort(), "back dport": len(back.GetDestinationPort()),
		"since": req.GetSince().AsTime().Unix(),
	}
	want := map[string]any{
		"src": []string{"99-apps/frontend-"}, "id": []uint32{11}, "dst": []string{"app=backend"}, "ip": []string{"10.0.0.0/8"},
		"port": []string{"8000"}, "verdict": []flowpb.Verdict{flowpb.Verdict_DROPPED}, "reason": []flowpb.DropReason{flowpb.DropReason_AUTH_REQUIRED}, "type": []int32{1, 5},
		"proto": []string{"tcp"}, "node": []string{"worker-*"},
		"back dst": []string{"99-apps/frontend-"}, "back src": []string{"app=backend"}, "back port": []string{"8000"}, "back dport": 0,
		"since": int64(0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	for _, bad := range []FlowFilter{{Verdicts: []string{"refused"}}, {DropReasons: []string{"because"}}, {EventTypes: []string{"drops"}}} {
		if _, err := bad.request(true); err == nil || !strings.Contains(err.Error(), "use one of") {
			t.Errorf("%+v: got %v", bad, err)
		}
	}
}

func TestFlowAsALine(t *testing.T) {
	f := denied("1")
	f.Verdict, f.DropReasonDesc, f.IngressDeniedBy = flowpb.Verdict_FORWARDED, 0, nil
	f.AuthType, f.IsReply = flowpb.AuthType_SPIRE, wrapperspb.Bool(true)
	f.IngressAllowedBy = []*flowpb.Policy{{Kind: "CiliumClusterwideNetworkPolicy", Name: "all"}, {Kind: "CiliumClusterwideNetworkPolicy", Name: "all"}}
	f.Source = &flowpb.Endpoint{Identity: 2, Labels: []string{"reserved:world"}}
	got := newFlow(f)
	want := "03:04:05.000 reserved:world(10.0.0.1):40000 -> 99-apps/backend-1:8000 TCP policy-verdict INGRESS FORWARDED auth=SPIRE allowed-by=CiliumClusterwideNetworkPolicy/all"
	if got.String() != want || !got.IsReply {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if s := (Party{IP: "fd00::1", Port: 80}).String(); s != "[fd00::1]:80" {
		t.Errorf("an address is %s", s)
	}
	if empty := newFlow(&flowpb.Flow{}); empty.DropReason != "" || empty.AuthType != "" || empty.Verdict != "VERDICT_UNKNOWN" {
		t.Errorf("the empty flow is %+v", empty)
	}
}

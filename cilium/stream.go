package cilium

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	relaypb "github.com/cilium/cilium/api/v1/relay"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
)

// openTime bounds how long Relay may take to reach every node; it tries again
// every 30 s a node that it could not reach.
const openTime = 75 * time.Second

// FlowStream hears flows from all nodes from the moment it was opened until Close.
// Its methods may be called from several goroutines, Next from one at a time.
type FlowStream struct {
	nodes  []string
	opened time.Time
	follow bool
	flows  chan Flow
	cancel context.CancelFunc
	free   func() // gives back what lies below the stream
	once   sync.Once
	done   chan struct{}

	mu     sync.Mutex
	closed bool
	err    error // why the stream ended; set before flows is closed
	gaps   []Gap
}

// Gap is a stretch that a stream or a query may not have heard. With a gap, not
// having seen a flow proves nothing.
type Gap struct {
	Time time.Time
	// Nodes are the nodes it concerns, where Hubble says so.
	Nodes []string
	// Lost is how many events were lost, 0 for unknown.
	Lost uint64
	// Reason is Hubble's: the buffer that overflowed, or a node's state and error.
	Reason string
}

func (g Gap) String() string {
	s := g.Reason
	if g.Lost > 0 {
		s = fmt.Sprintf("%d events lost in %s", g.Lost, s)
	}
	if len(g.Nodes) > 0 {
		s += " on " + strings.Join(g.Nodes, ", ")
	}
	return s
}

// IncompleteError says that flows may be missing.
type IncompleteError struct{ Gaps []Gap }

func (e *IncompleteError) Error() string {
	var s []string
	for _, g := range e.Gaps {
		s = append(s, g.String())
	}
	return "cilium: Hubble did not hear everything, so a flow not seen proves nothing: " + strings.Join(s, "; ") + ": repeat the probe"
}

// OpenFlows starts to listen and returns once every node with a ready agent is
// being heard. A flow that happens after it returned is delivered, even if a node's
// own stream is a little later: the nodes are asked for everything since the
// moment of opening, by Relay's clock, and hold it in a buffer. Relay sorts, so
// that a flow is delivered up to about 2 s after it happened.
//
// The stream ends with Close, with ctx, or when the connection breaks.
func OpenFlows(ctx context.Context, cluster *rest.Config, filter FlowFilter) (*FlowStream, error) {
	r, err := dialRelay(ctx, cluster)
	if err != nil {
		return nil, err
	}
	s, err := r.open(ctx, filter, true)
	if err != nil {
		r.close()
		return nil, err
	}
	return s, nil
}

// Flows are the flows that the nodes hold in their buffers now, oldest first. Where
// a node could not be asked or a buffer overflowed meanwhile, it returns what there
// is together with an *[IncompleteError].
func Flows(ctx context.Context, cluster *rest.Config, filter FlowFilter) ([]Flow, error) {
	r, err := dialRelay(ctx, cluster)
	if err != nil {
		return nil, err
	}
	s, err := r.open(ctx, filter, false)
	if err != nil {
		r.close()
		return nil, err
	}
	defer func() { _ = s.Close() }()
	flows, err := s.Collect(ctx, nil)
	if err != nil {
		return flows, err
	}
	slices.SortStableFunc(flows, func(a, b Flow) int { return a.Time.Compare(b.Time) })
	return flows, s.Complete()
}

// Nodes are the nodes heard, "<cluster>/<node>".
func (s *FlowStream) Nodes() []string { return s.nodes }

// Opened is the moment, by Relay's clock, from which on flows are heard.
func (s *FlowStream) Opened() time.Time { return s.opened }

// Next is the next flow. It returns [io.EOF] after Close, ctx's error when ctx ends
// first (the stream goes on), and otherwise what ended the stream. Keep reading: some
// thousand flows are held for a slow reader, then the nodes' own buffers overflow,
// which Complete tells.
func (s *FlowStream) Next(ctx context.Context) (Flow, error) {
	select {
	case f, ok := <-s.flows:
		if !ok {
			s.mu.Lock()
			defer s.mu.Unlock()
			return Flow{}, s.err
		}
		return f, nil
	case <-ctx.Done():
		return Flow{}, ctx.Err()
	}
}

// Collect gathers flows until enough says so of the last one, or the stream ends
// (which is no error), or ctx ends (which is ctx's error). Either way it returns what
// it has. A nil enough gathers until one of the others.
func (s *FlowStream) Collect(ctx context.Context, enough func(Flow) bool) ([]Flow, error) {
	var flows []Flow
	for {
		f, err := s.Next(ctx)
		if errors.Is(err, io.EOF) {
			return flows, nil
		}
		if err != nil {
			return flows, err
		}
		flows = append(flows, f)
		if enough != nil && enough(f) {
			return flows, nil
		}
	}
}

// Complete is nil while nothing was missed since the stream was opened, else an
// *[IncompleteError].
func (s *FlowStream) Complete() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gaps) == 0 {
		return nil
	}
	return &IncompleteError{Gaps: slices.Clone(s.gaps)}
}

// Close ends the stream and gives back the forwarded port. It can be called again.
func (s *FlowStream) Close() error {
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.cancel()
		<-s.done
		s.free()
	})
	return nil
}

// relay is a connection to Hubble Relay.
type relay struct {
	client observerpb.ObserverClient
	// agents is how many nodes must be heard.
	agents int
	close  func()
}

func dialRelay(ctx context.Context, cluster *rest.Config) (*relay, error) {
	client, err := connect(cluster)
	if err != nil {
		return nil, err
	}
	agents, err := anywhere(ctx, client, agentSelector)
	if err != nil {
		return nil, fmt.Errorf("cilium: list the ready agents: %w", err)
	}
	if len(agents) == 0 {
		return nil, fmt.Errorf("cilium: no ready agent in the cluster (label %s): install Cilium, or see why its pods are not ready", agentSelector)
	}
	relays, err := anywhere(ctx, client, relaySelector)
	if err != nil {
		return nil, fmt.Errorf("cilium: list the pods of Hubble Relay: %w", err)
	}
	if len(relays) == 0 {
		return nil, fmt.Errorf("cilium: no ready pod of Hubble Relay (label %s): see why Deployment %s/hubble-relay has none, or install it", relaySelector, Namespace)
	}
	forward, err := client.Forward(ctx, relays[0].Namespace, relays[0].Name, relayPort)
	if err != nil {
		return nil, fmt.Errorf("cilium: forward a port to Hubble Relay (pod %s): %w", relays[0].Name, err)
	}
	// Plain: the chart's Relay speaks TLS to the agents alone, and this connection
	// runs inside the API server's.
	conn, err := grpc.NewClient("passthrough:///"+forward.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		forward.Close()
		return nil, fmt.Errorf("cilium: connect to Hubble Relay: %w", err)
	}
	return &relay{
		client: observerpb.NewObserverClient(conn),
		agents: len(agents),
		close:  func() { _ = conn.Close(); forward.Close() },
	}, nil
}

// open starts a stream that hears all nodes. The stream owns r when it succeeds.
func (r *relay) open(ctx context.Context, filter FlowFilter, follow bool) (*FlowStream, error) {
	if _, err := filter.request(follow); err != nil {
		return nil, err
	}
	now, err := r.reachesAll(ctx)
	if err != nil {
		return nil, err
	}
	opened := filter.Since
	if opened.IsZero() && follow {
		opened = now
		filter.Since = now
	}
	req, err := filter.request(follow)
	if err != nil {
		return nil, err
	}

	sctx, cancel := context.WithCancel(ctx)
	stream, err := r.client.GetFlows(sctx, req)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("cilium: ask Hubble Relay for flows: %w", err)
	}
	h, err := shakeHands(stream)
	if err == nil {
		err = r.allHeard(h)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("cilium: open the stream of flows: %w", err)
	}
	s := &FlowStream{
		nodes: h.connected, opened: opened, follow: follow, cancel: cancel, free: r.close,
		flows: make(chan Flow, 1024), done: make(chan struct{}),
	}
	go s.receive(sctx, stream, h.first)
	return s, nil
}

// reachesAll waits until Relay reaches every node and returns Relay's time then.
func (r *relay) reachesAll(ctx context.Context) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	var now time.Time
	err := kube.Wait(ctx, fmt.Sprintf("Hubble Relay to hear all %d nodes", r.agents), 500*time.Millisecond,
		func(ctx context.Context) (bool, string, error) {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			// One flow from each node is the shortest question that Relay puts to all.
			stream, err := r.client.GetFlows(ctx, &observerpb.GetFlowsRequest{Number: 1})
			if err != nil {
				return false, "no answer", err
			}
			h, err := shakeHands(stream)
			if err != nil {
				return false, "no answer", err
			}
			if err := r.allHeard(h); err != nil {
				return false, err.Error(), nil
			}
			now = h.time
			return true, "all heard", nil
		})
	if err != nil {
		return time.Time{}, fmt.Errorf("cilium: %w", err)
	}
	return now, nil
}

// handshake is what Relay says of the nodes before the first flow.
type handshake struct {
	time                   time.Time
	connected, unavailable []string
	// first is the response that ended the handshake, nil at the stream's end.
	first *observerpb.GetFlowsResponse
}

// shakeHands reads Relay's opening words. Relay sends the nodes it asks in one
// status, at once; those it does not reach in a second one right behind:
// https://github.com/cilium/cilium/blob/v1.20.2/pkg/hubble/relay/observer/server.go.
// The second is only sent where there is such a node, so a stream that reached all
// is silent here; the status that is first tells the two apart by its count alone.
func shakeHands(stream grpc.ServerStreamingClient[observerpb.GetFlowsResponse]) (handshake, error) {
	var h handshake
	resp, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return h, nil
	}
	if err != nil {
		return h, err
	}
	h.time = time.Now()
	if resp.GetTime() != nil {
		h.time = resp.GetTime().AsTime()
	}
	switch status := resp.GetNodeStatus(); status.GetStateChange() {
	case relaypb.NodeState_NODE_CONNECTED:
		h.connected = status.GetNodeNames()
	case relaypb.NodeState_NODE_UNAVAILABLE:
		h.unavailable = status.GetNodeNames()
	default:
		h.first = resp
	}
	return h, nil
}

func (r *relay) allHeard(h handshake) error {
	if len(h.connected) >= r.agents {
		return nil
	}
	return fmt.Errorf("it hears %d of %d nodes (%s)%s", len(h.connected), r.agents, strings.Join(h.connected, ", "), unreached(h.unavailable))
}

func unreached(nodes []string) string {
	if len(nodes) == 0 {
		return ""
	}
	return ", not " + strings.Join(nodes, ", ")
}

// receive takes the stream apart until it ends.
func (s *FlowStream) receive(ctx context.Context, stream grpc.ServerStreamingClient[observerpb.GetFlowsResponse], resp *observerpb.GetFlowsResponse) {
	defer close(s.done)
	defer close(s.flows)
	var err error
	for err == nil {
		if resp != nil && !s.take(ctx, resp) {
			break
		}
		resp, err = stream.Recv()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed, errors.Is(err, io.EOF) && !s.follow:
		s.err = io.EOF
	case ctx.Err() != nil:
		s.err = fmt.Errorf("cilium: the stream of flows ended with its context: %w", context.Cause(ctx))
	default:
		s.err = fmt.Errorf("cilium: the stream of flows broke: %w", err)
		s.gaps = append(s.gaps, Gap{Time: time.Now(), Reason: "the connection to Hubble Relay broke"})
	}
}

// take handles one response; false means that ctx ended.
func (s *FlowStream) take(ctx context.Context, resp *observerpb.GetFlowsResponse) bool {
	at := time.Now()
	if resp.GetTime() != nil {
		at = resp.GetTime().AsTime()
	}
	switch {
	case resp.GetFlow() != nil:
		select {
		case s.flows <- newFlow(resp.GetFlow()):
		case <-ctx.Done():
			return false
		}
	case resp.GetLostEvents() != nil:
		lost := resp.GetLostEvents()
		g := Gap{Time: at, Lost: lost.GetNumEventsLost(), Reason: lost.GetSource().String()}
		if n := resp.GetNodeName(); n != "" {
			g.Nodes = []string{n}
		}
		s.gap(g)
	case resp.GetNodeStatus() != nil:
		status := resp.GetNodeStatus()
		if status.GetStateChange() == relaypb.NodeState_NODE_CONNECTED {
			break
		}
		reason := status.GetStateChange().String()
		if m := status.GetMessage(); m != "" {
			reason += ": " + m
		}
		s.gap(Gap{Time: at, Nodes: status.GetNodeNames(), Reason: reason})
	}
	return true
}

func (s *FlowStream) gap(g Gap) {
	s.mu.Lock()
	s.gaps = append(s.gaps, g)
	s.mu.Unlock()
}

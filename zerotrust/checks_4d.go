package zerotrust

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

// Cell is one combination of workload and port that the matrix tries.
type Cell struct {
	From, To string
	Port     Port
	Allowed  bool
	// Authenticated says that the allowing edge asks for authentication.
	Authenticated bool
}

func (c Cell) String() string { return fmt.Sprintf("%s → %s:%s", c.From, c.To, c.Port) }

// Matrix is every workload against every port of every other workload, and against
// every host outside the cluster that any of them may connect to.
func Matrix(in Intent) []Cell {
	var all []Cell
	var hosts []Cell
	for _, e := range in.Edges {
		if c := (Cell{To: e.To, Port: e.Port}); e.host() != "" && !slices.Contains(hosts, c) {
			hosts = append(hosts, c)
		}
	}
	for _, from := range in.Workloads {
		for _, to := range in.Workloads {
			if from.Name == to.Name {
				continue
			}
			for _, port := range to.listens() {
				edge, allowed := in.Edge(from.Name, to.Name, port)
				all = append(all, Cell{From: from.Name, To: to.Name, Port: port, Allowed: allowed, Authenticated: edge.Authenticated})
			}
		}
		for _, c := range hosts {
			c.From = from.Name
			_, c.Allowed = in.Edge(c.From, c.To, c.Port)
			all = append(all, c)
		}
	}
	return all
}

// How long a probe tries, how often an allowed one is repeated while policies
// and identities reach the nodes, and how long Hubble may take to tell.
const (
	// Two SYNs: each is dropped, and Hubble tells of it, or the first gets through.
	deniedTimeout = 2 * time.Second
	// A first authenticated connection loses its SYN until the handshake is done;
	// TCP sends it again after 1, 3 and 7 s.
	allowedTimeout = 10 * time.Second
	allowedTries   = 3
	hubblePatience = 15 * time.Second
)

func (s *Stack) checks4D() []phase.Check {
	log := &flowLog{stack: s}
	s.atClose(log.close)
	var all []phase.Check
	for _, cell := range Matrix(s.cfg.Intent) {
		c := phase.Check{Name: "edge " + cell.String(), Edge: &phase.Edge{
			From: cell.From, To: cell.To, Port: cell.Port.String(), Allowed: cell.Allowed, Authenticated: cell.Authenticated,
		}}
		if cell.Allowed {
			c.Doc = "The intent allows this edge: the probe gets through, and Hubble saw it forwarded."
			c.Hint = "See the policies of both workloads (kubectl get cnp -A) and, for an authenticated edge, that both identities have an entry."
			c.Run = func(ctx context.Context) (phase.Evidence, error) { return s.proveAllowed(ctx, log, cell) }
		} else {
			c.Doc = "The intent does not allow this edge: the probe gets nothing, and Hubble saw it dropped by policy."
			c.Hint = "Something lets this traffic through that the intent does not name: look for other policies (kubectl get cnp,ccnp,netpol -A) and at the enforcement mode of Cilium."
			c.Run = func(ctx context.Context) (phase.Evidence, error) { return s.proveDenied(ctx, log, cell) }
		}
		all = append(all, c)
	}
	return all
}

// target is what the probe of the cell tries.
func (c Cell) target(in Intent) string {
	host, outside := strings.CutPrefix(c.To, dnsPrefix)
	if !outside {
		to, _ := in.Workload(c.To)
		host = to.Host()
	}
	address := fmt.Sprintf("%s:%d", host, c.Port.Number)
	if c.Port.UDP {
		return "udp://" + address
	}
	return address
}

// probe tries the cell from inside a pod of the source workload.
func (s *Stack) probe(ctx context.Context, cell Cell, timeout time.Duration) (corev1.Pod, probe.Attempt, error) {
	from, _ := s.cfg.Intent.Workload(cell.From)
	_, pods, err := s.readyPods(ctx, from)
	if err != nil {
		return corev1.Pod{}, probe.Attempt{}, err
	}
	prober, err := s.probes(ctx)
	if err != nil {
		return pods[0], probe.Attempt{}, err
	}
	attempt, err := prober.Try(ctx, pods[0], cell.target(s.cfg.Intent), timeout)
	return pods[0], attempt, err
}

// proveAllowed wants the probe to connect and Hubble to have seen it forwarded
// (and authenticated, where the edge asks for it).
func (s *Stack) proveAllowed(ctx context.Context, log *flowLog, cell Cell) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "connected, and forwarded by Hubble's account", Source: "probe in the pod; Hubble Relay"}
	if cell.Authenticated {
		ev.Want = "connected, and forwarded by Hubble's account after authentication by SPIRE"
	}
	if err := log.open(ctx); err != nil {
		return ev, err
	}
	var pod corev1.Pod
	var r probe.Attempt
	var err error
	for try := 1; try <= allowedTries; try++ {
		if pod, r, err = s.probe(ctx, cell, allowedTimeout); err != nil {
			return ev, err
		}
		ev.Details = append(ev.Details, fmt.Sprintf("try %d from pod %s: %s", try, pod.Name, r))
		if r.Connected {
			break
		}
	}
	ev.Got = r.String()
	if r.Kind == probe.KindName {
		return ev, fmt.Errorf("the name could not be looked up, so nothing is known of the edge: %s", r.Error)
	}
	forwarded := func(f cilium.Flow) bool {
		return s.sameAttempt(f, pod, r, cell) && f.Verdict == "FORWARDED" && (!cell.Authenticated || f.AuthType == "SPIRE")
	}
	what := "the probe connected"
	if !r.Connected {
		if f, seen := log.find(ctx, time.Second, func(f cilium.Flow) bool { return s.sameAttempt(f, pod, r, cell) && f.Verdict == "DROPPED" }); seen {
			ev.Details = append(ev.Details, f.String())
			ev.Got = "dropped: " + f.DropReason
			return ev, phase.Want(ev.Want, ev.Got)
		}
		if !cell.Port.UDP {
			return ev, phase.Want(ev.Want, ev.Got)
		}
		// Nobody need answer what is no question to him: that it arrived is for Hubble to say.
		sent := forwarded
		forwarded = func(f cilium.Flow) bool { return sent(f) && f.Direction == "INGRESS" }
		what = "the probe got no answer"
	}
	f, seen := log.find(ctx, hubblePatience, forwarded)
	if !seen {
		return ev, errors.Join(fmt.Errorf("%s, but Hubble told of no forwarded flow from %s port %d to port %s (authenticated: %t) within %s",
			what, pod.Name, r.LocalPort, cell.Port, cell.Authenticated, hubblePatience), log.complete())
	}
	ev.Got = strings.TrimPrefix(what, "the probe ") + "; " + f.String()
	return ev, nil
}

// proveDenied wants the probe to get nothing and Hubble to name policy as the
// reason. A timeout alone proves nothing.
func (s *Stack) proveDenied(ctx context.Context, log *flowLog, cell Cell) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "dropped by policy, by Hubble's account", Source: "probe in the pod; Hubble Relay"}
	if err := log.open(ctx); err != nil {
		return ev, err
	}
	pod, r, err := s.probe(ctx, cell, deniedTimeout)
	if err != nil {
		return ev, err
	}
	ev.Got = r.String()
	ev.Details = append(ev.Details, fmt.Sprintf("from pod %s: %s", pod.Name, r))
	switch {
	case r.Kind == probe.KindName:
		return ev, fmt.Errorf("the name could not be looked up, so nothing is known of the edge: %s", r.Error)
	case r.Connected, r.Kind == probe.KindRefused:
		return ev, phase.Want(ev.Want, "it got through: "+r.String())
	}
	f, seen := log.find(ctx, hubblePatience, func(f cilium.Flow) bool { return s.sameAttempt(f, pod, r, cell) && f.Verdict == "DROPPED" })
	if !seen {
		return ev, errors.Join(fmt.Errorf("the probe got no answer, but Hubble told of no drop from %s port %d to port %s within %s",
			pod.Name, r.LocalPort, cell.Port, hubblePatience), log.complete())
	}
	ev.Got = f.DropReason + "; " + f.String()
	if !slices.Contains([]string{"POLICY_DENIED", "POLICY_DENY"}, f.DropReason) {
		return ev, fmt.Errorf("the probe was dropped, but for another reason than policy: %s", f.DropReason)
	}
	return ev, nil
}

// sameAttempt says whether the flow is of this very probe: its pod and its port, and
// what it tried: a pod of the target workload, or the address of the host, and the port.
func (s *Stack) sameAttempt(f cilium.Flow, pod corev1.Pod, r probe.Attempt, cell Cell) bool {
	if f.Source.Namespace != pod.Namespace || f.Source.Pod != pod.Name || int(f.Source.Port) != r.LocalPort ||
		f.Protocol != cell.Port.Protocol() || int(f.Destination.Port) != cell.Port.Number {
		return false
	}
	if to, known := s.cfg.Intent.Workload(cell.To); known {
		return f.Destination.Namespace == to.Namespace && strings.HasPrefix(f.Destination.Pod, to.Name+"-")
	}
	host, _, _ := net.SplitHostPort(r.Address)
	return f.Destination.IP == host
}

// flowLog hears Hubble from its first use on and keeps what it heard.
type flowLog struct {
	stack *Stack

	mu     sync.Mutex
	stream *cilium.FlowStream
	flows  []cilium.Flow
	heard  chan struct{} // closed and replaced when a flow arrives
	err    error
	ended  bool
}

// open starts to listen, once; it returns when every node is being heard.
func (l *flowLog) open(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream != nil && !l.ended {
		return nil
	}
	cluster, err := l.stack.rest(ctx)
	if err != nil {
		return err
	}
	var filter cilium.FlowFilter
	if ns := l.stack.cfg.Intent.Namespaces(); len(ns) == 1 {
		filter.From.Namespace = ns[0]
	}
	// The stream outlives the check that happens to open it.
	stream, err := cilium.OpenFlows(context.WithoutCancel(ctx), cluster, filter)
	if err != nil {
		return err
	}
	l.stream, l.heard, l.ended = stream, make(chan struct{}), false
	go l.listen(stream)
	return nil
}

func (l *flowLog) listen(stream *cilium.FlowStream) {
	for {
		f, err := stream.Next(context.Background())
		l.mu.Lock()
		if err != nil {
			l.err, l.ended = err, true
		} else {
			l.flows = append(l.flows, f)
		}
		close(l.heard)
		l.heard = make(chan struct{})
		l.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// find waits for a flow, heard before or still to come.
func (l *flowLog) find(ctx context.Context, patience time.Duration, match func(cilium.Flow) bool) (cilium.Flow, bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		l.mu.Lock()
		i := slices.IndexFunc(l.flows, match)
		heard, ended := l.heard, l.ended
		var f cilium.Flow
		if i >= 0 {
			f = l.flows[i]
		}
		l.mu.Unlock()
		if i >= 0 {
			return f, true
		}
		if ended {
			return f, false
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return f, false
		}
	}
}

// complete says whether anything may have been missed.
func (l *flowLog) complete() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return fmt.Errorf("the stream of flows ended: %w", l.err)
	}
	return l.stream.Complete()
}

func (l *flowLog) close() error {
	l.mu.Lock()
	stream := l.stream
	l.mu.Unlock()
	if stream == nil {
		return nil
	}
	return stream.Close()
}

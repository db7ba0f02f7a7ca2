package zerotrust

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	corev1 "k8s.io/api/core/v1"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/postgres"
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

// Matrix is every workload, and what is outside the cluster, against every port of every
// other workload, and every workload against every host outside that any of them may
// connect to.
func Matrix(in Intent) []Cell {
	var all []Cell
	var hosts []Cell
	for _, e := range in.Edges {
		if c := (Cell{To: e.To, Port: e.Port}); e.host() != "" && !slices.Contains(hosts, c) {
			hosts = append(hosts, c)
		}
	}
	names := []string{Outside}
	for _, w := range in.Workloads {
		names = append(names, w.Name)
	}
	for _, from := range names {
		for _, to := range in.Workloads {
			if from == to.Name {
				continue
			}
			for _, port := range to.listens() {
				edge, allowed := in.Edge(from, to.Name, port)
				all = append(all, Cell{From: from, To: to.Name, Port: port, Allowed: allowed, Authenticated: edge.Authenticated})
			}
		}
		if from == Outside {
			continue
		}
		for _, c := range hosts {
			c.From = from
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
	return append([]phase.Check{{
		Name: "policies as derived", Doc: "The policies in force are exactly the derived ones, in the intent's namespaces and for the whole cluster.",
		Hint: "kubectl get cnp,ccnp,netpol -A; run again without --verify: the cilium phase puts the derived ones back.",
		Run:  s.checkPolicies,
	}}, s.matrixChecks(s.flows(), Matrix(s.cfg.Intent))...)
}

// flows are what Hubble tells from their first use on, until the Stack is closed.
func (s *Stack) flows() *flowLog {
	log := &flowLog{stack: s}
	s.atClose(log.close)
	return log
}

// matrixChecks prove each of the cells.
func (s *Stack) matrixChecks(log *flowLog, cells []Cell) []phase.Check {
	var all []phase.Check
	for _, cell := range cells {
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

// sourceName is where a probe comes from.
func sourceName(pod corev1.Pod) string {
	if pod.Name == "" {
		return "outside the cluster"
	}
	return "pod " + pod.Name
}

// target is what the probe of a cell tries: the workload's Service or, for what was
// deployed by somebody else and need not have one of its name, a pod of it.
func (s *Stack) target(ctx context.Context, c Cell) (string, error) {
	host, outside := strings.CutPrefix(c.To, dnsPrefix)
	if !outside {
		to, _ := s.cfg.Intent.Workload(c.To)
		if host = to.Host(); c.From == Outside || to.foreign() {
			pods, err := s.readyPods(ctx, to)
			if err != nil {
				return "", err
			}
			host = pods[0].Status.PodIP
		}
	}
	address := net.JoinHostPort(host, fmt.Sprint(c.Port.Number))
	switch {
	case c.Port.UDP:
		return "udp://" + address, nil
	case c.Allowed && s.presents(c):
		return "tls://" + address, nil
	case c.Allowed && s.cfg.Intent.page(c) != "":
		return "http://" + address + s.cfg.Intent.page(c), nil
	}
	return address, nil
}

// page is what is asked for at the port of a cell, "" if it is not said to speak HTTP.
func (in Intent) page(c Cell) string {
	w, known := in.Workload(c.To)
	if !known || len(w.Ports) == 0 || c.Port != w.Ports[0] {
		return ""
	}
	return w.HTTP
}

// presents says whether the port of a cell speaks TLS from its first byte on, and with an SVID
// that can be verified: on somebody else's cluster there is no way to the trust bundle.
func (s *Stack) presents(c Cell) bool {
	w, known := s.cfg.Intent.Workload(c.To)
	return known && (s.cfg.Cluster == nil || s.installs()) && (w.MTLS && c.Port == w.Ports[0] || w.Runs == Vault || w.Runs == Postgres && c.Port.Number == postgres.AdminPort)
}

// verified is the SPIFFE ID of the certificates that a probe was shown, judged by the trust
// bundle.
func verified(r probe.Attempt, bundle x509bundle.Source) (spiffeid.ID, error) {
	if r.SpeechError != "" {
		return spiffeid.ID{}, fmt.Errorf("TLS: %s", r.SpeechError)
	}
	var chain []*x509.Certificate
	for _, der := range r.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return spiffeid.ID{}, err
		}
		chain = append(chain, c)
	}
	id, _, err := x509svid.Verify(chain, bundle)
	return id, err
}

// probe tries the cell from inside a pod of the source workload, or from outside; then the
// pod is none.
func (s *Stack) probe(ctx context.Context, cell Cell, timeout time.Duration) (corev1.Pod, probe.Attempt, error) {
	if cell.From == Outside {
		attempt, err := s.probeFromOutside(ctx, cell, timeout)
		return corev1.Pod{}, attempt, err
	}
	from, _ := s.cfg.Intent.Workload(cell.From)
	pods, err := s.readyPods(ctx, from)
	if err != nil {
		return corev1.Pod{}, probe.Attempt{}, err
	}
	prober, err := s.probes(ctx)
	if err != nil {
		return pods[0], probe.Attempt{}, err
	}
	target, err := s.target(ctx, cell)
	if err != nil {
		return pods[0], probe.Attempt{}, err
	}
	attempt, err := prober.Try(ctx, pods[0], target, timeout)
	return pods[0], attempt, err
}

// proveAllowed wants the probe to connect and Hubble to have seen it forwarded
// (and authenticated, where the edge asks for it). Without Hubble it still sees what does
// not connect.
func (s *Stack) proveAllowed(ctx context.Context, log *flowLog, cell Cell) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "connected, and forwarded by Hubble's account", Source: "probe in the pod; Hubble Relay"}
	if cell.Authenticated {
		ev.Want = "connected, and forwarded by Hubble's account after authentication by SPIRE"
	}
	deaf := log.open(ctx)
	var pod corev1.Pod
	var r probe.Attempt
	var err error
	var since int
	for try := 1; try <= allowedTries; try++ {
		since = log.now()
		if pod, r, err = s.probe(ctx, cell, allowedTimeout); err != nil {
			return ev, err
		}
		ev.Details = append(ev.Details, fmt.Sprintf("try %d from %s: %s", try, sourceName(pod), r))
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
	if deaf != nil && (r.Connected || cell.Port.UDP) {
		return ev, fmt.Errorf("%s, but Hubble cannot be asked what became of it: %w", r, deaf)
	}
	if deaf != nil {
		return ev, phase.Want(ev.Want, ev.Got)
	}
	if !r.Connected {
		if f, seen := log.find(ctx, since, time.Second, func(f cilium.Flow) bool { return s.sameAttempt(f, pod, r, cell) && f.Verdict == "DROPPED" }); seen {
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
	f, seen := log.find(ctx, since, hubblePatience, forwarded)
	if !seen {
		return ev, errors.Join(fmt.Errorf("%s, but Hubble told of no forwarded flow from %s port %d to port %s (authenticated: %t) within %s",
			what, sourceName(pod), r.LocalPort, cell.Port, cell.Authenticated, hubblePatience), log.complete())
	}
	ev.Got = strings.TrimPrefix(what, "the probe ") + "; " + f.String()
	if page := s.cfg.Intent.page(cell); page != "" {
		ev.Details = append(ev.Details, fmt.Sprintf("GET %s: status %d", page, r.Status))
		switch {
		case r.SpeechError != "":
			return ev, phase.Failf("%s does not answer GET %s: %s", r.Address, page, r.SpeechError)
		case r.Status >= 500:
			return ev, phase.Want(fmt.Sprintf("GET %s: a status below 500", page), fmt.Sprint(r.Status))
		}
	}
	if to, known := s.cfg.Intent.Workload(cell.To); known && s.presents(cell) {
		bundle, err := s.trusted(ctx)
		if err != nil {
			return ev, err
		}
		id, err := verified(r, bundle)
		if err != nil {
			return ev, phase.Failf("%s answers with no SVID of this trust domain: %w", r.Address, err)
		}
		ev.Details = append(ev.Details, "it presents the SVID "+id.String())
		if want := s.cfg.Intent.ID(to); id != want {
			return ev, phase.Want("the SVID "+want.String(), id.String())
		}
	}
	return ev, nil
}

// proveDenied wants the probe to get nothing and Hubble to name policy as the
// reason. A timeout alone proves nothing; a connection does, also without Hubble.
func (s *Stack) proveDenied(ctx context.Context, log *flowLog, cell Cell) (phase.Evidence, error) {
	ev := phase.Evidence{Want: "dropped by policy, by Hubble's account", Source: "probe in the pod; Hubble Relay"}
	deaf := log.open(ctx)
	since := log.now()
	pod, r, err := s.probe(ctx, cell, deniedTimeout)
	if err != nil {
		return ev, err
	}
	ev.Got = r.String()
	ev.Details = append(ev.Details, fmt.Sprintf("from %s: %s", sourceName(pod), r))
	switch {
	case r.Kind == probe.KindName:
		return ev, fmt.Errorf("the name could not be looked up, so nothing is known of the edge: %s", r.Error)
	case r.Connected, r.Kind == probe.KindRefused:
		return ev, phase.Want(ev.Want, "it got through: "+r.String())
	case deaf != nil:
		return ev, fmt.Errorf("the probe got no answer, but Hubble cannot be asked whether policy is why: %w", deaf)
	}
	f, seen := log.find(ctx, since, hubblePatience, func(f cilium.Flow) bool { return s.sameAttempt(f, pod, r, cell) && f.Verdict == "DROPPED" })
	if !seen {
		return ev, errors.Join(fmt.Errorf("the probe got no answer, but Hubble told of no drop from %s port %d to port %s within %s",
			sourceName(pod), r.LocalPort, cell.Port, hubblePatience), log.complete())
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
		return f.Destination.Namespace == to.Namespace && slices.Contains(f.Destination.Labels, "k8s:"+accountLabel+"="+to.Account())
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

	deaf   error     // why it could not be opened, if that took long: others need not wait as long
	deafAt time.Time // when that was
}

// What takes that long to fail is not tried again for a while.
const (
	longOpen  = 10 * time.Second
	deafAgain = time.Minute
)

// open starts to listen, once; it returns when every node is being heard.
func (l *flowLog) open(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stream != nil && !l.ended {
		return nil
	}
	if l.deaf != nil && time.Since(l.deafAt) < deafAgain {
		return l.deaf
	}
	began := time.Now()
	err := l.start(ctx)
	l.deaf, l.deafAt = nil, time.Now()
	if err != nil && ctx.Err() == nil && time.Since(began) > longOpen {
		l.deaf = err
	}
	return err
}

// start opens the stream; l.mu is held.
func (l *flowLog) start(ctx context.Context) error {
	cluster, err := l.stack.rest(ctx)
	if err != nil {
		return err
	}
	// The stream outlives the check that happens to open it.
	stream, err := cilium.OpenFlows(context.WithoutCancel(ctx), cluster, cilium.FlowFilter{})
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

// now is the place in the log that what is heard from here on comes after. Flows are told
// apart by it, and not by their times: the clocks of nodes differ.
func (l *flowLog) now() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.flows)
}

// find waits for a flow that was heard since that place, or is still to come: an attempt of
// long ago may have had the same port.
func (l *flowLog) find(ctx context.Context, since int, patience time.Duration, match func(cilium.Flow) bool) (cilium.Flow, bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		l.mu.Lock()
		i := slices.IndexFunc(l.flows[since:], match)
		heard, ended := l.heard, l.ended
		var f cilium.Flow
		if i >= 0 {
			f = l.flows[since+i]
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

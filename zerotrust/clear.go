package zerotrust

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/kindx"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/postgres"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

// Marked is an application that can carry texts which are then looked for on the wire.
type Marked interface {
	// Marks says which texts Carry will carry, and each over which edges of the intent, as
	// Edge.String names them. The marker, of lower-case letters and digits, is one of them;
	// the others are of letters, digits and hyphens alone, 12 at the least, so that no
	// encoding of an application changes them. None of them is a secret. Every one crosses
	// an edge that is plain by design, too: or it could not be told that it would be seen.
	Marks(ctx context.Context, marker string) (map[string][]string, error)
	// Carry uses the application so, and leaves nothing behind.
	Carry(ctx context.Context, marker string) error
}

// Wiretap is a check that listens on every interface of every node while an application is
// at work, and wants what it carries to be seen in the clear on edges that are plain by
// design, and nowhere else: on every edge that is encrypted there is traffic, and none of
// the texts. Of what stays within a pod it hears nothing. Beside what Carry does it changes
// nothing. It needs a cluster that kind made; the prober lies in each node while it listens.
func (s *Stack) Wiretap(site Marked) phase.Check {
	return phase.Check{
		Name: "nothing in the clear", Doc: "What users and workloads say is seen in the clear, by all interfaces of all nodes, where it is plain by design, and nowhere else.",
		Hint: "See the evidence for the edge; does its target speak TLS on that port (workload's mtls, Vault's and PostgreSQL's configuration)?",
		Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkClear(ctx, site) },
	}
}

const (
	// captureLimit ends a capture that was left alone.
	captureLimit = 2 * time.Minute
	// nodeProber is where the prober lies in a node, for as long as it listens: /tmp and /run
	// are mounted so that nothing in them can be run.
	nodeProber = "/zerotrust-prober"
)

func (s *Stack) checkClear(ctx context.Context, site Marked) (phase.Evidence, error) {
	ev := phase.Evidence{
		Want:   "the texts are seen on plain edges and on no other; every encrypted edge has traffic",
		Source: "packets on all interfaces of every node (AF_PACKET), while the application is used",
	}
	marker := strings.ToLower(rand.Text())
	marks, err := site.Marks(ctx, marker)
	if err != nil {
		return ev, fmt.Errorf("asking what will be carried: %w", err)
	}
	before, err := s.wire(ctx)
	if err != nil {
		return ev, err
	}
	heard, err := s.hear(ctx, slices.Sorted(maps.Keys(marks)), func(ctx context.Context) error { return site.Carry(ctx, marker) })
	if err != nil {
		return ev, err
	}
	after, err := s.wire(ctx)
	if err != nil {
		return ev, err
	}
	if !maps.Equal(before.clients, after.clients) || !maps.Equal(before.servers, after.servers) {
		return ev, errors.New("pods or Services changed meanwhile, so that it cannot be told whose traffic it was: try again")
	}
	return before.judge(s.cfg.Intent, marks, heard, ev)
}

// encrypted says whether a workload's port speaks nothing but TLS. PostgreSQL's has a word
// before it, which says no more than that TLS is wanted.
func encrypted(w Workload, p Port) bool {
	switch {
	case p.UDP:
		return false
	case w.Runs == Vault:
		return slices.Contains(w.Ports, p)
	case w.Runs == Postgres:
		return p.Number == postgres.Port || p.Number == postgres.AdminPort
	}
	return w.MTLS && p == w.Ports[0]
}

// hear has every node listen for the marks while f runs.
func (s *Stack) hear(ctx context.Context, marks []string, f func(context.Context) error) (heard map[string]probe.Traffic, err error) {
	built, err := s.program(ctx, proberPackage)
	if err != nil {
		return nil, err
	}
	img, _ := s.resolved(built.ref)
	binary, err := fileOf(img, "app/prober")
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", built.ref, err)
	}
	nodes, err := kindx.Nodes(ctx, s.cfg.Intent.Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		// Also when ctx has ended.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		for _, n := range nodes {
			if e := n.Exec(clean, nil, nil, "rm", "-f", nodeProber); e != nil {
				err = errors.Join(err, e)
			}
		}
	}()
	var mu sync.Mutex
	ears := map[string]*probe.Capture{}
	group, _ := errgroup.WithContext(ctx)
	for _, n := range nodes {
		group.Go(func() error {
			// Another one may still be running, and a file that runs cannot be written to.
			if err := n.Exec(ctx, bytes.NewReader(binary), nil, "sh", "-c", "rm -f "+nodeProber+" && cat > "+nodeProber+" && chmod 755 "+nodeProber); err != nil {
				return err
			}
			c, err := probe.Listen(ctx, n, nodeProber, marks, captureLimit)
			if err != nil {
				return fmt.Errorf("node %s: %w", n.Name(), err)
			}
			mu.Lock()
			defer mu.Unlock()
			ears[n.Name()] = c
			return nil
		})
	}
	if err = group.Wait(); err == nil {
		if err = f(ctx); err != nil {
			err = fmt.Errorf("using the application: %w", err)
		}
	}
	heard = map[string]probe.Traffic{}
	for name, c := range ears {
		t, e := c.Stop()
		if e != nil {
			err = errors.Join(err, fmt.Errorf("node %s: %w", name, e))
		}
		heard[name] = t
	}
	return heard, err
}

// wire says whose the addresses are that packets come from and go to.
type wire struct {
	clients map[netip.Addr]string // pods, by the workload's name
	servers map[socket]service    // of pods, of Services, and of nodes for what is published
}

// socket is where something can be reached.
type socket struct {
	protocol string // as probe.Flow has it
	at       netip.AddrPort
}

// service is a port of a workload.
type service struct {
	workload string
	port     Port
}

// wire reads the addresses from the API server.
func (s *Stack) wire(ctx context.Context) (wire, error) {
	w := wire{clients: map[netip.Addr]string{}, servers: map[socket]service{}}
	client, err := s.kube(ctx)
	if err != nil {
		return w, err
	}
	nodes, err := s.nodeAddresses(ctx)
	if err != nil {
		return w, err
	}
	for _, to := range s.cfg.Intent.Workloads {
		pods, err := s.readyPods(ctx, to)
		if err != nil {
			return w, err
		}
		services, err := client.Clientset().CoreV1().Services(to.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + to.Name})
		if err != nil {
			return w, fmt.Errorf("asking for the Service of %s: %w", to.Name, err)
		}
		for _, p := range pods {
			ip, err := netip.ParseAddr(p.Status.PodIP)
			if err != nil {
				return w, fmt.Errorf("the address of pod %s: %w", p.Name, err)
			}
			w.clients[ip] = to.Name
			w.add(ip, to)
		}
		for _, svc := range services.Items {
			if ip, err := netip.ParseAddr(svc.Spec.ClusterIP); err == nil { // else it has none
				w.add(ip, to)
			}
		}
		for _, address := range nodes {
			if ip, err := netip.ParseAddr(address); err == nil && to.Publish != nil {
				w.servers[socket{"tcp", netip.AddrPortFrom(ip, uint16(to.Publish.NodePort))}] = service{to.Name, to.Ports[0]}
			}
		}
	}
	return w, nil
}

func (w wire) add(ip netip.Addr, to Workload) {
	for _, p := range to.listens() {
		w.servers[socket{strings.ToLower(p.Protocol()), netip.AddrPortFrom(ip, uint16(p.Number))}] = service{to.Name, p}
	}
}

// cell is what a flow, of either direction, is part of; ok is false if it leads to no
// workload. Who is no workload's pod is outside.
func (w wire) cell(f probe.Flow) (c Cell, ok bool) {
	to, client := w.servers[socket{f.Protocol, f.Dst}], f.Src
	if to == (service{}) {
		to, client = w.servers[socket{f.Protocol, f.Src}], f.Dst
	}
	if to == (service{}) {
		return Cell{}, false
	}
	from, known := w.clients[client.Addr()]
	if !known {
		from = Outside
	}
	return Cell{From: from, To: to.workload, Port: to.port}, true
}

// seen is the sum of flows.
type seen struct {
	packets, bytes int
	hits           []int // by mark
}

func (s seen) add(f probe.Flow) seen {
	s.packets, s.bytes = s.packets+f.Packets, s.bytes+f.Bytes
	hits := make([]int, len(f.Hits))
	copy(hits, s.hits)
	for i, n := range f.Hits {
		hits[i] += n
	}
	s.hits = hits
	return s
}

func (s seen) total() (n int) {
	for _, h := range s.hits {
		n += h
	}
	return n
}

func (s seen) String() string {
	return fmt.Sprintf("%d packets with payload, %d bytes, %d hits", s.packets, s.bytes, s.total())
}

// judge compares what was heard on the nodes with what the intent says. A text where it may
// not be is a failure, whatever else could not be told.
func (w wire) judge(in Intent, marks map[string][]string, heard map[string]probe.Traffic, ev phase.Evidence) (phase.Evidence, error) {
	edges, elsewhere := map[string]seen{}, map[string]seen{} // by the edge's name; by the flow's
	var wrong, untold []string
	for _, name := range slices.Sorted(maps.Keys(heard)) {
		t := heard[name]
		ev.Details = append(ev.Details, fmt.Sprintf("node %s: %d packets in %.1f s, %d of them lost, %d cut short", name, t.Packets, t.Seconds, t.Dropped, t.Truncated))
		if t.Dropped > 0 || t.Truncated > 0 {
			untold = append(untold, fmt.Sprintf("node %s could not look at %d of %d packets", name, t.Dropped+t.Truncated, t.Packets))
		}
		for _, f := range t.Flows {
			c, known := w.cell(f)
			e, allowed := in.Edge(c.From, c.To, c.Port)
			switch {
			case known && allowed:
				edges[e.String()] = edges[e.String()].add(f)
			case known:
				elsewhere[c.String()] = elsewhere[c.String()].add(f)
			default:
				key := fmt.Sprintf("%s from %s to %s", f.Protocol, f.Src, f.Dst)
				elsewhere[key] = elsewhere[key].add(f)
			}
		}
	}
	if len(heard) == 0 {
		untold = append(untold, "no node listened")
	}

	texts := slices.Sorted(maps.Keys(marks))
	crossed := map[string]bool{}
	for _, m := range texts {
		for _, e := range marks[m] {
			crossed[e] = true
		}
		ev.Details = append(ev.Details, fmt.Sprintf("carried: %s over %s", m, strings.Join(marks[m], ", ")))
	}
	inClear, sealed := make([]int, len(texts)), 0
	for _, e := range in.Edges {
		s, name := edges[e.String()], e.String()
		to, _ := in.Workload(e.To)
		if !encrypted(to, e.Port) {
			ev.Details = append(ev.Details, fmt.Sprintf("plain %s: %s", name, s))
			for i, n := range s.hits {
				inClear[i] += n
			}
			continue
		}
		sealed++
		ev.Details = append(ev.Details, fmt.Sprintf("encrypted %s: %s", name, s))
		switch {
		case s.total() > 0:
			wrong = append(wrong, fmt.Sprintf("%s: %d hits in the clear", name, s.total()))
		case !crossed[name]:
			untold = append(untold, name+": none of the texts is said to cross it")
		case s.packets == 0:
			untold = append(untold, name+": there was no traffic")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(elsewhere)) {
		if s := elsewhere[name]; s.total() > 0 {
			wrong = append(wrong, fmt.Sprintf("%s, which is no edge: %d hits in the clear", name, s.total()))
		}
	}
	for i, m := range texts {
		if inClear[i] == 0 {
			untold = append(untold, fmt.Sprintf("%s was not seen on a plain edge either, so that it would be seen is not shown", m))
		}
	}
	if sealed == 0 {
		untold = append(untold, "no edge of the intent is encrypted")
	}
	switch {
	case len(wrong) > 0:
		return ev, phase.Want(ev.Want, strings.Join(append(wrong, untold...), "; "))
	case len(untold) > 0:
		return ev, errors.New(strings.Join(untold, "; "))
	}
	ev.Got = fmt.Sprintf("%d encrypted edges with traffic and no hit; %s hits on plain ones", sealed, strings.Join(strings.Fields(strings.Trim(fmt.Sprint(inClear), "[]")), " and "))
	return ev, nil
}

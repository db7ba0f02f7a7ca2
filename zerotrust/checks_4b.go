package zerotrust

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// The ports that Kubernetes gives to Services of type NodePort, unless told otherwise.
const firstNodePort, lastNodePort = 30000, 32767

// lookupTimeout is two questions to the cluster's DNS: a resolver asks again after 5 s.
const lookupTimeout = 7 * time.Second

func (s *Stack) checks4B() []phase.Check {
	all := []phase.Check{
		{
			Name: "services inside", Doc: "Every Service is a ClusterIP without node ports, but for those of published workloads.",
			Hint: "kubectl get services -A -o wide",
			Run:  s.checkServices,
		},
		{
			Name: "names inside", Doc: "From inside the pods, the names of all workloads are found by the cluster's DNS.",
			Hint: "kubectl -n kube-system get pods -l k8s-app=kube-dns; each policy must allow DNS.",
			Run:  s.checkNames,
		},
	}
	if !s.installs() { // whose nodes' addresses need not be this machine's to reach
		all = slices.Insert(all, 1, phase.Check{
			Name: "refused from outside", Doc: "From this machine every node refuses the ports of all workloads and every node port but the published ones.",
			Hint: "Something listens there: kubectl get services -A; docker exec NODE ss -ltnp",
			Run:  s.checkOutside,
		})
	}
	for _, w := range s.cfg.Intent.Workloads {
		if w.HealthPort != 0 {
			all = append(all, phase.Check{
				Name: "health of " + w.Name, Doc: "Asked on its pod's own address space, it is alive and ready.",
				Hint: fmt.Sprintf("kubectl -n %s logs deploy/%s", w.Namespace, w.Name),
				Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkHealth(ctx, w) },
			})
		}
		if w.Publish != nil && !s.installs() {
			all = append(all, phase.Check{
				Name: "published " + w.Name, Doc: "It answers on this machine and on every node's address.",
				Hint: fmt.Sprintf("kubectl -n %s get service %s-public; docker port CLUSTER-control-plane", w.Namespace, w.Name),
				Run:  func(ctx context.Context) (phase.Evidence, error) { return s.checkPublished(ctx, w) },
			})
		}
	}
	return all
}

// published says which node ports are to be open, by Service.
func (in Intent) published() map[string]int {
	all := map[string]int{}
	for _, w := range in.Workloads {
		if w.Publish != nil {
			all[w.Namespace+"/"+w.Name+"-public"] = w.Publish.NodePort
		}
	}
	return all
}

func (s *Stack) checkServices(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Want: fmt.Sprintf("node ports: %v", s.cfg.Intent.published()), Source: "API server: services of all namespaces"}
	places := []string{metav1.NamespaceAll}
	if s.installs() { // others' Services are their own affair
		places, ev.Source = s.cfg.Intent.Namespaces(), "API server: services of the intent's namespaces"
	}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	var services []corev1.Service
	for _, ns := range places {
		found, err := client.Clientset().CoreV1().Services(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return ev, err
		}
		services = append(services, found.Items...)
	}
	open := map[string]int{}
	var wrong []string
	for _, svc := range services {
		name := svc.Namespace + "/" + svc.Name
		ev.Details = append(ev.Details, fmt.Sprintf("%s: %s %s", name, svc.Spec.Type, svc.Spec.ClusterIP))
		for _, p := range svc.Spec.Ports {
			if p.NodePort != 0 {
				open[name] = int(p.NodePort)
			}
		}
		if svc.Spec.Type == corev1.ServiceTypeLoadBalancer || len(svc.Spec.ExternalIPs) > 0 {
			wrong = append(wrong, fmt.Sprintf("%s is %s with external addresses %v", name, svc.Spec.Type, svc.Spec.ExternalIPs))
		}
	}
	ev.Got = fmt.Sprintf("node ports: %v", open)
	if len(wrong) > 0 {
		ev.Got += "; " + strings.Join(wrong, "; ")
	}
	return ev, same(ev)
}

// nodeAddresses are the internal IP addresses of the nodes, by name.
func (s *Stack) nodeAddresses(ctx context.Context) (map[string]string, error) {
	nodes, err := s.members(ctx)
	if err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, n := range nodes {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && all[n.Name] == "" {
				all[n.Name] = a.Address
			}
		}
	}
	return all, nil
}

// checkOutside tries ports of every node from this machine. Only a refusal counts; what
// gives no answer could not be told.
func (s *Stack) checkOutside(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "TCP connections from this machine to every node's address"}
	nodes, err := s.nodeAddresses(ctx)
	if err != nil {
		return ev, err
	}
	ports := map[int]bool{}
	for p := firstNodePort; p <= lastNodePort; p++ {
		ports[p] = true
	}
	for _, w := range s.cfg.Intent.Workloads {
		for _, p := range w.listens() {
			if !p.UDP { // which refuses nobody
				ports[p.Number] = true
			}
		}
	}
	for _, p := range s.cfg.Intent.published() {
		delete(ports, p)
	}
	var mu sync.Mutex
	var open, silent []string
	tries := make(chan string)
	var tried sync.WaitGroup
	for range 32 {
		tried.Go(func() {
			for address := range tries {
				err := dial(ctx, address)
				mu.Lock()
				switch {
				case err == nil:
					open = append(open, address)
				case !errors.Is(err, syscall.ECONNREFUSED):
					silent = append(silent, fmt.Sprintf("%s: %v", address, err))
				}
				mu.Unlock()
			}
		})
	}
	count := 0
	for name, ip := range nodes {
		ev.Details = append(ev.Details, name+" "+ip)
		for p := range ports {
			count++
			tries <- net.JoinHostPort(ip, fmt.Sprint(p))
		}
	}
	close(tries)
	tried.Wait()
	slices.Sort(ev.Details)
	ev.Want = fmt.Sprintf("%d refused on %d nodes", count, len(nodes))
	ev.Got = fmt.Sprintf("%d refused on %d nodes", count-len(open)-len(silent), len(nodes))
	slices.Sort(open)
	if len(open) > 0 {
		return ev, phase.Want(ev.Want, fmt.Sprintf("%s; open: %v", ev.Got, open))
	}
	if len(silent) > 0 {
		return ev, fmt.Errorf("%d of %d gave neither an answer nor a refusal, the first: %s", len(silent), count, silent[0])
	}
	return ev, same(ev)
}

// refused says whether something at the address answered that nothing listens there.
func refused(ctx context.Context, address string) bool {
	return errors.Is(dial(ctx, address), syscall.ECONNREFUSED)
}

func dial(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{Timeout: 3 * time.Second}).DialContext(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return err
}

// checkNames has a pod of each workload look up every other one's name.
func (s *Stack) checkNames(ctx context.Context) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "probe in the pods"}
	prober, err := s.probes(ctx)
	if err != nil {
		return ev, err
	}
	var mu sync.Mutex
	var failed []string
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	all := 0
	for _, from := range s.cfg.Intent.Workloads {
		for _, to := range s.cfg.Intent.Workloads {
			if from.Name == to.Name || len(to.Ports) == 0 || to.foreign() {
				continue // who serves nothing has no name of ours, nor has what others deployed
			}
			all++
			group.Go(func() error {
				pods, err := s.readyPods(groupCtx, from)
				if err != nil {
					return err
				}
				r, err := prober.Try(groupCtx, pods[0], "dns://"+to.Host(), lookupTimeout)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				ev.Details = append(ev.Details, fmt.Sprintf("%s looks up %s: %s", pods[0].Name, to.Host(), r))
				if !r.Connected {
					failed = append(failed, fmt.Sprintf("%s: %s", pods[0].Name, r.Error))
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		return ev, err
	}
	slices.Sort(ev.Details)
	slices.Sort(failed)
	ev.Want = fmt.Sprintf("%d of %[1]d names found", all)
	ev.Got = fmt.Sprintf("%d of %d names found", all-len(failed), all)
	if len(failed) > 0 {
		return ev, phase.Want(ev.Want, ev.Got+": "+strings.Join(failed, "; "))
	}
	return ev, same(ev)
}

// checkHealth asks every pod of the workload for its health, through a forwarded port.
func (s *Stack) checkHealth(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "HTTP through a forwarded port"}
	client, err := s.kube(ctx)
	if err != nil {
		return ev, err
	}
	pods, err := client.ReadyPods(ctx, w.Namespace, "app="+w.Name)
	if err != nil {
		return ev, err
	}
	if len(pods) == 0 { // not for want of a look: nothing there is healthy
		return ev, phase.Want("pods that are ready", "none")
	}
	var answers, wrong []string
	for _, p := range pods {
		forward, err := client.Forward(ctx, w.Namespace, p.Name, w.HealthPort)
		if err != nil {
			return ev, err
		}
		for _, path := range []string{"/health/live", "/health/ready"} {
			status, err := get(ctx, "http://"+forward.Addr+path)
			if err != nil {
				forward.Close()
				return ev, err
			}
			said := fmt.Sprintf("%s%s: %d", p.Name, path, status)
			answers = append(answers, said)
			if status != http.StatusOK {
				wrong = append(wrong, said)
			}
		}
		forward.Close()
	}
	ev.Want, ev.Details = "status 200", answers
	ev.Got = fmt.Sprintf("%d of %d answers with status 200", len(answers)-len(wrong), len(answers))
	if len(wrong) > 0 {
		return ev, phase.Want(ev.Want, strings.Join(wrong, "; "))
	}
	return ev, nil
}

// get is the status of a page, redirections not followed.
func get(ctx context.Context, url string) (int, error) {
	client := &http.Client{
		Timeout:       10 * time.Second,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return resp.StatusCode, nil
}

// checkPublished asks the published port, on this machine and on each node. A connection
// alone tells nothing: the engine and Cilium take one for a pod that is not there.
func (s *Stack) checkPublished(ctx context.Context, w Workload) (phase.Evidence, error) {
	ev := phase.Evidence{Source: "TCP from this machine: what comes back for GET /"}
	nodes, err := s.nodeAddresses(ctx)
	if err != nil {
		return ev, err
	}
	addresses := []string{net.JoinHostPort("127.0.0.1", fmt.Sprint(w.Publish.HostPort))}
	for _, ip := range nodes {
		addresses = append(addresses, net.JoinHostPort(ip, fmt.Sprint(w.Publish.NodePort)))
	}
	slices.Sort(addresses)
	ev.Want = fmt.Sprintf("an answer, by HTTP below 500 or by another protocol, at %v", addresses)
	var wrong []string
	for _, a := range addresses {
		said, err := firstLine(ctx, a)
		if err != nil {
			wrong = append(wrong, err.Error())
			continue
		}
		said = fmt.Sprintf("%s: %q", a, said)
		ev.Details = append(ev.Details, said)
		if serverError.MatchString(said) {
			wrong = append(wrong, said)
		}
	}
	ev.Got = fmt.Sprintf("%d of %d answer", len(addresses)-len(wrong), len(addresses))
	if len(wrong) > 0 {
		return ev, phase.Want(ev.Want, strings.Join(wrong, "; "))
	}
	return ev, nil
}

// serverError is an answer by HTTP that the server itself calls a failure.
var serverError = regexp.MustCompile(`"HTTP/1\.[01] 5`)

// firstLine is what comes back for a GET, at least one byte.
func firstLine(ctx context.Context, address string) (string, error) {
	conn, err := connect(ctx, address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", address); err != nil {
		return "", fmt.Errorf("asking %s: %w", address, err)
	}
	line, err := bufio.NewReader(io.LimitReader(conn, 200)).ReadString('\n')
	if line == "" {
		return "", fmt.Errorf("asking %s: it answers nothing: %w", address, err)
	}
	return strings.TrimSpace(line), nil
}

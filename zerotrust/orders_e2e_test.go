//go:build e2e

package zerotrust

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/internal/run"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// TestE2EOrders brings another intent up than the demo's: the one of examples/orders, with
// edges over UDP, from a namespace, from outside, and to a host, which is this machine. Then
// it proves it again as somebody would who did not build the cluster, and with no policy left.
func TestE2EOrders(t *testing.T) {
	l := &lab{T: t, cfg: labConfig(t), shots: t.TempDir()}
	const file = "../examples/orders/zerotrust.yaml"
	var err error
	if l.cfg.Intent, err = ReadIntent(file); err != nil {
		t.Fatal(err)
	}
	l.cfg.Intent.Name, l.cfg.Workers = "orders-e2e", 1
	l.cfg.Intent.Workloads[0].Publish.HostPort = sitePort
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := Down(ctx, l.cfg); err != nil {
			t.Error(err)
		}
	})
	s := l.stack()
	began := time.Now()
	l.ordersGreen(s, phase.Options{Only: []string{"cluster"}})
	l.payments(s)
	r := l.ordersGreen(s, phase.Options{})
	t.Logf("proven after %s", time.Since(began).Round(100*time.Millisecond))
	for _, edge := range []string{
		"outside → gateway:8080", "outside → queue:5672", "console → queue:15672", "gateway → metrics:8125/UDP", "console → metrics:8125/UDP",
		"billing → dns:payments.example.com:443", "shipping → dns:payments.example.com:443",
	} {
		if c := checkOf(r, "4D-network-policies", "edge "+edge); c.Status != phase.Passed || c.Edge == nil {
			t.Errorf("%s: %+v", edge, c)
		}
	}

	cluster, err := s.rest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prober, err := s.program(t.Context(), proberPackage)
	if err != nil {
		t.Fatal(err)
	}
	// As somebody who has the rights that are derived, and no other.
	verifier := rest.CopyConfig(cluster)
	verifier.Impersonate = rest.ImpersonationConfig{UserName: "somebody", Groups: []string{VerifierGroup, "system:authenticated"}}
	foreign, err := New(t.Context(), Config{Intent: l.cfg.Intent, Cluster: verifier, ProberImage: prober.ref})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	r = l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true})
	if c := checkOf(r, "permissions", "rights"); c.Status != phase.Failed || !strings.Contains(c.Err.Error(), "patch pods/ephemeralcontainers in namespace shop") {
		t.Errorf("without any rights: %s, %v", c.Status, c.Err)
	}
	roles, err := VerifierRoles(l.cfg.Intent)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.kubeClient(s).Apply(t.Context(), Owner, roles); err != nil {
		t.Fatal(err)
	}
	if r := l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true}); !r.OK() {
		t.Errorf("verified as somebody else's: %v", r.Err())
	}
	l.mutated(s)
	l.fromNoSPIFFE(s)

	// A cluster that enforces nothing must fail, in each cell that is to be denied.
	policies, err := Policies(l.cfg.Intent)
	if err != nil {
		t.Fatal(err)
	}
	if err := cilium.DeletePolicies(t.Context(), cluster, policies); err != nil {
		t.Fatal(err)
	}
	var wrong []string
	for deadline := time.Now().Add(time.Minute); ; {
		wrong = nil
		for _, c := range l.ordersRun(foreign.VerifyPhases(), phase.Options{VerifyOnly: true}).Phases[2].Checks {
			// Nobody authenticates either, so the edges that ask for it cannot be as wanted.
			if want := c.Edge.Allowed && !c.Edge.Authenticated; (c.Status == phase.Passed) != want {
				wrong = append(wrong, fmt.Sprintf("%s: %s", c.Name, c.Status))
			}
		}
		if len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	if len(wrong) > 0 {
		t.Errorf("with no policy left: %s", strings.Join(wrong, "; "))
	}
}

// mutated takes one of each kind of thing away.
func (l *lab) mutated(s *Stack) {
	l.Helper()
	all := s.Mutations()
	for _, name := range []string{"without the policy of queue", "without the identity of billing"} {
		i := slices.IndexFunc(all, func(c phase.Check) bool { return c.Name == name })
		began := time.Now()
		ev, err := all[i].Run(l.Context())
		if err != nil {
			l.Errorf("%s: %v", name, err)
		}
		l.Logf("%s: %s, in %s\n%s", name, ev.Got, time.Since(began).Round(100*time.Millisecond), strings.Join(ev.Details, "\n"))
	}
}

// fromNoSPIFFE makes the cluster one that has Cilium and policies, but no SPIRE and no mutual
// authentication, and upgrades it while its applications are used.
func (l *lab) fromNoSPIFFE(s *Stack) {
	l.Helper()
	if err := s.Rollback(l.Context()); err != nil {
		l.Fatal(err)
	}
	cluster, err := s.rest(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	if err := deploy.Uninstall(l.Context(), cluster, s.spireConfig()); err != nil {
		l.Fatal(err)
	}
	s.dropSPIRE()
	if spaces, err := l.kubeClient(s).Clientset().CoreV1().Namespaces().List(l.Context(), metav1.ListOptions{FieldSelector: "metadata.name=spire-system"}); err != nil || len(spaces.Items) > 0 {
		l.Fatalf("SPIRE is still there: %v, %v", spaces, err)
	}
	began := time.Now()
	stop := l.ordersLoad(s)
	err = s.Upgrade(l.Context())
	requests, failed, first := stop()
	if err != nil {
		l.Fatal(err)
	}
	if failed > 0 || requests < 20 {
		l.Errorf("%d requests, %d failed, the first: %v", requests, failed, first)
	}
	l.Logf("from no SPIFFE to mutual authentication in %s: %d requests, %d failed", time.Since(began).Round(100*time.Millisecond), requests, failed)
	l.ordersGreen(s, phase.Options{VerifyOnly: true})
}

// ordersLoad uses the gateway from outside, and the queue from the gateway's own pod, until
// stop is called.
func (l *lab) ordersLoad(s *Stack) (stop func() (requests, failed int, first error)) {
	ctx, cancel := context.WithCancel(l.Context())
	var mu sync.Mutex
	var requests, failed int
	var first error
	var users sync.WaitGroup
	use := func(pause time.Duration, once func() error) {
		users.Go(func() {
			for ctx.Err() == nil {
				err := once()
				if ctx.Err() != nil {
					return // it was broken off
				}
				mu.Lock()
				requests++
				if err != nil {
					failed++
					first = cmp.Or(first, err)
				}
				mu.Unlock()
				time.Sleep(pause)
			}
		})
	}
	use(200*time.Millisecond, func() error {
		_, err := firstLine(ctx, net.JoinHostPort("127.0.0.1", fmt.Sprint(sitePort)))
		return err
	})
	use(500*time.Millisecond, func() error {
		_, r, err := s.probe(ctx, Cell{From: "gateway", To: "queue", Port: TCP(5672), Allowed: true}, allowedTimeout)
		if err == nil && !r.Connected {
			err = errors.New(r.String())
		}
		return err
	})
	return func() (int, int, error) {
		cancel()
		users.Wait()
		return requests, failed, first
	}
}

func (l *lab) ordersRun(phases []*phase.Phase, o phase.Options) phase.Report {
	l.Helper()
	r, _ := phase.RunWith(l.Context(), phases, o, nil)
	return r
}

func (l *lab) ordersGreen(s *Stack, o phase.Options) phase.Report {
	l.Helper()
	r := l.ordersRun(s.Phases(), o)
	if !r.OK() {
		var text bytes.Buffer
		_ = report.Summary(&text, r)
		l.Fatalf("%v\n%s", r.Err(), text.String())
	}
	return r
}

// payments has this machine be payments.example.com for the cluster, and answer there.
func (l *lab) payments(s *Stack) {
	l.Helper()
	gateway, err := run.Output(l.Context(), "docker", "network", "inspect", "kind", "--format", "{{range .IPAM.Config}}{{.Gateway}} {{end}}")
	if err != nil {
		l.Fatal(err)
	}
	ip := strings.Fields(gateway)[0]
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, "443"))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	client, err := s.kube(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	maps := client.Clientset().CoreV1().ConfigMaps("kube-system")
	dns, err := maps.Get(l.Context(), "coredns", metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	const after = "    ready\n"
	if !strings.Contains(dns.Data["Corefile"], after) {
		l.Fatalf("CoreDNS's configuration is another one:\n%s", dns.Data["Corefile"])
	}
	dns.Data["Corefile"] = strings.Replace(dns.Data["Corefile"], after, after+"    hosts {\n      "+ip+" payments.example.com\n      fallthrough\n    }\n", 1)
	if _, err := maps.Update(l.Context(), dns, metav1.UpdateOptions{}); err != nil {
		l.Fatal(err)
	}
	// It is not up yet: without a network its pods wait, and read this when they start.
}

// checkOf is a check of the report, the zero one if it is not there.
func checkOf(r phase.Report, phaseName, name string) phase.CheckResult {
	for _, p := range r.Phases {
		if i := slices.IndexFunc(p.Checks, func(c phase.CheckResult) bool { return c.Name == name }); p.Name == phaseName && i >= 0 {
			return p.Checks[i]
		}
	}
	return phase.CheckResult{}
}

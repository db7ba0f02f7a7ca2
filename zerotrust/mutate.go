package zerotrust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8stypes "k8s.io/apimachinery/pkg/types"

	"github.com/org/spire-vault-99-action/cilium"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/probe"
)

// Mutations are checks that take one thing away at a time and want the matrix to change in
// exactly what follows from that, and in nothing else: so that it is seen to be this thing
// that the proof stands on. Each puts back what it took, also when it is interrupted. If the
// process is killed, the next run of the phases puts everything back: policies and the SPIRE
// server come from the intent, and what does not is kept in a ConfigMap until it is back.
// They belong into a phase with Serial and a long Timeout, behind all others.
func (s *Stack) Mutations() []phase.Check {
	log := &flowLog{stack: s}
	s.atClose(log.close)
	var all []phase.Check
	for _, w := range s.cfg.Intent.Workloads {
		all = append(all, phase.Check{
			Name: "without the policy of " + w.Name, Doc: "Its policy is taken away: what it alone kept out gets through, and nothing else does; then all is as before.",
			Hint: "kubectl get cnp -A; run again without --mutate: the cilium phase puts the policies back.",
			Run:  func(ctx context.Context) (phase.Evidence, error) { return s.mutatePolicy(ctx, log, w) },
		})
	}
	for _, w := range s.cfg.Intent.Workloads {
		if len(authenticated(s.cfg.Intent, w.Name)) > 0 {
			all = append(all, phase.Check{
				Name: "without the identity of " + w.Name, Doc: "SPIRE no longer has the identity by which Cilium authenticates it: its authenticated edges are dropped with AUTH_REQUIRED, and no other; then all is as before.",
				Hint: "Run again without --mutate: the identities phase puts the entries back.",
				Run:  func(ctx context.Context) (phase.Evidence, error) { return s.mutateIdentity(ctx, log, w) },
			})
		}
	}
	return append(all, phase.Check{
		Name: "without the SPIRE server", Doc: "It is stopped: who has an identity goes on, also with a new handshake; nobody new gets one; it comes back, and they do.",
		Hint: "kubectl -n spire-system scale statefulset spire-server --replicas 1",
		Run:  func(ctx context.Context) (phase.Evidence, error) { return s.mutateServer(ctx, log) },
	})
}

// without says which denied cells get through when the policy of a workload is gone: those
// with no other end that a policy guards.
func without(in Intent, workload string) []Cell {
	var all []Cell
	for _, c := range Matrix(in) {
		_, inside := in.Workload(c.To)
		source := c.From == workload || c.From == Outside
		target := c.To == workload || !inside
		if !c.Allowed && source && target && (c.From == workload || c.To == workload) {
			all = append(all, c)
		}
	}
	return all
}

// authenticated are the cells at either end of which a workload is authenticated.
func authenticated(in Intent, workload string) []Cell {
	return slices.DeleteFunc(Matrix(in), func(c Cell) bool {
		return !c.Authenticated || c.From != workload && c.To != workload
	})
}

// mutationPatience is how long a change may take to be in force on every node.
const mutationPatience = time.Minute

// mutation is one thing taken away.
type mutation struct {
	take, back func(ctx context.Context) error
	// nudge, if set, is called before each look at the cells that are to change.
	nudge func(ctx context.Context) error
	// also and afterwards, if set, are what else must hold while the thing is gone, and once
	// it is back.
	also, afterwards func(ctx context.Context) error
	// expect says for a cell what it must be while the thing is gone. The cells that
	// change are looked at again until they have, or patience ends.
	expect func(Cell) expectation
}

// expectation is what a cell must be.
type expectation string

const (
	asBefore      expectation = "as before"
	getsThrough   expectation = "gets through"
	notTold       expectation = "gets through, unauthenticated"
	dropsWithAuth expectation = "dropped with AUTH_REQUIRED"
)

// mutate takes away, looks, puts back, and looks again.
func (s *Stack) mutate(ctx context.Context, log *flowLog, m mutation) (ev phase.Evidence, err error) {
	ev = phase.Evidence{Want: "the cells that follow from it change, and no other; then all are as before", Source: "the matrix: probes in the pods, Hubble Relay"}
	cells := Matrix(s.cfg.Intent)
	put := func() error {
		// Also when ctx has ended.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), mutationPatience)
		defer cancel()
		return m.back(clean)
	}
	if err := m.take(ctx); err != nil {
		return ev, errors.Join(err, put())
	}
	during := s.settled(ctx, log, cells, m, &ev)
	var also error
	if m.also != nil && len(during) == 0 {
		also = m.also(ctx)
	}
	if err := put(); err != nil {
		return ev, fmt.Errorf("putting it back: %w", err)
	}
	if also != nil {
		return ev, also
	}
	if len(during) > 0 {
		return ev, phase.Want(ev.Want, strings.Join(during, "; "))
	}
	if after := s.settled(ctx, log, cells, mutation{expect: func(Cell) expectation { return asBefore }}, nil); len(after) > 0 {
		return ev, phase.Want(ev.Want, "afterwards: "+strings.Join(after, "; "))
	}
	if m.afterwards != nil {
		if err := m.afterwards(ctx); err != nil {
			return ev, fmt.Errorf("afterwards: %w", err)
		}
	}
	ev.Got = fmt.Sprintf("%d of %d cells changed, as they should, and are as before", len(ev.Details), len(cells))
	return ev, nil
}

// settled compares until nothing is wrong or patience ends; what is right once need not be
// looked at again but for the last time, when all is looked at together.
func (s *Stack) settled(ctx context.Context, log *flowLog, cells []Cell, m mutation, ev *phase.Evidence) []string {
	changing := slices.DeleteFunc(slices.Clone(cells), func(c Cell) bool { return m.expect(c) == asBefore })
	for deadline := time.Now().Add(mutationPatience); len(changing) > 0 && time.Now().Before(deadline) && ctx.Err() == nil; {
		if m.nudge != nil {
			if err := m.nudge(ctx); err != nil {
				return []string{err.Error()}
			}
		}
		changing = slices.DeleteFunc(changing, func(c Cell) bool {
			_, ok := s.is(ctx, log, c, m.expect(c))
			return ok
		})
	}
	wrong := s.compare(ctx, log, cells, m.expect, ev)
	if len(wrong) > 0 && ev == nil { // what was put back may still be on its way
		for deadline := time.Now().Add(mutationPatience); len(wrong) > 0 && time.Now().Before(deadline) && ctx.Err() == nil; {
			wrong = s.compare(ctx, log, cells, m.expect, ev)
		}
	}
	return wrong
}

// compare tells which cells are not as expected; what those that change were seen to be
// goes to the evidence.
func (s *Stack) compare(ctx context.Context, log *flowLog, cells []Cell, expect func(Cell) expectation, ev *phase.Evidence) []string {
	var mu sync.Mutex
	var wrong []string
	var group errgroup.Group
	group.SetLimit(8)
	for _, c := range cells {
		group.Go(func() error {
			want := expect(c)
			got, ok := s.is(ctx, log, c, want)
			mu.Lock()
			defer mu.Unlock()
			if !ok {
				wrong = append(wrong, fmt.Sprintf("%s: want %s; %s", c, want, got))
			} else if want != asBefore && ev != nil {
				ev.Details = append(ev.Details, fmt.Sprintf("%s: %s: %s", c, want, got))
			}
			return nil
		})
	}
	_ = group.Wait()
	slices.Sort(wrong)
	return wrong
}

// is looks whether a cell is as wanted.
func (s *Stack) is(ctx context.Context, log *flowLog, c Cell, want expectation) (got string, ok bool) {
	if want == asBefore {
		prove := s.proveDenied
		if c.Allowed {
			prove = s.proveAllowed
		}
		ev, err := prove(ctx, log, c)
		if err != nil {
			return err.Error(), false
		}
		return ev.Got, true
	}
	if err := log.open(ctx); err != nil {
		return err.Error(), false
	}
	since := log.now()
	pod, r, err := s.probe(ctx, c, deniedTimeout)
	if err != nil {
		return err.Error(), false
	}
	verdict := func(match func(cilium.Flow) bool) (string, bool) {
		f, seen := log.find(ctx, since, hubblePatience, func(f cilium.Flow) bool { return s.sameAttempt(f, pod, r, c) && match(f) })
		if !seen {
			return r.String() + ", and Hubble told of no such flow", false
		}
		return f.String(), true
	}
	through := r.Connected || r.Kind == probe.KindRefused
	switch want {
	case getsThrough, notTold:
		// A port where nobody listens answers too, by its refusal.
		if !through {
			return r.String(), false
		}
		return verdict(func(f cilium.Flow) bool { return f.Verdict == "FORWARDED" && f.AuthType == "" })
	}
	if through {
		return r.String(), false
	}
	return verdict(func(f cilium.Flow) bool { return f.Verdict == "DROPPED" && f.DropReason == "AUTH_REQUIRED" })
}

func (s *Stack) mutatePolicy(ctx context.Context, log *flowLog, w Workload) (phase.Evidence, error) {
	cluster, err := s.rest(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	all, err := Policies(s.cfg.Intent)
	if err != nil {
		return phase.Evidence{}, err
	}
	one := fmt.Appendf(nil, "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata:\n  name: %s\n  namespace: %s\n", PolicyName(w), w.Namespace)
	open := without(s.cfg.Intent, w.Name)
	return s.mutate(ctx, log, mutation{
		take: func(ctx context.Context) error { return cilium.DeletePolicies(ctx, cluster, one) },
		back: func(ctx context.Context) error { return cilium.ApplyPolicies(ctx, cluster, Owner, all) },
		expect: func(c Cell) expectation {
			switch {
			case slices.Contains(open, c):
				return getsThrough
			case c.Authenticated && c.To == w.Name:
				return notTold // it was the policy that asked for it
			}
			return asBefore
		},
	})
}

func (s *Stack) mutateIdentity(ctx context.Context, log *flowLog, w Workload) (phase.Evidence, error) {
	cluster, err := s.rest(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	conn, err := s.spire(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	endpoint, err := s.identityOf(ctx, cluster, w.Name)
	if err != nil {
		return phase.Evidence{}, err
	}
	client, err := s.kube(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	affected := authenticated(s.cfg.Intent, w.Name)
	return s.mutate(ctx, log, mutation{
		take: func(ctx context.Context) error {
			return s.withdraw(ctx, client, conn, fmt.Sprintf("/identity/%d", endpoint.Identity))
		},
		// Or an authentication, of before or while agents still had the SVID, would hold
		// until it expires.
		nudge: func(ctx context.Context) error { return cilium.FlushAuth(ctx, cluster, "") },
		back:  func(ctx context.Context) error { return giveBack(ctx, client, conn) },
		expect: func(c Cell) expectation {
			if slices.Contains(affected, c) {
				return dropsWithAuth
			}
			return asBefore
		},
	})
}

// journal is where withdrawn entries are kept until they are back. They are the operator's
// own, which makes them when it first sees an identity and not again.
const (
	journalNamespace = "spire-system"
	journalName      = "zerotrust-withdrawn-entries"
)

// withdraw deletes the entries of a path, once they are in the journal.
func (s *Stack) withdraw(ctx context.Context, client *kube.Client, conn *deploy.Conn, path string) error {
	api := entryv1.NewEntryClient(conn)
	list, err := api.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: &entryv1.ListEntriesRequest_Filter{
		BySpiffeId: &types.SPIFFEID{TrustDomain: s.td.Name(), Path: path},
	}})
	if err != nil {
		return fmt.Errorf("looking for the entry %s: %w", path, err)
	}
	if len(list.GetEntries()) == 0 {
		return fmt.Errorf("SPIRE has no entry %s", path)
	}
	journal := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: journalName, Namespace: journalNamespace, Labels: map[string]string{"app.kubernetes.io/managed-by": Owner}},
		Data:       map[string]string{},
	}
	var ids []string
	for _, e := range list.GetEntries() {
		text, err := protojson.Marshal(e)
		if err != nil {
			return err
		}
		journal.Data[e.GetId()], ids = string(text), append(ids, e.GetId())
	}
	if _, err := client.Clientset().CoreV1().ConfigMaps(journalNamespace).Create(ctx, journal, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("writing down what is to be put back: %w", err)
	}
	answer, err := api.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: ids})
	if err != nil {
		return fmt.Errorf("withdrawing the entry %s: %w", path, err)
	}
	for _, r := range answer.GetResults() {
		if code := codes.Code(r.GetStatus().GetCode()); code != codes.OK { //nolint:gosec // codes are small
			return fmt.Errorf("withdrawing the entry %s: %s: %s", path, code, r.GetStatus().GetMessage())
		}
	}
	return nil
}

// giveBack makes the entries of the journal again, if there is one, and removes it.
func giveBack(ctx context.Context, client *kube.Client, conn *deploy.Conn) error {
	maps := client.Clientset().CoreV1().ConfigMaps(journalNamespace)
	journal, err := maps.Get(ctx, journalName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what is to be put back: %w", err)
	}
	req := &entryv1.BatchCreateEntryRequest{}
	for id, text := range journal.Data {
		var e types.Entry
		if err := protojson.Unmarshal([]byte(text), &e); err != nil {
			return fmt.Errorf("ConfigMap %s/%s: entry %s: %w", journalNamespace, journalName, id, err)
		}
		req.Entries = append(req.Entries, &e)
	}
	answer, err := entryv1.NewEntryClient(conn).BatchCreateEntry(ctx, req)
	if err != nil {
		return fmt.Errorf("putting entries back: %w", err)
	}
	for _, r := range answer.GetResults() {
		if code := codes.Code(r.GetStatus().GetCode()); code != codes.OK && code != codes.AlreadyExists { //nolint:gosec // codes are small
			return fmt.Errorf("putting entries back: %s: %s", code, r.GetStatus().GetMessage())
		}
	}
	return maps.Delete(ctx, journalName, metav1.DeleteOptions{})
}

// mutateServer stops the SPIRE server.
func (s *Stack) mutateServer(ctx context.Context, log *flowLog) (phase.Evidence, error) {
	client, err := s.kube(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	cluster, err := s.rest(ctx)
	if err != nil {
		return phase.Evidence{}, err
	}
	scale := func(ctx context.Context, replicas int) error {
		patch, err := json.Marshal(map[string]any{"spec": map[string]any{"replicas": replicas}})
		if err != nil {
			return err
		}
		_, err = client.Clientset().AppsV1().StatefulSets("spire-system").Patch(ctx, "spire-server", k8stypes.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: Owner})
		return err
	}
	return s.mutate(ctx, log, mutation{
		take: func(ctx context.Context) error {
			// What it issued is to be judged while it is away.
			if _, err := s.bundle(ctx); err != nil {
				return err
			}
			if err := scale(ctx, 0); err != nil {
				return err
			}
			if err := client.WaitGone(ctx, "spire-system", "app.kubernetes.io/name=spire-server"); err != nil {
				return err
			}
			s.dropSPIRE()                             // its connection led to a pod that is gone
			return cilium.FlushAuth(ctx, cluster, "") // so that what is proven is a new handshake
		},
		also: func(ctx context.Context) error {
			short, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			if _, err := deploy.WaitUsable(short, cluster, s.spireConfig()); err == nil {
				return phase.Failf("a new identity could be had while the server was stopped")
			}
			return nil
		},
		afterwards: func(ctx context.Context) error {
			_, err := deploy.WaitUsable(ctx, cluster, s.spireConfig())
			return err
		},
		back: func(ctx context.Context) error {
			if err := scale(ctx, 1); err != nil {
				return err
			}
			return client.WaitRollout(ctx, "StatefulSet", "spire-system", "spire-server")
		},
		expect: func(Cell) expectation { return asBefore },
	})
}

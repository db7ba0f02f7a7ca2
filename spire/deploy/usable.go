package deploy

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/spire"
)

const (
	// canaryOwner is the owner of canary entries, so no other Sync touches them.
	canaryOwner = "spire-canary"
	// canaryLife is when a canary entry ends that could not be removed.
	canaryLife = 30 * time.Minute
	// cachePage is how many entries SPIRE's server reads at a time when it rebuilds its
	// cache: listEntriesRequestPageSize in pkg/server/cache/entrycache/fullcache_ds.go.
	cachePage = 10000
	// execs is how many pods are asked at a time.
	execs = 16
)

// Usable is the proof that entries are delivered.
type Usable struct {
	// Nodes is every node of the cluster, by name.
	Nodes []NodeUsable
}

// NodeUsable is when a node's agent delivered.
type NodeUsable struct {
	Node string
	// After is the time from the making of the canary's entry to its SVID on the node.
	After time.Duration
}

// WaitUsable returns when every entry that was on the server at the time of the
// call is usable on every node: its agent has it and hands out its SVID. The ids, if
// any, must be among the entries registered, or it fails at once. The node alias must
// be (see Entries), or nothing is delivered anywhere.
//
// It proves so by an entry of its own, made for the pods of DaemonSet spire-canary
// under a SPIFFE ID never used before, and waits until that SVID comes out of the
// Workload API in the canary of each node. That says all about the entries made before,
// because entries reach an agent as one list, never one by one:
//
//   - The server answers agents from a cache that it rebuilds from scratch and swaps in
//     as a whole (RunRebuildCacheTask in pkg/server/endpoints/entryfetcher.go). It
//     reads its table by ascending row number, and a row made earlier has a lower
//     number, so a cache with the canary has all that was created before it.
//   - An agent asks for all entries it is authorised for in one stream, answered
//     from one such cache (SyncAuthorizedEntries in pkg/server/api/entry/v1/service.go),
//     and puts them into its own cache under one lock (UpdateEntries in
//     pkg/agent/manager/cache/lru_cache.go) before it fetches any SVID. An SVID not
//     yet fetched is so within half a second of a workload's asking.
//   - The table is read in pages of 10,000, and a change to an earlier entry can come
//     between two pages of one rebuild. So where there are more, a second canary is made
//     once all nodes have the first: the cache that it is in was begun after the one
//     with the first was complete, and so reads every page after all changes.
//
// The canary entry is removed before it returns.
func WaitUsable(ctx context.Context, config *rest.Config, cfg Config, ids ...spiffeid.ID) (Usable, error) {
	cfg = cfg.withDefaults()
	fail := func(err error) (Usable, error) {
		return Usable{}, fmt.Errorf("wait until SPIRE entries are usable on each node: %w", err)
	}
	client, err := kube.New(config)
	if err != nil {
		return fail(err)
	}
	conn, err := Connect(ctx, config, cfg)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = conn.Close() }()

	if err := registered(ctx, conn, append([]spiffeid.ID{spire.NodeAliasID(cfg.TrustDomain, cfg.ClusterName)}, ids...)); err != nil {
		return fail(err)
	}
	if err := client.WaitRollout(ctx, "DaemonSet", cfg.Namespace, "spire-canary"); err != nil {
		return fail(err)
	}
	pods, err := canaries(ctx, client, cfg)
	if err != nil {
		return fail(err)
	}
	count, err := spire.Count(ctx, conn)
	if err != nil {
		return fail(err)
	}
	usable, err := release(ctx, client, conn, cfg, pods)
	if err == nil && count >= cachePage {
		cfg.event("SPIRE entries: %d are more than a page: once more", count)
		usable, err = release(ctx, client, conn, cfg, pods)
	}
	if err != nil {
		return fail(err)
	}
	return usable, nil
}

// registered fails unless each ID has an entry.
func registered(ctx context.Context, conn *Conn, ids []spiffeid.ID) error {
	var missing []string
	for _, id := range ids {
		entries, err := spire.List(ctx, conn, spire.ListConfig{SPIFFEID: id})
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			missing = append(missing, id.String())
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("no entry on the server for %s: sync it first", strings.Join(missing, ", "))
	}
	return nil
}

// canaries are the ready canary pods, which must be one on each node: a DaemonSet is
// rolled out also where a node is left aside.
func canaries(ctx context.Context, client *kube.Client, cfg Config) ([]corev1.Pod, error) {
	pods, err := client.ReadyPods(ctx, cfg.Namespace, "app.kubernetes.io/name=spire-canary")
	if err != nil {
		return nil, err
	}
	nodes, err := client.Clientset().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var without []string
	for _, n := range nodes.Items {
		if !slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.Spec.NodeName == n.Name }) {
			without = append(without, n.Name)
		}
	}
	if len(without) > 0 || len(pods) == 0 {
		return nil, fmt.Errorf("no ready pod of DaemonSet %s/spire-canary on nodes %v", cfg.Namespace, without)
	}
	return pods, nil
}

// release makes a canary entry, waits until each pod has its SVID, and removes it.
func release(ctx context.Context, client *kube.Client, conn *Conn, cfg Config, pods []corev1.Pod) (usable Usable, err error) {
	entry := canaryEntry(cfg, rand.Text(), time.Now())
	start := time.Now()
	if _, err := spire.Apply(ctx, conn, spire.Diff(nil, []spire.Entry{entry}, canaryOwner), spire.SyncConfig{}); err != nil {
		return Usable{}, err
	}
	defer func() {
		// Also when ctx has ended: what is left behind ends by itself, but late.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if cleanErr := removeCanaries(clean, conn, entry); cleanErr != nil && err == nil {
			err = cleanErr
		}
	}()

	usable.Nodes = make([]NodeUsable, len(pods))
	var g errgroup.Group // without its context: each node's own failure is worth knowing
	g.SetLimit(execs)
	errs := make([]error, len(pods))
	for i, pod := range pods {
		g.Go(func() error {
			errs[i] = waitDelivered(ctx, client, pod, entry.SPIFFEID)
			usable.Nodes[i] = NodeUsable{Node: pod.Spec.NodeName, After: time.Since(start)}
			return nil
		})
	}
	_ = g.Wait()
	if err := errors.Join(errs...); err != nil {
		return Usable{}, err
	}
	slices.SortFunc(usable.Nodes, func(a, b NodeUsable) int { return strings.Compare(a.Node, b.Node) })
	for _, n := range usable.Nodes {
		cfg.event("SPIRE entries: usable on node %s after %s", n.Node, n.After.Round(10*time.Millisecond))
	}
	return usable, nil
}

func canaryEntry(cfg Config, nonce string, now time.Time) spire.Entry {
	return spire.Entry{
		SPIFFEID: spiffeid.RequireFromSegments(cfg.TrustDomain, "canary", nonce),
		ParentID: spire.NodeAliasID(cfg.TrustDomain, cfg.ClusterName),
		Selectors: []spire.Selector{
			{Type: "k8s", Value: "ns:" + cfg.Namespace}, {Type: "k8s", Value: "sa:spire-canary"},
		},
		ExpiresAt: now.Add(canaryLife).Truncate(time.Second),
	}
}

// removeCanaries deletes the entry, and those that a killed call left behind. It leaves
// those of a call that may still be running.
func removeCanaries(ctx context.Context, conn *Conn, mine spire.Entry) error {
	have, err := spire.List(ctx, conn, spire.ListConfig{ParentID: mine.ParentID})
	if err != nil {
		return err
	}
	var gone []spire.Entry
	for _, e := range have {
		mineOrOld := e.SPIFFEID == mine.SPIFFEID || !e.ExpiresAt.IsZero() && e.ExpiresAt.Before(time.Now())
		if strings.HasPrefix(e.ID, canaryOwner+".") && mineOrOld {
			gone = append(gone, e)
		}
	}
	_, err = spire.Apply(ctx, conn, spire.Diff(gone, nil, canaryOwner), spire.SyncConfig{})
	return err
}

// waitDelivered asks the Workload API from inside the pod until it hands out an SVID
// for id. The agent's program checks it against the trust bundle, and prints no key.
func waitDelivered(ctx context.Context, client *kube.Client, pod corev1.Pod, id spiffeid.ID) error {
	what := fmt.Sprintf("an SVID for %s on node %s", id, pod.Spec.NodeName)
	return kube.Wait(ctx, what, 250*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		out, err := client.ExecOutput(ctx, pod.Namespace, pod.Name, "spire-canary",
			"/opt/spire/bin/spire-agent", "api", "fetch", "x509", "-socketPath", WorkloadSocket, "-timeout", "2s")
		if err != nil {
			return false, "", err
		}
		got := fetched(out)
		return slices.Contains(got, id.String()), fmt.Sprintf("SVIDs for %v", got), nil
	})
}

// fetched are the SPIFFE IDs in the output of "spire-agent api fetch x509".
func fetched(out string) []string {
	var ids []string
	for line := range strings.Lines(out) {
		if id, ok := strings.CutPrefix(line, "SPIFFE ID:"); ok {
			ids = append(ids, strings.TrimSpace(id))
		}
	}
	return ids
}

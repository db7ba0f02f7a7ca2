package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the server's database
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

func wire(e spire.Entry) *types.Entry {
	p := &types.Entry{
		Id:       spire.EntryID(owner, e),
		SpiffeId: &types.SPIFFEID{TrustDomain: td.Name(), Path: e.SPIFFEID.Path()},
		ParentId: &types.SPIFFEID{TrustDomain: td.Name(), Path: e.ParentID.Path()},
		Hint:     e.Hint,
	}
	for _, s := range e.Selectors {
		p.Selectors = append(p.Selectors, &types.Selector{Type: s.Type, Value: s.Value})
	}
	return p
}

// bareWrite sends entries in batches as s says. It only sends: what comes before is not in
// its time.
func bareWrite(ctx context.Context, t testing.TB, real *spiretest.Real, entries []*types.Entry, s setting,
	send func(context.Context, entryv1.EntryClient, []*types.Entry) error) (time.Duration, error) {
	clients := make([]entryv1.EntryClient, s.conns)
	for i := range clients {
		conn, err := grpc.NewClient("unix://"+real.ServerSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return 0, err
		}
		t.Cleanup(func() { _ = conn.Close() })
		clients[i] = entryv1.NewEntryClient(conn)
	}
	begin := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.parallel)
	n := 0
	for batch := range slices.Chunk(entries, s.batch) {
		client := clients[n%len(clients)]
		n++
		g.Go(func() error { return send(ctx, client, batch) })
	}
	err := g.Wait()
	return time.Since(begin), err
}

func bareCreate(ctx context.Context, t testing.TB, real *spiretest.Real, want []spire.Entry, s setting) (time.Duration, error) {
	var entries []*types.Entry
	for _, e := range want {
		entries = append(entries, wire(e))
	}
	return bareWrite(ctx, t, real, entries, s, func(ctx context.Context, c entryv1.EntryClient, batch []*types.Entry) error {
		resp, err := c.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: batch, OutputMask: &types.EntryMask{}})
		for _, r := range resp.GetResults() {
			if r.Status.Code != 0 {
				return errors.New(r.Status.Message)
			}
		}
		return err
	})
}

// bareUpdate sets the hints of those that have one.
func bareUpdate(ctx context.Context, t testing.TB, real *spiretest.Real, changed []spire.Entry, s setting) error {
	var entries []*types.Entry
	for _, e := range changed {
		if e.Hint != "" {
			entries = append(entries, wire(e))
		}
	}
	_, err := bareWrite(ctx, t, real, entries, s, func(ctx context.Context, c entryv1.EntryClient, batch []*types.Entry) error {
		resp, err := c.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
			Entries: batch, InputMask: &types.EntryMask{Hint: true}, OutputMask: &types.EntryMask{},
		})
		for _, r := range resp.GetResults() {
			if r.Status.Code != 0 {
				return errors.New(r.Status.Message)
			}
		}
		return err
	})
	return err
}

func bareList(ctx context.Context, conn grpc.ClientConnInterface, pageSize int32) (n int, err error) {
	req := &entryv1.ListEntriesRequest{PageSize: pageSize}
	for {
		page, err := entryv1.NewEntryClient(conn).ListEntries(ctx, req, grpc.MaxCallRecvMsgSize(64<<20))
		if err != nil {
			return n, err
		}
		n += len(page.Entries)
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			return n, nil
		}
	}
}

// touched says whether anything was written since the table was seeded.
func touched(ctx context.Context, conn grpc.ClientConnInterface) string {
	for e, err := range spire.Entries(ctx, conn, spire.ListConfig{}) {
		if err != nil {
			return err.Error()
		}
		if e.RevisionNumber != 0 {
			return "WRONG: entry " + e.ID + " was written"
		}
	}
	return ""
}

// cli has spire-server's own program create them.
func (b entriesBench) cli(ctx context.Context, t testing.TB, real *spiretest.Real, want []spire.Entry) (time.Duration, error) {
	type pair struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	type entry struct {
		SPIFFEID  string `json:"spiffe_id"`
		ParentID  string `json:"parent_id"`
		Selectors []pair `json:"selectors"`
	}
	var list struct {
		Entries []entry `json:"entries"`
	}
	for _, e := range want {
		row := entry{SPIFFEID: e.SPIFFEID.String(), ParentID: e.ParentID.String()}
		for _, s := range e.Selectors {
			row.Selectors = append(row.Selectors, pair{s.Type, s.Value})
		}
		list.Entries = append(list.Entries, row)
	}
	data, err := json.Marshal(list)
	if err != nil {
		return 0, err
	}
	file := filepath.Join(t.TempDir(), "data.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		return 0, err
	}
	begin := time.Now()
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "spire-server"), "entry", "create", "-socketPath", real.ServerSocket, "-data", file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("spire-server entry create: %w: %s", err, out[max(0, len(out)-500):])
	}
	return time.Since(begin), nil
}

// buildController builds spire-controller-manager, pinned by the module in folder
// controllermanager, into a folder that the caller removes. It returns the program and the
// folder of its source, too.
func buildController(ctx context.Context) (program, source string, err error) {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/org/spire-vault-99-action/internal/bench").Output()
	if err != nil {
		return "", "", fmt.Errorf("find the folder of module bench, in which this has to run: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("build spire-controller-manager: %w", err), os.RemoveAll(dir))
		}
	}()
	program = filepath.Join(dir, "spire-controller-manager")
	in := filepath.Join(string(bytes.TrimSpace(module)), "controllermanager")
	if err := command(ctx, "go", "-C", in, "build", "-o", program, "github.com/spiffe/spire-controller-manager/cmd"); err != nil {
		return "", "", err
	}
	out, err := exec.CommandContext(ctx, "go", "-C", in, "list", "-m", "-f", "{{.Dir}}", "github.com/spiffe/spire-controller-manager").Output()
	return program, string(bytes.TrimSpace(out)), err
}

// manifest is e for spire-controller-manager.
func manifest(i int, e spire.Entry) map[string]any {
	var selectors []any
	for _, s := range e.Selectors {
		selectors = append(selectors, s.String())
	}
	return map[string]any{
		"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterStaticEntry",
		"metadata": map[string]any{"name": fmt.Sprintf("e%d", i)},
		"spec": map[string]any{
			"spiffeID": e.SPIFFEID.String(), "parentID": e.ParentID.String(), "selectors": selectors, "hint": e.Hint,
		},
	}
}

// reconciled is how long a controller took: for the list of what there is, and from its first
// write to the end of its last.
type reconciled struct {
	list, write time.Duration
	writes      int // calls
}

// reconcileStatic runs spire-controller-manager in static mode, which needs no API server, on
// one manifest for each entry.
func (b entriesBench) reconcileStatic(ctx context.Context, t testing.TB, real *spiretest.Real, want []spire.Entry) (reconciled, error) {
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return reconciled{}, err
	}
	for i, e := range want {
		text, err := json.Marshal(manifest(i, e))
		if err != nil {
			return reconciled{}, err
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("e%d.yaml", i)), text, 0o600); err != nil {
			return reconciled{}, err
		}
	}
	return b.reconcile(ctx, t, real, len(want), map[string]any{"staticManifestPath": dir})
}

// reconcile runs spire-controller-manager until it has nothing left to do for its n entries.
func (b entriesBench) reconcile(ctx context.Context, t testing.TB, real *spiretest.Real, n int, more map[string]any, env ...string) (reconciled, error) {
	w, err := watch(t, real)
	if err != nil {
		return reconciled{}, err
	}
	config := map[string]any{
		"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ControllerManagerConfig",
		"clusterName": "c1", "clusterDomain": "cluster.local", "trustDomain": td.Name(), "logLevel": "error", "gcInterval": time.Hour, // in nanoseconds
		"spireServerSocketPath": w.socket,
		"metrics":               map[string]any{"bindAddress": "0"},
		"health":                map[string]any{"healthProbeBindAddress": "0"},
	}
	maps.Copy(config, more)
	text, err := json.Marshal(config)
	if err != nil {
		return reconciled{}, err
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return reconciled{}, err
	}
	ctx, stop := context.WithTimeout(ctx, 30*time.Minute)
	cmd := exec.CommandContext(ctx, b.controller, "-config", file)
	cmd.Env = append(os.Environ(), env...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		stop()
		return reconciled{}, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its state tells
		stop()
		close(ended)
	}()
	// Between its list and its writes it reads its manifests.
	calls, err := w.quiet(ctx, "ListEntries", 2*time.Second+time.Duration(n)*400*time.Microsecond)
	stop()
	<-ended
	if err != nil {
		return reconciled{}, fmt.Errorf("spire-controller-manager (%s): %w: %s", cmd.ProcessState, err, output.Bytes())
	}
	return spans(calls), nil
}

// spans: what a controller does before its first list is to find out what the server can.
func spans(calls []call) reconciled {
	var r reconciled
	var list, write call
	for _, c := range calls {
		switch {
		case c.method == "ListEntries" && r.writes == 0:
			if list.begun.IsZero() {
				list = c
			}
			r.list = c.end.Sub(list.begun)
		case !list.begun.IsZero() && slices.Contains([]string{"BatchCreateEntry", "BatchUpdateEntry", "BatchDeleteEntry"}, c.method):
			if write.begun.IsZero() {
				write = c
			}
			r.writes++
			r.write = c.end.Sub(write.begun)
		}
	}
	return r
}

// peak is the most that run had on the heap above what was there before, in MiB.
func peak(run func()) float64 {
	heap := func() uint64 {
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	before := heap()
	highest := before
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			highest = max(highest, heap())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	run()
	close(done)
	<-watched
	return float64(highest-before) / (1 << 20)
}

package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
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
// controllermanager, into a folder that the caller removes.
func buildController(ctx context.Context) (string, error) {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/org/spire-vault-99-action/internal/bench").Output()
	if err != nil {
		return "", fmt.Errorf("find the folder of module bench, in which this has to run: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return "", err
	}
	program := filepath.Join(dir, "spire-controller-manager")
	cmd := exec.CommandContext(ctx, "go", "-C", filepath.Join(string(bytes.TrimSpace(module)), "controllermanager"),
		"build", "-o", program, "github.com/spiffe/spire-controller-manager/cmd")
	if out, err := cmd.CombinedOutput(); err != nil {
		_ = os.RemoveAll(dir)
		return "", fmt.Errorf("build spire-controller-manager: %w: %s", err, out)
	}
	return program, nil
}

// reconcile runs spire-controller-manager in static mode, which needs no API server, until
// the server has as many entries as are wanted.
func (b entriesBench) reconcile(ctx context.Context, t testing.TB, real *spiretest.Real, want []spire.Entry) (time.Duration, error) {
	dir := t.TempDir()
	manifests := filepath.Join(dir, "manifests")
	if err := os.Mkdir(manifests, 0o700); err != nil {
		return 0, err
	}
	for i, e := range want {
		manifest, err := json.Marshal(map[string]any{
			"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ClusterStaticEntry",
			"metadata": map[string]any{"name": fmt.Sprintf("e%d", i)},
			"spec": map[string]any{
				"spiffeID": e.SPIFFEID.String(), "parentID": e.ParentID.String(),
				"selectors": []string{e.Selectors[0].String(), e.Selectors[1].String()},
			},
		})
		if err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(manifests, fmt.Sprintf("e%d.yaml", i)), manifest, 0o600); err != nil {
			return 0, err
		}
	}
	config, err := json.Marshal(map[string]any{
		"apiVersion": "spire.spiffe.io/v1alpha1", "kind": "ControllerManagerConfig",
		"clusterName": "c1", "clusterDomain": "cluster.local", "trustDomain": td.Name(), "logLevel": "error", "gcInterval": time.Hour, // in nanoseconds
		"spireServerSocketPath": real.ServerSocket, "staticManifestPath": manifests,
		"metrics": map[string]any{"bindAddress": "0"},
		"health":  map[string]any{"healthProbeBindAddress": "0"},
	})
	if err != nil {
		return 0, err
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, b.controller, "-config", file)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		stop()
		return 0, err
	}
	ended := make(chan struct{})
	var endErr error // once ended is closed
	go func() {
		endErr = cmd.Wait()
		close(ended)
	}()
	defer func() {
		stop()
		<-ended
	}()

	var first time.Time
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		// It probes the server with one entry of its own, which goes again.
		n, err := spire.Count(ctx, real.Conn)
		if err != nil {
			return 0, err
		}
		if n > 1 && first.IsZero() {
			first = time.Now()
		}
		if n >= len(want) {
			return time.Since(first), nil
		}
		select {
		case <-ended:
			return 0, fmt.Errorf("spire-controller-manager ended with %d of %d entries: %w: %s", n, len(want), endErr, output.Bytes())
		case <-tick.C:
		}
	}
}

// seed puts entries into the database of a running server.
func seed(ctx context.Context, file string, entries []spire.Entry) (err error) {
	db, err := sql.Open("sqlite3", "file:"+file+"?_busy_timeout=10000")
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback()
			err = fmt.Errorf("seed the server's database: %w", err)
		}
	}()
	row, err := tx.PrepareContext(ctx, `insert into registered_entries (id, created_at, updated_at, entry_id, spiffe_id, parent_id,
		ttl, admin, downstream, expiry, revision_number, store_svid, hint, jwt_svid_ttl) values (?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, '', 0)`)
	if err != nil {
		return err
	}
	selector, err := tx.PrepareContext(ctx, `insert into selectors (created_at, updated_at, registered_entry_id, type, value) values (?, ?, ?, ?, ?)`)
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	for i, e := range entries {
		if _, err := row.ExecContext(ctx, i+1, now, now, spire.EntryID(owner, e), e.SPIFFEID.String(), e.ParentID.String()); err != nil {
			return err
		}
		for _, s := range e.Selectors {
			if _, err := selector.ExecContext(ctx, now, now, i+1, s.Type, s.Value); err != nil {
				return err
			}
		}
	}
	return tx.Commit()
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

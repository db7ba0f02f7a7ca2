package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"

	"github.com/org/spire-vault-99-action/images/fromsource/sourcetest"
	"github.com/org/spire-vault-99-action/internal/pgtest"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

const (
	owner             = "bench"
	controllerVersion = "0.6.3"
)

var td = spiffeid.RequireTrustDomainFromString("demo.local")

// wanted are n entries below one node alias, a hundred to a namespace.
func wanted(n int) []spire.Entry {
	want := make([]spire.Entry, n)
	for i := range want {
		want[i] = spire.WorkloadEntry(td, "c1", fmt.Sprintf("ns-%d", i/100), fmt.Sprintf("sa-%d", i%100))
	}
	return want
}

// edited is want with another hint on each hundredth.
func edited(want []spire.Entry) []spire.Entry {
	changed := make([]spire.Entry, len(want))
	copy(changed, want)
	for i := 0; i < len(changed); i += 100 {
		changed[i].Hint = fmt.Sprintf("edit-%d", time.Now().UnixNano())
	}
	return changed
}

type entriesBench struct {
	config
	bin, version string // the folder of spire-server, and what it says it is
	// controller is the program spire-controller-manager, controllerSource its module's folder.
	controller, controllerSource string
	postgres                     *pgtest.Server
}

// entries measures creation, with all ways on servers of their own, and what a sync of a
// large table costs where nothing or little is to do.
func entries(ctx context.Context, c config) (tables []Table, err error) {
	err = within(ctx, c.log, func(t testing.TB) (err error) {
		b := entriesBench{config: c, bin: sourcetest.SPIRE(t)}
		said, err := exec.CommandContext(ctx, filepath.Join(b.bin, "spire-server"), "--version").CombinedOutput()
		if err != nil {
			return fmt.Errorf("spire-server --version: %w", err)
		}
		b.version = strings.TrimSpace(string(said))
		if b.controller, b.controllerSource, err = buildController(ctx); err != nil {
			return err
		}
		t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(b.controller)) })
		b.postgres = pgtest.Start(t, pgtest.Config{})
		for _, fill := range b.tables() {
			table, err := fill(ctx)
			tables = append(tables, table)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return tables, err
}

// tables are to be filled in turn.
func (b entriesBench) tables() []func(context.Context) (Table, error) {
	created := func(d database, sizes ...int) func(context.Context) (Table, error) {
		return func(ctx context.Context) (Table, error) { return b.created(ctx, d, sizes) }
	}
	kept := func(d database) func(context.Context) (Table, error) {
		return func(ctx context.Context) (Table, error) { return b.kept(ctx, d, 100_000) }
	}
	if b.short {
		return []func(context.Context) (Table, error){created(sqliteBySPIFFEID, 1000), created(postgreSQL, 1000), kept(sqliteBySPIFFEID)}
	}
	sizes := []int{1000, 5000, 10_000}
	if len(b.sizes) > 0 {
		sizes = b.sizes
		slices.Sort(sizes)
	}
	few := slices.DeleteFunc(slices.Clone(sizes), func(n int) bool { return n > many })
	all := []func(context.Context) (Table, error){
		func(ctx context.Context) (Table, error) {
			table, err := b.created(ctx, sqliteBySPIFFEID, sizes)
			if err != nil || len(few) == 0 {
				return table, err
			}
			rows, err := b.createdFromCluster(ctx, sqliteBySPIFFEID, few)
			table.Rows = append(table.Rows, rows...)
			return table, err
		},
		created(postgreSQL, few...),
	}
	if len(b.sizes) > 0 {
		return all
	}
	return append(all, created(sqliteByParent, 5000), kept(sqliteBySPIFFEID), kept(postgreSQL))
}

// setting is how a bare loop of calls writes.
type setting struct{ batch, parallel, conns int }

func (s setting) String() string {
	return fmt.Sprintf("bare RPC, %d a call, %d at a time, %d conn", s.batch, s.parallel, s.conns)
}

// settings are the loops that are tried; the best of them is the limit.
var settings = []setting{{50, 8, 1}, {100, 1, 1}, {50, 2, 1}, {100, 4, 1}, {20, 8, 4}, {20, 16, 4}}

// many are as many entries as take minutes to create: only the most promising loop, Sync and
// the controller manager are measured with more, and on SQLite alone. The CLI cannot: it sends all
// in one call, of which a server takes 4 MiB.
const many = 15_000

func (b entriesBench) settings() []setting {
	if b.short {
		return []setting{settings[0], settings[1], settings[4]}
	}
	return settings
}

// measure keeps the best of b.repeat runs in row.
func (b entriesBench) measure(row *Row, once func() (time.Duration, string, error)) error {
	took, wrong, err := once()
	if err != nil {
		return fmt.Errorf("%s of %d, %s: %w", row.What, row.Size, row.Way, err)
	}
	if s := took.Seconds(); row.Seconds == 0 || s < row.Seconds {
		row.Seconds = s
	}
	if wrong != "" {
		row.Wrong = "WRONG: " + wrong
	}
	b.log("%s %d: %s: %.2f s %s", row.What, row.Size, row.Way, took.Seconds(), wrong)
	return nil
}

// createdWay is one way to have entries on an empty server.
type createdWay struct {
	name string
	once func(context.Context, testing.TB, *spiretest.Real) (time.Duration, error)
}

// createdWays are those that are tried with want: the bare loops first.
func (b entriesBench) createdWays(want []spire.Entry, settings []setting) []createdWay {
	var ways []createdWay
	for _, s := range settings {
		ways = append(ways, createdWay{s.String(), func(ctx context.Context, t testing.TB, real *spiretest.Real) (time.Duration, error) {
			return bareCreate(ctx, t, real, want, s)
		}})
	}
	ways = append(ways, createdWay{"spire.Sync", func(ctx context.Context, _ testing.TB, real *spiretest.Real) (time.Duration, error) {
		r, err := spire.Sync(ctx, real.Conn, want, spire.SyncConfig{Owner: owner})
		return r.Took, err
	}})
	if len(want) <= many {
		ways = append(ways, createdWay{"spire-server entry create", func(ctx context.Context, t testing.TB, real *spiretest.Real) (time.Duration, error) {
			return b.cli(ctx, t, real, want)
		}})
	}
	return append(ways, createdWay{"spire-controller-manager", func(ctx context.Context, t testing.TB, real *spiretest.Real) (time.Duration, error) {
		r, err := b.reconcileStatic(ctx, t, real, want)
		return r.write, err
	}})
}

func (b entriesBench) created(ctx context.Context, d database, sizes []int) (Table, error) {
	table := Table{
		Name: "entries-created-" + d.short, Title: "Entries created on an empty server: " + d.name,
		Versions: []string{"SPIRE " + b.version, "spire-controller-manager " + controllerVersion},
		Notes: []string{
			fmt.Sprintf("Each run has a new server; the best of %d counts. The limit is the best bare loop of that size.", b.repeat),
			"spire-controller-manager runs in static mode, from one manifest per entry; its time is from the beginning of its first creation to the end of its last.",
		},
	}
	settings := b.settings()
	for _, n := range sizes {
		if n > many {
			settings = settings[:1]
		}
		want := wanted(n)
		ways := b.createdWays(want, settings)
		rows := make([]Row, len(ways))
		for range b.repeat { // one of each in turn, so that what else the machine does befalls all
			for i, w := range ways {
				rows[i].What, rows[i].Size, rows[i].Way = "create", n, w.name
				err := b.server(ctx, d, func(t testing.TB, real *spiretest.Real) error {
					return b.measure(&rows[i], func() (time.Duration, string, error) {
						took, err := w.once(ctx, t, real)
						if err != nil {
							return took, "", err
						}
						return took, missing(ctx, real.Conn, want), nil
					})
				})
				if err != nil {
					return table, err
				}
			}
		}
		best := 0
		for i := range settings {
			rows[i].Aside = true
			if rows[i].Seconds < rows[best].Seconds {
				best = i
			}
		}
		rows[best].Limit, rows[best].Aside = true, false
		settings = bestOf(settings, rows, 3) // larger ones are measured with these alone
		table.Rows = append(table.Rows, rows...)
	}
	return table, nil
}

// bestOf are the n settings with the least time; rows begin with one for each.
func bestOf(settings []setting, rows []Row, n int) []setting {
	order := make([]int, len(settings))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(rows[a].Seconds, rows[b].Seconds) })
	var best []setting
	for _, i := range order[:min(n, len(order))] {
		best = append(best, settings[i])
	}
	return best
}

// missing says how the server's entries are not want, whatever their IDs.
func missing(ctx context.Context, conn grpc.ClientConnInterface, want []spire.Entry) string {
	left := map[string]bool{}
	for _, e := range want {
		left[spire.EntryID("", e)] = true
	}
	extra := 0
	for e, err := range spire.Entries(ctx, conn, spire.ListConfig{}) {
		if err != nil {
			return err.Error()
		}
		if id := spire.EntryID("", e); left[id] {
			delete(left, id)
		} else {
			extra++
		}
	}
	if len(left)+extra > 0 {
		return fmt.Sprintf("%d entries are missing, %d too many", len(left), extra)
	}
	return ""
}

// kept measures a table of n: listing it is the limit.
func (b entriesBench) kept(ctx context.Context, d database, n int) (Table, error) {
	table := Table{
		Name: "entries-kept-" + d.short, Title: "A large table kept equal to a list: " + d.name,
		Versions: []string{"SPIRE " + b.version, "spire-controller-manager " + controllerVersion},
		Notes: []string{
			"The limit is to list all entries with bare calls and to drop them and, where 1 % changed, to write those with the best bare loop.",
			"MiB is the peak of the heap above what the wanted list takes, garbage included, of the process that syncs.",
			"spire-controller-manager's is the time from its first call to the end of its last, less that for reading its manifests in between.",
			"The table is put into the server's database beforehand.",
		},
	}
	want := wanted(n)
	err := b.server(ctx, d, func(t testing.TB, real *spiretest.Real) error {
		if err := seed(ctx, d, real.Datastore, want); err != nil {
			return err
		}
		list := Row{What: "nothing to do", Size: n, Way: "bare RPC, ListEntries", Limit: true}
		noop := Row{What: "nothing to do", Size: n, Way: "spire.Sync"}
		bare := Row{What: "1 % changed", Size: n, Limit: true}
		sync := Row{What: "1 % changed", Size: n, Way: "spire.Sync"}
		for range b.repeat + 1 { // once more: the first also warms the database
			for _, size := range []int32{1000, 5000} {
				err := b.measure(&list, func() (time.Duration, string, error) {
					begin := time.Now()
					got, err := bareList(ctx, real.Conn, size)
					return time.Since(begin), not(got == n, "%d entries listed", got), err
				})
				if err != nil {
					return err
				}
			}
			err := b.measure(&noop, func() (time.Duration, string, error) {
				var r spire.Result
				var err error
				noop.MemoryMiB = max(noop.MemoryMiB, peak(func() { r, err = spire.Sync(ctx, real.Conn, want, spire.SyncConfig{Owner: owner}) }))
				return r.Took, not(len(r.Entries) == 0 && r.Plan.Unchanged == n, "%s", r), err
			})
			if err != nil {
				return err
			}
		}
		controller := Row{What: noop.What, Size: n, Way: "spire-controller-manager"}
		reconcile := func(row *Row, want []spire.Entry) error {
			return b.measure(row, func() (time.Duration, string, error) {
				r, err := b.reconcileStatic(ctx, t, real, want)
				return r.list + r.write, not((r.writes > 0) == (row.What != noop.What), "%d writes", r.writes), err
			})
		}
		if !b.short {
			if err := reconcile(&controller, want); err != nil {
				return err
			}
		}
		if noop.Wrong == "" {
			noop.Wrong = touched(ctx, real.Conn)
		}
		for range b.repeat {
			for _, s := range b.settings() {
				way := Row{What: bare.What, Size: n, Way: "ListEntries and " + s.String()}
				err := b.measure(&way, func() (time.Duration, string, error) {
					changed := edited(want)
					begin := time.Now()
					if _, err := bareList(ctx, real.Conn, 1000); err != nil {
						return 0, "", err
					}
					err := bareUpdate(ctx, t, real, changed, s)
					return time.Since(begin), "", err
				})
				if err != nil {
					return err
				}
				if bare.Seconds == 0 || way.Seconds < bare.Seconds {
					bare.Way, bare.Seconds = way.Way, way.Seconds
				}
			}
			err := b.measure(&sync, func() (time.Duration, string, error) {
				changed := edited(want)
				var r spire.Result
				var err error
				sync.MemoryMiB = max(sync.MemoryMiB, peak(func() { r, err = spire.Sync(ctx, real.Conn, changed, spire.SyncConfig{Owner: owner}) }))
				return r.Took, not(r.Count(spire.Updated) == n/100 && len(r.Entries) == n/100, "%s", r), err
			})
			if err != nil {
				return err
			}
		}
		table.Rows = []Row{list, noop, bare, sync}
		if !b.short {
			edits := Row{What: bare.What, Size: n, Way: controller.Way}
			if err := reconcile(&edits, edited(want)); err != nil {
				return err
			}
			table.Rows = []Row{list, noop, controller, bare, sync, edits}
		}
		runtime.KeepAlive(want)
		return nil
	})
	return table, err
}

func not(ok bool, format string, args ...any) string {
	if ok {
		return ""
	}
	return fmt.Sprintf(format, args...)
}

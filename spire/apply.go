package spire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// maxBatchBytes keeps a batch well below the 4 MiB that a server receives.
const maxBatchBytes = 1 << 20

// How many entries one call is about at most, and how many calls run at a time. With these
// Sync is as fast as the best loop of bare calls that was found, see docs/benchmarks.md.
const (
	defaultBatchSize = 50
	defaultParallel  = 8
)

// errLimit is how many single errors the summing-up error spells out.
const errLimit = 5

type syncer struct {
	conn   grpc.ClientConnInterface
	client entryv1.EntryClient
	cfg    SyncConfig

	// away is set once a call found no server, however often it tried, until one does.
	// All others are then made once: each would wait as long again.
	away atomic.Bool

	mu sync.Mutex // for OnEvent
}

func newSyncer(conn grpc.ClientConnInterface, cfg SyncConfig) (*syncer, error) {
	if err := validOwner(cfg.Owner); err != nil {
		return nil, fmt.Errorf("sync SPIRE entries: %w", err)
	}
	return &syncer{conn: conn, client: entryv1.NewEntryClient(conn), cfg: cfg}, nil
}

func (s *syncer) event(e Event) {
	if s.cfg.OnEvent == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.OnEvent(e)
}

// list streams the server's entries into d.
func (s *syncer) list(ctx context.Context, d *differ) error {
	n := 0
	for page, err := range pages(ctx, s.conn, ListConfig{PageSize: s.cfg.PageSize, Retry: s.retry()}) {
		if err != nil {
			return err
		}
		if err := d.addPage(page); err != nil {
			return err
		}
		if n += page.len(); page.len() > 0 {
			s.event(Event{Kind: EventListed, Done: n})
		}
	}
	return nil
}

func (s *syncer) apply(ctx context.Context, plan Plan) (Result, error) {
	r := Result{Plan: plan, DryRun: s.cfg.DryRun}
	s.event(Event{Kind: EventPlanned, Text: plan.Summary()})
	if n := len(plan.Delete); s.cfg.MaxDeletes > 0 && n > s.cfg.MaxDeletes {
		return r, fmt.Errorf("sync SPIRE entries of %s: nothing changed: %w: %d would go, the first %s, and MaxDeletes is %d; see if the wanted list is complete, or allow more",
			plan.Owner, ErrTooManyDeletes, n, plan.Delete[0].Have, s.cfg.MaxDeletes)
	}
	for _, c := range plan.Delete { // also a plan made by hand deletes nothing of others
		if !owned(c.Have, s.cfg.Owner) {
			return r, fmt.Errorf("sync SPIRE entries of %s: nothing changed: the plan deletes entry %s, which is not theirs: %s", plan.Owner, c.Have.ID, c.Have)
		}
	}
	for _, c := range plan.Update {
		if !owned(c.Have, s.cfg.Owner) || c.Have.ID != c.Want.ID {
			return r, fmt.Errorf("sync SPIRE entries of %s: nothing changed: the plan updates entry %s, which is not theirs: %s", plan.Owner, c.Have.ID, c.Have)
		}
	}
	if s.cfg.DryRun {
		return r, nil
	}

	steps := []struct {
		kind    EventKind
		changes []Change
		do      func(context.Context, []*types.Entry) ([]EntryResult, error)
	}{
		{EventUpdated, plan.Update, s.update},
		{EventCreated, plan.Create, s.create},
		{EventDeleted, plan.Delete, s.delete},
	}
	r.Entries = make([]EntryResult, 0, len(plan.Update)+len(plan.Create)+len(plan.Delete)+len(plan.Conflicts))
	for _, step := range steps {
		if step.kind == EventDeleted {
			var held []EntryResult
			step.changes, held = holdBack(plan.Delete, r.Entries)
			for _, e := range held {
				s.event(Event{Kind: EventFailed, Err: e.Err})
			}
			r.Entries = append(r.Entries, held...)
		}
		r.Entries = append(r.Entries, s.step(ctx, step.kind, step.changes, step.do)...)
	}
	for _, c := range plan.Conflicts {
		e := EntryResult{Entry: c.Want, Outcome: Conflict, Err: fmt.Errorf("%w: %s: %s", ErrConflict, c.Want, c.Reason)}
		s.event(Event{Kind: EventFailed, Err: e.Err})
		r.Entries = append(r.Entries, e)
	}
	return r, s.sum(ctx, r)
}

// holdBack takes from deletes those whose successor could not be had: an entry that was
// to get the same SPIFFE ID, or to be for the same workloads, and is not there. Whoever
// has that identity would be left with none.
func holdBack(deletes []Change, before []EntryResult) (rest []Change, held []EntryResult) {
	ids := map[spiffeid.ID]bool{}
	workloads := map[entryKey]bool{}
	for _, r := range before {
		if r.Outcome == Failed || r.Outcome == NotDone {
			ids[r.Entry.SPIFFEID] = true
			workloads[workload(r.Entry)] = true
		}
	}
	if len(ids) == 0 {
		return deletes, nil
	}
	for _, c := range deletes {
		if !ids[c.Have.SPIFFEID] && !workloads[workload(c.Have)] {
			rest = append(rest, c)
			continue
		}
		held = append(held, EntryResult{Entry: c.Have, Outcome: NotDone, Err: fmt.Errorf("%s: kept, as the entry that was to take its place is not there", c.Have)})
	}
	return rest, held
}

// workload is the same for two entries that are for the same workloads, whatever
// their SPIFFE IDs.
func workload(e Entry) entryKey { return keyOf(Entry{ParentID: e.ParentID, Selectors: e.Selectors}) }

// sum is one error for all that was not done.
func (s *syncer) sum(ctx context.Context, r Result) error {
	var errs []error
	n := 0
	for _, e := range r.Entries {
		if e.Err == nil {
			continue
		}
		if n++; n <= errLimit {
			errs = append(errs, e.Err)
		}
	}
	if n == 0 {
		return nil
	}
	if n > errLimit {
		errs = append(errs, fmt.Errorf("and %d more", n-errLimit))
	}
	if err := context.Cause(ctx); err != nil {
		errs = append([]error{err}, errs...)
	}
	return fmt.Errorf("sync SPIRE entries of %s: %d of %d changes not made: %w", r.Plan.Owner, n, len(r.Entries), errors.Join(errs...))
}

// step carries out changes of one kind, in batches and several at a time. Its
// results are in the order of changes.
func (s *syncer) step(ctx context.Context, kind EventKind, changes []Change, do func(context.Context, []*types.Entry) ([]EntryResult, error)) []EntryResult {
	results := make([]EntryResult, len(changes))
	var (
		g    errgroup.Group
		mu   sync.Mutex
		done int
	)
	parallel := cmp.Or(max(s.cfg.Parallel, 0), defaultParallel)
	g.SetLimit(parallel)
	// Few changes are spread over all calls that there may be at a time.
	limit := min(cmp.Or(max(s.cfg.BatchSize, 0), defaultBatchSize), (len(changes)+parallel-1)/parallel)
	for from := 0; from < len(changes); {
		batch := batch(kind, changes[from:], limit)
		out := results[from : from+len(batch)]
		part := changes[from : from+len(batch)]
		from += len(batch)
		g.Go(func() error {
			s.send(ctx, batch, out, do)
			for i := range out {
				out[i].Entry = subject(part[i])
				if err := out[i].Err; err != nil {
					out[i].Err = fmt.Errorf("%s: %w", out[i].Entry, err)
					s.event(Event{Kind: EventFailed, Err: out[i].Err})
				}
			}
			mu.Lock()
			defer mu.Unlock()
			done += len(batch)
			s.event(Event{Kind: kind, Done: done, Total: len(changes)})
			return nil
		})
	}
	_ = g.Wait() // the functions never fail; errors are in the results
	return results
}

// subject is the entry that a change is about.
func subject(c Change) Entry {
	if c.Want.ID == "" {
		return c.Have
	}
	return c.Want
}

// batch takes from the front of changes what goes into one call: at most limit.
func batch(kind EventKind, changes []Change, limit int) []*types.Entry {
	var batch []*types.Entry
	for bytes := 0; len(batch) < min(limit, len(changes)); {
		e := &types.Entry{Id: subject(changes[len(batch)]).ID}
		if kind != EventDeleted {
			e = toProto(changes[len(batch)].Want)
		}
		if bytes += proto.Size(e); bytes > maxBatchBytes && len(batch) > 0 {
			break
		}
		batch = append(batch, e)
	}
	return batch
}

// send makes one call for a batch and fills results, repeating it for those entries
// that the server could not see to just then.
func (s *syncer) send(ctx context.Context, batch []*types.Entry, results []EntryResult, do func(context.Context, []*types.Entry) ([]EntryResult, error)) {
	open := make([]int, len(batch)) // indexes of what is still to do
	for i := range open {
		open[i] = i
	}
	absent := false // the last call found no server
	call := func() error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		entries := make([]*types.Entry, len(open))
		for i, n := range open {
			entries[i] = batch[n]
		}
		got, err := do(ctx, entries)
		if absent = status.Code(err) == codes.Unavailable; err != nil {
			return err
		}
		s.away.Store(false)
		if len(got) != len(entries) {
			return fmt.Errorf("the server answered %d results for %d entries", len(got), len(entries))
		}
		var again []int
		var why error
		for i, n := range open {
			if results[n] = got[i]; retryable(status.Code(got[i].Err)) {
				again, why = append(again, n), got[i].Err
			}
		}
		open = again
		return why
	}
	var err error
	away := s.away.Load()
	if away {
		err = call()
	}
	if !away || err != nil && !absent {
		err = s.retry().do(ctx, call)
	}
	if err == nil {
		return
	}
	if absent && ctx.Err() == nil {
		s.away.Store(true)
	}
	outcome := Failed
	if ctx.Err() != nil {
		outcome = NotDone
	}
	for _, n := range open {
		results[n] = EntryResult{Outcome: outcome, Err: err}
	}
}

// create: the server answers AlreadyExists, with the entry it has, where one has
// the same SPIFFE ID, parent and selectors. If that one is ours, an earlier attempt
// whose answer was lost did the work, or another run of ours; it is brought up to
// date. If it is not, it stays as it is.
//
// Where two runs create one entry in the same moment, a database that several
// servers share may have one of them fail at the ID alone: AlreadyExists without an
// entry, or Internal, which is all that 1.9 and 1.10 say. Then the entry is looked up by
// that ID.
func (s *syncer) create(ctx context.Context, entries []*types.Entry) ([]EntryResult, error) {
	resp, err := s.client.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: entries}, grpc.MaxCallRecvMsgSize(maxPageBytes))
	if err != nil {
		return nil, err
	}
	var results []EntryResult
	for i, got := range resp.GetResults() {
		r := result(got.GetStatus(), Created)
		if code := status.Code(r.Err); i < len(entries) && (code == codes.AlreadyExists || code == codes.Internal) {
			r = s.notCreated(ctx, entries[i], got.GetEntry(), r)
		}
		results = append(results, r)
	}
	return results, nil
}

// notCreated finds out what is there instead of want: have, if the server said so.
// It is refused if nothing is.
func (s *syncer) notCreated(ctx context.Context, want, have *types.Entry, refused EntryResult) EntryResult {
	if have == nil {
		var err error
		if have, err = s.client.GetEntry(ctx, &entryv1.GetEntryRequest{Id: want.GetId()}); err != nil {
			if retryable(status.Code(err)) {
				refused.Err = err
			}
			return refused
		}
	}
	h, err := fromProto(have)
	if err != nil {
		return EntryResult{Outcome: Failed, Err: fmt.Errorf("the server says it already exists: %w", err)}
	}
	if !owned(h, s.cfg.Owner) {
		return EntryResult{Outcome: Conflict, Err: fmt.Errorf("%w: entry %s has the same SPIFFE ID, parent and selectors", ErrConflict, h.ID)}
	}
	w, err := fromProto(want)
	if err != nil {
		return EntryResult{Outcome: Failed, Err: err}
	}
	if len(changed(h, w)) == 0 {
		return EntryResult{Outcome: Created}
	}
	w.ID = h.ID
	return s.one(ctx, toProto(w), s.change)
}

// one has do see to a single entry.
func (s *syncer) one(ctx context.Context, e *types.Entry, do func(context.Context, []*types.Entry) ([]EntryResult, error)) EntryResult {
	results, err := do(ctx, []*types.Entry{e})
	if err == nil && len(results) != 1 {
		err = fmt.Errorf("the server answered %d results for 1 entry", len(results))
	}
	if err != nil {
		return EntryResult{Outcome: Failed, Err: err}
	}
	return results[0]
}

// update: what went since it was listed, by hand or by another run, is made again. Of an
// entry that is gone SPIRE 1.13 says NotFound; 1.9 and 1.10 say Internal, as of everything
// that their datastore refuses.
func (s *syncer) update(ctx context.Context, entries []*types.Entry) ([]EntryResult, error) {
	results, err := s.change(ctx, entries)
	for i, r := range results {
		code := status.Code(r.Err)
		if i < len(entries) && (code == codes.NotFound || code == codes.Internal && s.gone(ctx, entries[i])) {
			results[i] = s.one(ctx, entries[i], s.create)
		}
	}
	return results, err
}

// gone says that the server has no entry with the ID of e, for certain.
func (s *syncer) gone(ctx context.Context, e *types.Entry) bool {
	_, err := s.client.GetEntry(ctx, &entryv1.GetEntryRequest{Id: e.GetId()})
	return status.Code(err) == codes.NotFound
}

// change sets the fields that this package knows and leaves alone those that
// only newer servers have.
func (s *syncer) change(ctx context.Context, entries []*types.Entry) ([]EntryResult, error) {
	resp, err := s.client.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries: entries, InputMask: updateMask(), OutputMask: &types.EntryMask{},
	})
	if err != nil {
		return nil, err
	}
	var results []EntryResult
	for _, got := range resp.GetResults() {
		results = append(results, result(got.GetStatus(), Updated))
	}
	return results, nil
}

func (s *syncer) delete(ctx context.Context, entries []*types.Entry) ([]EntryResult, error) {
	req := &entryv1.BatchDeleteEntryRequest{}
	for _, e := range entries {
		req.Ids = append(req.Ids, e.GetId())
	}
	resp, err := s.client.BatchDeleteEntry(ctx, req)
	if err != nil {
		return nil, err
	}
	var results []EntryResult
	for _, got := range resp.GetResults() {
		r := result(got.GetStatus(), Deleted)
		if status.Code(r.Err) == codes.NotFound { // gone is what was wanted
			r = EntryResult{Outcome: Deleted}
		}
		results = append(results, r)
	}
	return results, nil
}

// result is the server's verdict on one entry; ok is the outcome if it is good.
func result(st *types.Status, ok Outcome) EntryResult {
	if st == nil {
		return EntryResult{Outcome: Failed, Err: errors.New("the server answered no status")}
	}
	if codes.Code(st.GetCode()) == codes.OK {
		return EntryResult{Outcome: ok}
	}
	return EntryResult{Outcome: Failed, Err: status.Error(codes.Code(st.GetCode()), st.GetMessage())}
}

func (s *syncer) retry() Retry {
	r := s.cfg.Retry
	r.onWait = func(pause time.Duration, err error) {
		s.event(Event{Kind: EventWaiting, Text: pause.Round(time.Millisecond).String(), Err: err})
	}
	return r
}

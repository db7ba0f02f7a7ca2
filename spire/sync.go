package spire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
)

var (
	// ErrConflict is in an error about an entry that cannot be had because somebody
	// else's entry already covers it.
	ErrConflict = errors.New("an entry of somebody else is in the way")
	// ErrTooManyDeletes is in the error of a Sync that refused to delete more
	// than SyncConfig.MaxDeletes.
	ErrTooManyDeletes = errors.New("more deletes than allowed")
	// ErrInvalid is in the error of a Sync that was given entries no server would take.
	ErrInvalid = errors.New("invalid entry")
)

// SyncConfig tunes Sync and Apply. The zero value works.
type SyncConfig struct {
	// Owner is in whose name entries are created, changed and deleted: at most 64 of
	// [a-zA-Z0-9_-]. "" is DefaultOwner. Two programs with different wanted lists need
	// different owners; Sync says what comes of one owner with two lists.
	Owner string
	// DryRun makes the plan and changes nothing.
	DryRun bool
	// MaxDeletes, where positive, is the most entries that may be deleted: a plan with
	// more is refused as a whole, before anything is changed. Zero is no limit.
	MaxDeletes int

	// PageSize is how many entries are listed at a time. Zero is 1000.
	PageSize int
	// BatchSize is how many entries one call creates, updates or deletes at most. A
	// batch also ends at 1 MiB. Zero is 50.
	BatchSize int
	// Parallel is how many such calls run at a time. Zero is 8.
	Parallel int
	Retry    Retry

	// OnEvent is told of progress, never from two goroutines at a time. It should
	// return quickly.
	OnEvent func(Event)
}

// EventKind says what an Event is about.
type EventKind string

// The kinds of events.
const (
	EventListed  EventKind = "listed"  // Done entries have been read from the server
	EventPlanned EventKind = "planned" // Text is the plan's summary
	EventCreated EventKind = "created" // Done of Total entries
	EventUpdated EventKind = "updated"
	EventDeleted EventKind = "deleted"
	EventFailed  EventKind = "failed"  // Err is about one entry
	EventWaiting EventKind = "waiting" // the server is not available: Err; Text is for how long
)

// Event is a bit of progress of Sync or Apply.
type Event struct {
	Kind        EventKind
	Done, Total int
	Text        string
	Err         error
}

// String is the event on one line.
func (e Event) String() string {
	switch e.Kind {
	case EventListed:
		return fmt.Sprintf("listed %d SPIRE entries", e.Done)
	case EventPlanned:
		return "planned: " + e.Text
	case EventFailed:
		return fmt.Sprintf("failed: %v", e.Err)
	case EventWaiting:
		return fmt.Sprintf("SPIRE server not available, trying again in %s: %v", e.Text, e.Err)
	}
	return fmt.Sprintf("%s %d of %d SPIRE entries", e.Kind, e.Done, e.Total)
}

// Outcome is what became of one step of a plan.
type Outcome int

// The outcomes. NotDone is the zero value: the step was not tried, because the
// context ended before or because, for a delete, its successor could not be made.
const (
	NotDone Outcome = iota
	Created
	Updated
	Deleted
	Conflict
	Failed
)

func (o Outcome) String() string {
	names := []string{"not done", "created", "updated", "deleted", "conflict", "failed"}
	if o < 0 || int(o) >= len(names) {
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
	return names[o]
}

// EntryResult is what became of one entry that was not already right.
type EntryResult struct {
	// Entry is the wanted one; for a delete, the one on the server.
	Entry   Entry
	Outcome Outcome
	// Err is set for Conflict, Failed and NotDone.
	Err error
}

// Result of Sync or Apply. It is right also beside an error.
type Result struct {
	Plan   Plan
	DryRun bool
	// Entries has one result for each step of the plan: updates, creates,
	// deletes, conflicts. It is empty after a dry run.
	Entries []EntryResult
	// Took is the time from the call to its return.
	Took time.Duration
}

// Count is how many entries had the outcome.
func (r Result) Count(o Outcome) int {
	n := 0
	for _, e := range r.Entries {
		if e.Outcome == o {
			n++
		}
	}
	return n
}

// String is the result on one line.
func (r Result) String() string {
	if r.DryRun {
		return "dry run: " + r.Plan.Summary()
	}
	s := fmt.Sprintf("%d created, %d updated, %d deleted, %d unchanged, %d of others",
		r.Count(Created), r.Count(Updated), r.Count(Deleted), r.Plan.Unchanged, r.Plan.Foreign)
	for _, o := range []Outcome{Conflict, Failed, NotDone} {
		if n := r.Count(o); n > 0 {
			s += fmt.Sprintf(", %d %s", n, o)
		}
	}
	return s + fmt.Sprintf(" in %s", r.Took.Round(time.Millisecond))
}

// Sync makes the server's entries of cfg.Owner equal to want: it lists, decides as
// Diff does, and applies. It can be killed anywhere; the next one starts from what
// the server then has and makes nothing twice.
//
// If a wanted entry is invalid or there twice nothing is changed and the
// error is ErrInvalid; if too much would be deleted, ErrTooManyDeletes. Conflicts and
// refusals by the server concern single entries: the rest is carried out, each
// is in Result.Entries, and the error sums them up. An entry whose successor (the
// same SPIFFE ID, or the same parent and selectors) was refused is not deleted.
//
// An update sets the fields of Entry and no others: what a newer server keeps
// beyond them stays as it is.
//
// Two at once for the same owner and the same list end as one would: whoever comes
// second finds the entry there. With different lists no entry of others is touched and
// the last write to each entry stands, so the server may have a mixture of the two
// lists until one of them is synced again, alone. SPIRE deletes by ID alone: only who
// puts an entry of their own under an ID of the owner's, just then, can lose it.
//
// Of the server's entries it holds two pages and what differs from want. For each
// wanted entry it needs about 50 bytes beside the list itself: 5 MB at 100,000. A
// sync of as many that finds nothing to do stays within 64 MiB above what the list
// takes, garbage included, which a test holds. Each change that is found costs about
// 800 bytes, as it is in the plan and in the result.
func Sync(ctx context.Context, conn grpc.ClientConnInterface, want []Entry, cfg SyncConfig) (Result, error) {
	start := time.Now()
	s, err := newSyncer(conn, cfg)
	if err != nil {
		return Result{}, err
	}
	d := newDiffer(want, cfg.Owner)
	if len(d.refused) > 0 {
		plan := Plan{Owner: ownerName(cfg.Owner), Conflicts: d.refused}
		first := d.refused[0]
		return Result{Plan: plan, Took: time.Since(start)}, fmt.Errorf("sync SPIRE entries of %s: nothing changed: %d of %d wanted are no good: %w: %s: %s",
			plan.Owner, len(d.refused), len(want), ErrInvalid, first.Want, first.Reason)
	}
	if err := s.list(ctx, d); err != nil {
		return Result{Took: time.Since(start)}, fmt.Errorf("sync SPIRE entries of %s: nothing changed: %w", ownerName(cfg.Owner), err)
	}
	r, err := s.apply(ctx, d.plan())
	r.Took = time.Since(start)
	return r, err
}

// Apply carries out a plan, which should be fresh. The order is updates, creates,
// deletes: an entry that somebody edited must get its own name back before the
// one it imitates can be created, and no workload may lose an identity before
// its successor is there. Errors are as for Sync.
func Apply(ctx context.Context, conn grpc.ClientConnInterface, plan Plan, cfg SyncConfig) (Result, error) {
	start := time.Now()
	cfg.Owner = cmp.Or(plan.Owner, cfg.Owner)
	s, err := newSyncer(conn, cfg)
	if err != nil {
		return Result{}, err
	}
	r, err := s.apply(ctx, plan)
	r.Took = time.Since(start)
	return r, err
}

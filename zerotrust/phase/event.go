package phase

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"
)

// Kind says what an Event tells.
type Kind int

// The kinds, in the order in which they come for one phase. A phase that is skipped has
// PhasePlanned and PhaseDone alone.
const (
	PhasePlanned Kind = iota + 1 // once for each phase, before anything starts
	PhaseStarted
	PhaseProgress // a line from inside Apply or, with Check set, from inside a check
	PhaseApplied  // Apply succeeded; not sent where there is none to call
	CheckStarted
	CheckDone
	PhaseDone
)

// Event is something that happened in a run.
type Event struct {
	Time  time.Time
	Kind  Kind
	Phase string
	Check string // for CheckStarted, CheckDone, and PhaseProgress from a check
	// Status is the outcome, for CheckDone and PhaseDone.
	Status Status
	// Text is one line: the phase's Doc (PhasePlanned), the progress, what
	// a check saw that passed (CheckDone), or why it did not pass (CheckDone, PhaseDone).
	Text string
	// Elapsed is the time since the phase or, with Check set, the check started.
	Elapsed time.Duration
}

// Progress tells the listener of the run that ctx belongs to how far an Apply or a
// check has come. Outside a run it does nothing.
func Progress(ctx context.Context, format string, args ...any) {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok || s.over.Load() {
		return
	}
	s.run.emit(Event{Kind: PhaseProgress, Phase: s.phase, Check: s.check, Text: fmt.Sprintf(format, args...), Elapsed: time.Since(s.started)})
}

// Note puts a value into the Metadata of the run that ctx belongs to: a version, a
// digest. Outside a run it does nothing.
func Note(ctx context.Context, key, value string) {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok && !s.over.Load() {
		s.run.note(key, value)
	}
}

// scope is what a context inside a run knows.
type scope struct {
	run          *run
	phase, check string
	started      time.Time
	over         atomic.Bool // its Apply or check has returned, or was left behind
}

type scopeKey struct{}

// Package phase runs a graph of phases: each one applies a change and then proves,
// by checks, that it holds. It knows nothing of what the phases do, and needs the
// standard library alone.
//
// A check has three outcomes: passed, failed, or could not tell. The zero Status
// is the last one, and a report is OK only if every check passed: whatever was
// forgotten, skipped or cancelled counts against it.
package phase

import (
	"context"
	"fmt"
	"time"
)

// Phase is one step on the way to a proven system.
type Phase struct {
	// Name is a stable identifier, unique in a run: "4C-cilium-spiffe".
	Name string
	// Doc says in a sentence what holds once the phase has passed.
	Doc string
	// Needs are the phases that must have passed before this one starts. Phases
	// that do not need each other run at the same time.
	Needs []*Phase
	// Apply brings about what the checks look at. It must be idempotent, and fit to be
	// interrupted anywhere and run again. Nil: there is nothing to do but verify.
	Apply func(context.Context) error
	// Checks run after Apply, at the same time unless Serial. At least one is required.
	Checks []Check
	// Serial runs the checks one after another, in their order.
	Serial bool
	// Timeout is for Apply and all checks together; default: Options.Timeout.
	Timeout time.Duration
}

// Check is one question about the system. It must not change what it asks about in
// any lasting way.
type Check struct {
	Name string // unique in its phase
	Doc  string // what it shows, in a sentence
	Hint string // what to do when it does not pass
	// Edge is what a check of one cell of a matrix asks about; nil for all others.
	Edge *Edge
	// Run answers it. A nil error is a pass; an error made by Want or Failf (found by
	// errors.As) a failure; any other error means that it could not be told. The Evidence is
	// kept in each case.
	Run func(context.Context) (Evidence, error)
}

// Edge is one cell of a matrix: an attempt to connect, and what is to become of it.
type Edge struct {
	From, To      string // names; To may be From
	Port          string // "8000", "53/UDP"
	Allowed       bool   // it is to get through
	Authenticated bool   // both ends are to be authenticated before it does
}

// Evidence is what a check saw. All of it is optional.
type Evidence struct {
	Want    string   // what was expected
	Got     string   // what was seen
	Details []string // what else a doubting reader may want to see, one line each
	Source  string   // where it was seen: a command, an API
}

// Mismatch is the error of a check that failed: it could tell, and the answer is no.
type Mismatch struct {
	Want, Got string

	cause error
}

// Want is the error of a check that saw something else than it should.
func Want(want, got string) error { return &Mismatch{Want: want, Got: got} }

// Failf is the error of a check whose answer is no, in words of its own; %w works as
// in fmt.Errorf.
func Failf(format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Mismatch{Got: err.Error(), cause: err}
}

func (m *Mismatch) Error() string {
	if m.Want == "" {
		return m.Got
	}
	return fmt.Sprintf("want %s; got %s", m.Want, m.Got)
}

// Unwrap is the error given to Failf, if any.
func (m *Mismatch) Unwrap() error { return m.cause }

// Status is the outcome of a phase or a check.
type Status int

// The outcomes. A check has one of the first three.
const (
	Unknown   Status = iota // could not tell; the zero value
	Passed                  // applied, and every check passed
	Failed                  // Apply failed, or a check did
	Skipped                 // a phase that never started: one that it needs did not pass, or the run was cancelled
	Cancelled               // a phase that was running when the run was cancelled
)

// String is a lower-case word: "unknown", "passed", "failed", "skipped", "cancelled".
func (s Status) String() string {
	switch s {
	case Passed:
		return "passed"
	case Failed:
		return "failed"
	case Skipped:
		return "skipped"
	case Cancelled:
		return "cancelled"
	}
	return "unknown"
}

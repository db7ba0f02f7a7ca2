package phase

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Report is the outcome of a run. It is complete, every phase of the run in it, also
// beside an error and after a cancelled context.
type Report struct {
	Started, Ended time.Time
	// VerifyOnly says that no Apply was called.
	VerifyOnly bool
	// Phases are in an order that their needs allow: a phase comes after all of its needs.
	Phases []Result
	// Metadata is free-form: versions, digests. See Options.Metadata and Note.
	Metadata map[string]string
}

// OK is true if there is at least one phase, every phase passed, and every check
// of every phase passed.
func (r Report) OK() bool {
	for _, p := range r.Phases {
		if p.Status != Passed || p.Err != nil || len(p.Checks) == 0 {
			return false
		}
		for _, c := range p.Checks {
			if c.Status != Passed {
				return false
			}
		}
	}
	return len(r.Phases) > 0
}

// Err is nil if the report is OK. Otherwise it joins what went wrong in each phase,
// less the phases that were skipped only because of another one.
func (r Report) Err() error {
	if r.OK() {
		return nil
	}
	var all []error
	for _, p := range r.Phases {
		if p.Status == Skipped {
			continue
		}
		if p.Err != nil {
			all = append(all, fmt.Errorf("phase %q: %w", p.Name, p.Err))
		}
		for _, c := range p.Checks {
			if c.Status != Passed && !errors.Is(c.Err, errNotRun) {
				all = append(all, fmt.Errorf("phase %q: check %q: %s: %w", p.Name, c.Name, verdict(c.Status), c.Err))
			}
		}
	}
	if len(all) == 0 && len(r.Phases) > 0 {
		all = append(all, fmt.Errorf("phase %q: %w", r.Phases[0].Name, cmp.Or(r.Phases[0].Err, errNotRun)))
	}
	if len(all) == 0 {
		return errors.New("no phase was run")
	}
	return errors.Join(all...)
}

func verdict(s Status) string {
	if s == Unknown {
		return "could not tell"
	}
	return s.String()
}

// Result is the outcome of one phase.
type Result struct {
	Name, Doc string
	Needs     []string
	Status    Status
	// Err is why Apply failed, or why the phase was skipped or cancelled. It is nil where
	// only checks did not pass: their own errors tell.
	Err error
	// Started is zero if the phase never was.
	Started time.Time
	// Duration is that of the whole phase, Apply that of its Apply.
	Duration, Apply time.Duration
	// Checks are all of the phase's, in its order. One that was not run is Unknown.
	Checks []CheckResult
}

// CheckResult is the outcome of one check.
type CheckResult struct {
	Name, Doc, Hint string
	Edge            *Edge  // that of the Check
	Status          Status // Unknown, Passed or Failed
	Evidence        Evidence
	// Err is why it did not pass: never nil then, always nil for Passed.
	Err error
	// Started is zero if the check was not run.
	Started  time.Time
	Duration time.Duration
}

// errNotRun marks checks that were never asked.
var errNotRun = errors.New("not run")

package phase

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"
)

// Options change how phases are run. The zero value applies and checks all of them.
type Options struct {
	// VerifyOnly runs the checks alone and calls no Apply.
	VerifyOnly bool
	// Only names phases: these and all that they need are run, the others are left
	// out of the report. An unknown name is an error.
	Only []string
	// Timeout is for one phase, its Apply and its checks, where it has none of its own;
	// default 15 minutes.
	Timeout time.Duration
	// Parallel is how many checks of one phase run at the same time; default 8.
	Parallel int
	// Metadata is copied into the report.
	Metadata map[string]string
}

const (
	defaultTimeout  = 15 * time.Minute
	defaultParallel = 8
	// grace is how long an Apply or a check has to return once its context has ended.
	// Undoing a half-made cluster takes a while.
	grace = 2 * time.Minute
)

// Run runs the phases, and those that they need, with the zero Options.
func Run(ctx context.Context, phases []*Phase, on func(Event)) (Report, error) {
	return RunWith(ctx, phases, Options{}, on)
}

// RunWith runs the phases, and those that they need: each as soon as all its needs
// have passed, first its Apply, then its checks. A phase that needs one which did not
// pass is skipped. When ctx ends, running phases are told, and the others are skipped.
//
// The events go to on (if not nil) one at a time, in the order in which they happen; on must not
// block for long and must not call Progress.
//
// The report is valid in every case. The error is nil only if the report is OK;
// otherwise it is Report.Err, or tells what is wrong with the graph, in which case
// nothing was run and the report holds no phase.
func RunWith(ctx context.Context, phases []*Phase, o Options, on func(Event)) (Report, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	r := &run{options: o, on: on, metadata: maps.Clone(o.Metadata)}
	report := Report{Started: time.Now(), VerifyOnly: o.VerifyOnly}
	order, err := plan(phases, o.Only)
	if err == nil {
		report.Phases = r.all(ctx, order)
	}
	report.Ended = time.Now()
	report.Metadata = r.end()
	if err != nil {
		return report, err
	}
	return report, report.Err()
}

// run is the state of one run.
type run struct {
	options Options

	mu       sync.Mutex // held while on is called, so that events come one at a time
	on       func(Event)
	metadata map[string]string
	ended    bool // nothing is to be said any more
}

func (r *run) emit(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.on == nil || r.ended {
		return
	}
	e.Time = time.Now()
	e.Text = strings.Join(strings.Fields(e.Text), " ")
	r.on(e)
}

func (r *run) note(key, value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	if r.metadata == nil {
		r.metadata = map[string]string{}
	}
	r.metadata[key] = value
}

func (r *run) end() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	return r.metadata
}

// all runs every phase in a goroutine that first waits for its needs.
func (r *run) all(ctx context.Context, order []*Phase) []Result {
	results := make([]Result, len(order))
	index := make(map[*Phase]int, len(order))
	done := make([]chan struct{}, len(order))
	for i, p := range order {
		index[p], done[i] = i, make(chan struct{})
		r.emit(Event{Kind: PhasePlanned, Phase: p.Name, Text: p.Doc})
	}
	var all sync.WaitGroup
	for i, p := range order {
		all.Go(func() {
			defer close(done[i]) // after the events of this phase
			var blocked error
			for _, need := range p.Needs {
				n := index[need]
				<-done[n]
				if s := results[n].Status; s != Passed && blocked == nil {
					blocked = fmt.Errorf("it needs %q, which %s", need.Name, became(s))
				}
			}
			if ctx.Err() != nil {
				blocked = fmt.Errorf("the run was cancelled before it started: %w", context.Cause(ctx))
			}
			results[i] = r.one(ctx, p, blocked)
		})
	}
	all.Wait()
	return results
}

func became(s Status) string {
	switch s {
	case Failed:
		return "failed"
	case Unknown:
		return "could not be proven"
	}
	return "was " + s.String()
}

// one runs a phase, or records it as skipped because it is blocked.
func (r *run) one(ctx context.Context, p *Phase, blocked error) (res Result) {
	res = Result{Name: p.Name, Doc: p.Doc, Checks: make([]CheckResult, len(p.Checks))}
	for _, need := range p.Needs {
		res.Needs = append(res.Needs, need.Name)
	}
	for i, c := range p.Checks {
		res.Checks[i] = CheckResult{Name: c.Name, Doc: c.Doc, Hint: c.Hint, Edge: c.Edge}
	}
	defer func() {
		if !res.Started.IsZero() {
			res.Duration = time.Since(res.Started)
		}
		r.emit(Event{Kind: PhaseDone, Phase: p.Name, Status: res.Status, Text: text(res.Err), Elapsed: res.Duration})
	}()
	if blocked != nil {
		res.Status, res.Err = Skipped, blocked
		notRun(res.Checks, "the phase was skipped")
		return res
	}

	timeout := p.Timeout
	if timeout == 0 {
		timeout = r.options.Timeout
	}
	inner, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("phase %q timed out after %s: %w", p.Name, timeout, context.DeadlineExceeded))
	defer cancel()
	res.Started = time.Now()
	r.emit(Event{Kind: PhaseStarted, Phase: p.Name})

	if p.Apply != nil && !r.options.VerifyOnly {
		s := &scope{run: r, phase: p.Name, started: res.Started}
		_, err := s.guard(inner, func(ctx context.Context) (Evidence, error) { return Evidence{}, p.Apply(ctx) })
		res.Apply = time.Since(res.Started)
		if err != nil {
			res.Status, res.Err = Failed, withCause(inner, err)
			if ctx.Err() != nil {
				res.Status = Cancelled
			}
			notRun(res.Checks, "the phase was not applied")
			return res
		}
		r.emit(Event{Kind: PhaseApplied, Phase: p.Name, Elapsed: res.Apply})
	}

	r.checks(inner, p, res.Checks)
	res.Status = together(res.Checks)
	if res.Status == Unknown && inner.Err() != nil {
		res.Err = context.Cause(inner)
		if ctx.Err() != nil {
			res.Status, res.Err = Cancelled, fmt.Errorf("the run was cancelled: %w", res.Err)
		}
	}
	return res
}

// checks runs the checks of a phase and fills their results in.
func (r *run) checks(ctx context.Context, p *Phase, results []CheckResult) {
	parallel := r.options.Parallel
	if p.Serial {
		parallel = 1
	}
	next := make(chan int)
	var all sync.WaitGroup
	for range min(parallel, len(results)) {
		all.Go(func() {
			for i := range next {
				r.check(ctx, p, p.Checks[i], &results[i])
			}
		})
	}
	for i := range results {
		next <- i
	}
	close(next)
	all.Wait()
}

func (r *run) check(ctx context.Context, p *Phase, c Check, res *CheckResult) {
	if ctx.Err() != nil {
		res.Err = fmt.Errorf("%w: %w", errNotRun, context.Cause(ctx))
		return
	}
	res.Started = time.Now()
	r.emit(Event{Kind: CheckStarted, Phase: p.Name, Check: c.Name})
	s := &scope{run: r, phase: p.Name, check: c.Name, started: res.Started}
	evidence, err := s.guard(ctx, c.Run)
	res.Evidence, res.Duration = evidence, time.Since(res.Started)
	var mismatch *Mismatch
	switch {
	case err == nil:
		res.Status = Passed
	case errors.As(err, &mismatch):
		res.Status, res.Err = Failed, err
		if evidence.Want == "" {
			res.Evidence.Want = mismatch.Want
		}
		if evidence.Got == "" {
			res.Evidence.Got = mismatch.Got
		}
	default:
		res.Status, res.Err = Unknown, withCause(ctx, err)
	}
	said := text(res.Err)
	if res.Err == nil {
		said = res.Evidence.Got
	}
	r.emit(Event{Kind: CheckDone, Phase: p.Name, Check: c.Name, Status: res.Status, Text: said, Elapsed: res.Duration})
}

// together is what the checks of a phase amount to.
func together(checks []CheckResult) Status {
	status := Passed
	for _, c := range checks {
		switch c.Status {
		case Passed:
		case Failed:
			return Failed
		default:
			status = Unknown
		}
	}
	return status
}

func notRun(checks []CheckResult, why string) {
	for i := range checks {
		checks[i].Err = fmt.Errorf("%w: %s", errNotRun, why)
	}
}

// guard calls f and survives what f may do: panic, end its goroutine, or go on long after
// its context has ended (it is then left behind, and what it still says is dropped).
func (s *scope) guard(ctx context.Context, f func(context.Context) (Evidence, error)) (Evidence, error) {
	defer s.over.Store(true)
	ctx = context.WithValue(ctx, scopeKey{}, s)
	type outcome struct {
		evidence Evidence
		err      error
	}
	done := make(chan outcome, 1)
	go func() {
		out := outcome{err: errors.New("it ended its goroutine and told no outcome")}
		defer func() {
			if v := recover(); v != nil {
				out = outcome{err: fmt.Errorf("panic: %v (%s)", v, panicSite())}
			}
			done <- out
		}()
		evidence, err := f(ctx)
		out = outcome{evidence, err}
	}()
	select {
	case out := <-done:
		return out.evidence, out.err
	case <-ctx.Done():
	}
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case out := <-done:
		return out.evidence, out.err
	case <-late.C:
		return Evidence{}, fmt.Errorf("it did not stop within %s of being told to: %w", grace, context.Cause(ctx))
	}
}

// panicSite is the place that panicked; it is to be called while recovering.
func panicSite() string {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(1, callers)])
	panicked := false
	for {
		f, more := frames.Next()
		if panicked && !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf("in %s, %s:%d", f.Function, filepath.Base(f.File), f.Line)
		}
		panicked = panicked || f.Function == "runtime.gopanic"
		if !more {
			return "place unknown"
		}
	}
}

// withCause adds to an error why its context ended, where the error does not say it.
func withCause(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil || errors.Is(err, cause):
		return err
	case strings.Contains(err.Error(), cause.Error()):
		// Said already, by a library that keeps the text alone.
		return &causedError{err, cause}
	}
	return fmt.Errorf("%w (%w)", err, cause)
}

// causedError reads as err and is also its cause.
type causedError struct{ err, cause error }

func (e *causedError) Error() string   { return e.err.Error() }
func (e *causedError) Unwrap() []error { return []error{e.err, e.cause} }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

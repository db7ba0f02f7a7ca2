package phase

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// log is a listener that keeps what it hears, in short words.
type log struct{ lines []string } // on is called one at a time, so it needs no lock

func (l *log) on(e Event) {
	s := map[Kind]string{PhasePlanned: "planned", PhaseStarted: "start", PhaseProgress: "progress", PhaseApplied: "applied",
		CheckStarted: "ask", CheckDone: "answer", PhaseDone: "done"}[e.Kind] + " " + e.Phase
	if e.Check != "" {
		s += "/" + e.Check
	}
	if e.Kind == CheckDone || e.Kind == PhaseDone {
		s += " " + e.Status.String()
	}
	l.lines = append(l.lines, s)
}

func (l *log) at(t *testing.T, line string) int {
	t.Helper()
	i := slices.Index(l.lines, line)
	if i < 0 {
		t.Fatalf("no event %q in:\n%s", line, strings.Join(l.lines, "\n"))
	}
	return i
}

func statuses(r Report) string {
	var all []string
	for _, p := range r.Phases {
		all = append(all, p.Name+" "+p.Status.String())
	}
	return strings.Join(all, ", ")
}

func find(t *testing.T, r Report, name string) Result {
	t.Helper()
	i := slices.IndexFunc(r.Phases, func(p Result) bool { return p.Name == name })
	if i < 0 {
		t.Fatalf("phase %q is not in the report: %s", name, statuses(r))
	}
	return r.Phases[i]
}

func wantErr(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestEventsOfOnePhase(t *testing.T) {
	l := &log{}
	p := &Phase{Name: "p", Doc: "It holds.", Serial: true,
		Apply: func(ctx context.Context) error { Progress(ctx, "half of %d", 2); return nil },
		Checks: []Check{passing("one"), {Name: "two", Run: func(ctx context.Context) (Evidence, error) {
			Progress(ctx, "looking")
			return Evidence{Got: "seen"}, nil
		}}}}
	var texts []string
	report, err := Run(t.Context(), []*Phase{p}, func(e Event) {
		l.on(e)
		if e.Time.IsZero() || e.Elapsed < 0 {
			t.Errorf("event without a time: %+v", e)
		}
		if e.Text != "" {
			texts = append(texts, e.Text)
		}
	})
	if err != nil || !report.OK() {
		t.Fatal(err, statuses(report))
	}
	want := []string{"planned p", "start p", "progress p", "applied p", "ask p/one", "answer p/one passed",
		"ask p/two", "progress p/two", "answer p/two passed", "done p passed"}
	if !slices.Equal(l.lines, want) {
		t.Errorf("events %q, want %q", l.lines, want)
	}
	if want := []string{"It holds.", "half of 2", "looking", "seen"}; !slices.Equal(texts, want) {
		t.Errorf("texts %q, want %q", texts, want)
	}
}

// A diamond: b and c meet each other while both run, so they run at the same time;
// a is done before them and they before d, by the events too.
func TestDiamond(t *testing.T) {
	meet := make(chan struct{})
	var aDone, bcDone atomic.Int32
	a := named("a")
	a.Apply = func(context.Context) error { aDone.Add(1); return nil }
	b, c := named("b", a), named("c", a)
	b.Apply = func(ctx context.Context) error {
		if aDone.Load() != 1 {
			t.Error("b began before a was done")
		}
		select {
		case meet <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		bcDone.Add(1)
		return nil
	}
	c.Apply = func(ctx context.Context) error {
		select {
		case <-meet:
		case <-ctx.Done():
			return ctx.Err()
		}
		bcDone.Add(1)
		return nil
	}
	d := named("d", b, c)
	d.Apply = func(context.Context) error {
		if bcDone.Load() != 2 {
			t.Error("d began before b and c were done")
		}
		return nil
	}
	l := &log{}
	report, err := RunWith(t.Context(), []*Phase{a, b, c, d}, Options{Timeout: time.Minute}, l.on)
	if err != nil || !report.OK() || statuses(report) != "a passed, b passed, c passed, d passed" {
		t.Fatal(err, statuses(report))
	}
	for _, pair := range [][2]string{{"done a passed", "start b"}, {"done a passed", "start c"}, {"done b passed", "start d"}, {"done c passed", "start d"}} {
		if l.at(t, pair[0]) > l.at(t, pair[1]) {
			t.Errorf("%q came after %q", pair[0], pair[1])
		}
	}
	if got := find(t, report, "d").Needs; !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("d needs %v", got)
	}
}

func TestChecksAreBoundedAndKeepTheirOrder(t *testing.T) {
	for _, tt := range []struct {
		serial         bool
		parallel, want int
	}{{false, 3, 3}, {false, 0, defaultParallel}, {true, 3, 1}} {
		synctest.Test(t, func(t *testing.T) {
			var now, most atomic.Int32
			p := &Phase{Name: "p", Serial: tt.serial}
			for i := range 20 {
				p.Checks = append(p.Checks, Check{Name: fmt.Sprint(i), Run: func(context.Context) (Evidence, error) {
					n := now.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					time.Sleep(time.Second) // of synctest's clock: lets all others start
					now.Add(-1)
					return Evidence{Got: fmt.Sprint(i)}, nil
				}})
			}
			report, err := RunWith(t.Context(), []*Phase{p}, Options{Parallel: tt.parallel}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if int(most.Load()) != tt.want {
				t.Errorf("serial %t, bound %d: %d at the same time, want %d", tt.serial, tt.parallel, most.Load(), tt.want)
			}
			for i, c := range report.Phases[0].Checks {
				if c.Name != fmt.Sprint(i) || c.Evidence.Got != c.Name || c.Duration != time.Second || c.Started.IsZero() {
					t.Errorf("check %d is %+v", i, c)
				}
			}
		})
	}
}

func TestCheckOutcomes(t *testing.T) {
	root := errors.New("root")
	for _, tt := range []struct {
		what     string
		evidence Evidence
		err      error
		check    Status
		phase    Status
		got      Evidence
		says     string
	}{
		{"no evidence is needed to pass", Evidence{}, nil, Passed, Passed, Evidence{}, ""},
		{"a mismatch fails and fills the evidence in", Evidence{Source: "s"}, Want("3", "2"), Failed, Failed, Evidence{Want: "3", Got: "2", Source: "s"}, "want 3; got 2"},
		{"a mismatch keeps the evidence", Evidence{Want: "w", Got: "g"}, Want("3", "2"), Failed, Failed, Evidence{Want: "w", Got: "g"}, "want 3; got 2"},
		{"in words", Evidence{}, Failf("it is %s: %w", "open", root), Failed, Failed, Evidence{Got: "it is open: root"}, "it is open: root"},
		{"a wrapped mismatch", Evidence{}, fmt.Errorf("edge: %w", Want("a", "b")), Failed, Failed, Evidence{Want: "a", Got: "b"}, "edge: want a; got b"},
		{"any other error tells nothing", Evidence{Got: "g"}, root, Unknown, Unknown, Evidence{Got: "g"}, "could not tell: root"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			p := &Phase{Name: "p", Checks: []Check{{Name: "c", Doc: "d", Hint: "h", Run: func(context.Context) (Evidence, error) { return tt.evidence, tt.err }}}}
			dependant := named("q", p)
			report, err := Run(t.Context(), []*Phase{p, dependant}, nil)
			res := report.Phases[0]
			c := res.Checks[0]
			if c.Status != tt.check || res.Status != tt.phase || c.Doc != "d" || c.Hint != "h" {
				t.Errorf("check %v, phase %v: %+v", c.Status, res.Status, c)
			}
			if fmt.Sprint(c.Evidence) != fmt.Sprint(tt.got) {
				t.Errorf("evidence %+v, want %+v", c.Evidence, tt.got)
			}
			if tt.err == nil {
				if err != nil || !report.OK() || statuses(report) != "p passed, q passed" {
					t.Errorf("%v, %s", err, statuses(report))
				}
				return
			}
			wantErr(t, err, `phase "p"`, `check "c"`, tt.says)
			if !errors.Is(err, tt.err) || report.OK() || find(t, report, "q").Status != Skipped {
				t.Errorf("error %v, ok %t, %s", err, report.OK(), statuses(report))
			}
		})
	}
	if !errors.Is(Failf("%w", root), root) {
		t.Error("Failf does not wrap")
	}
}

// A zero status counts as a failure wherever it stands, so that a forgotten one
// cannot pass.
func TestZeroIsNotOK(t *testing.T) {
	pass := Result{Status: Passed, Checks: []CheckResult{{Status: Passed}}}
	if !(Report{Phases: []Result{pass}}).OK() {
		t.Fatal("a passed phase is not OK")
	}
	for what, r := range map[string]Report{
		"no phases":            {},
		"phase of no status":   {Phases: []Result{pass, {Checks: pass.Checks}}},
		"check of no status":   {Phases: []Result{pass, {Status: Passed, Checks: []CheckResult{{Status: Passed}, {}}}}},
		"phase without checks": {Phases: []Result{pass, {Status: Passed}}},
		"passed with an error": {Phases: []Result{{Status: Passed, Checks: pass.Checks, Err: errors.New("e")}}},
	} {
		if r.OK() || r.Err() == nil {
			t.Errorf("%s: ok %t, error %v", what, r.OK(), r.Err())
		}
	}
	if s := Status(0).String() + Status(99).String(); s != "unknownunknown" {
		t.Error(s)
	}
}

func TestFailureSkipsDependantsAndSaysWhy(t *testing.T) {
	boom := errors.New("no disk")
	a := named("a")
	a.Apply = func(context.Context) error { return boom }
	b := named("b", a)
	c := named("c", b)
	b.Apply = func(context.Context) error { t.Error("b was applied"); return nil }
	other := named("other")
	l := &log{}
	report, err := Run(t.Context(), []*Phase{a, b, c, other}, l.on)
	if got := statuses(report); got != "a failed, b skipped, c skipped, other passed" {
		t.Error(got)
	}
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	if strings.Contains(err.Error(), `"b"`) || strings.Contains(err.Error(), "not run") {
		t.Errorf("the error also tells what only follows from it: %v", err)
	}
	wantErr(t, find(t, report, "b").Err, `needs "a", which failed`)
	wantErr(t, find(t, report, "c").Err, `needs "b", which was skipped`)
	for _, p := range report.Phases[:3] {
		if p.Checks[0].Status != Unknown {
			t.Errorf("%s: a check that was not run is %v", p.Name, p.Checks[0].Status)
		}
		wantErr(t, p.Checks[0].Err, "not run")
	}
	if skipped := find(t, report, "c"); !skipped.Started.IsZero() || skipped.Duration != 0 {
		t.Errorf("a skipped phase has times: %+v", skipped)
	}
	if i := l.at(t, "done b skipped"); i < l.at(t, "done a failed") {
		t.Error("b was skipped before a had failed")
	}
	if slices.Contains(l.lines, "start b") || slices.Contains(l.lines, "applied a") {
		t.Errorf("events tell of what did not happen: %q", l.lines)
	}
}

// All checks are asked although one failed; a failure outweighs a doubt.
func TestFailureOutweighsDoubt(t *testing.T) {
	p := named("p")
	p.Serial = true
	p.Checks = append(p.Checks,
		Check{Name: "doubt", Run: func(context.Context) (Evidence, error) { return Evidence{}, errors.New("no answer") }},
		Check{Name: "no", Run: func(context.Context) (Evidence, error) { return Evidence{}, Want("a", "b") }},
		Check{Name: "doubt again", Run: func(context.Context) (Evidence, error) { return Evidence{}, errors.New("no answer") }},
		passing("last"))
	report, err := Run(t.Context(), []*Phase{p}, nil)
	wantErr(t, err, `check "doubt": could not tell: no answer`, `check "no": failed: want a; got b`)
	if res := report.Phases[0]; res.Status != Failed || res.Err != nil || res.Checks[4].Status != Passed {
		t.Errorf("%+v", res)
	}
}

func TestPanics(t *testing.T) {
	inApply := named("in-apply")
	inApply.Apply = func(context.Context) error { var p *Phase; _ = p.Name; return nil }
	inCheck := named("in-check")
	inCheck.Checks = append(inCheck.Checks, Check{Name: "bad", Run: func(context.Context) (Evidence, error) { panic("boom") }})
	exits := named("exits")
	exits.Checks = append(exits.Checks, Check{Name: "bad", Run: func(context.Context) (Evidence, error) { runtime.Goexit(); return Evidence{}, nil }})
	fine := named("fine")
	report, err := Run(t.Context(), []*Phase{inApply, inCheck, exits, fine}, nil)
	if got := statuses(report); got != "in-apply failed, in-check unknown, exits unknown, fine passed" {
		t.Error(got)
	}
	wantErr(t, err, "panic: runtime error: invalid memory address", "panic: boom", "told no outcome")
	wantErr(t, find(t, report, "in-apply").Err, "phase.TestPanics", "run_test.go:")
	wantErr(t, find(t, report, "in-check").Checks[1].Err, "phase.TestPanics", "run_test.go:")
	if find(t, report, "in-check").Checks[0].Status != Passed {
		t.Error("the check beside the one that panicked did not pass")
	}
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(ctx context.Context) error { <-ctx.Done(); return errors.New("interrupted") }
		own := named("own")
		own.Timeout, own.Apply = time.Second, wait
		byDefault := named("default")
		byDefault.Checks[0].Run = func(ctx context.Context) (Evidence, error) { return Evidence{Got: "half"}, wait(ctx) }
		inTime := named("in-time")
		inTime.Timeout = time.Hour
		inTime.Apply = func(context.Context) error { time.Sleep(30 * time.Minute); return nil }
		used := named("used-up")
		used.Timeout = time.Second
		used.Apply = func(context.Context) error { time.Sleep(2 * time.Second); return nil }
		report, err := RunWith(t.Context(), []*Phase{own, byDefault, inTime, used}, Options{Timeout: time.Minute}, nil)
		if got := statuses(report); got != "own failed, default unknown, in-time passed, used-up unknown" {
			t.Error(got)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		wantErr(t, find(t, report, "own").Err, "interrupted", `phase "own" timed out after 1s`)
		wantErr(t, find(t, report, "default").Checks[0].Err, "interrupted", "timed out after 1m0s")
		wantErr(t, find(t, report, "used-up").Err, "timed out after 1s")
		wantErr(t, find(t, report, "used-up").Checks[0].Err, "not run")
		if res := find(t, report, "own"); res.Apply != time.Second || res.Duration != time.Second {
			t.Errorf("durations %s, %s", res.Apply, res.Duration)
		}
		if res := find(t, report, "in-time"); res.Apply != 30*time.Minute {
			t.Errorf("durations %s, %s", res.Apply, res.Duration)
		}
	})
}

// What does not heed its context is left behind, and cannot speak any more.
func TestDeafToItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		gone := make(chan struct{})
		p := named("p")
		p.Timeout = time.Second
		p.Apply = func(ctx context.Context) error {
			defer close(gone)
			<-release
			Progress(ctx, "still here")
			Note(ctx, "key", "late")
			return nil
		}
		longer := named("longer")
		longer.Apply = func(context.Context) error {
			time.Sleep(grace + 3*time.Second)
			close(release)
			<-gone
			return nil
		}
		l := &log{}
		report, err := Run(t.Context(), []*Phase{p, longer}, l.on)
		wantErr(t, err, "did not stop within 2m0s", "timed out after 1s")
		if slices.Contains(l.lines, "progress p") || len(report.Metadata) != 0 {
			t.Errorf("it spoke after it was left behind: %q %v", l.lines, report.Metadata)
		}
		if got := statuses(report); got != "p failed, longer passed" {
			t.Error(got)
		}
		if res := report.Phases[0]; res.Duration != grace+time.Second {
			t.Errorf("left behind after %s", res.Duration)
		}
	})
}

func TestCancellationKeepsAValidReport(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the user pressed Ctrl-C")
	first := named("first")
	running := named("running", first)
	undone := false
	running.Apply = func(ctx context.Context) error {
		cancel(why)
		<-ctx.Done()
		undone = true // what was half made is removed before Run returns
		return fmt.Errorf("creating: %w", ctx.Err())
	}
	checking := named("checking", first)
	begun := make(chan struct{})
	checking.Serial = true
	checking.Checks = []Check{passing("before"), {Name: "during", Run: func(ctx context.Context) (Evidence, error) {
		close(begun)
		<-ctx.Done()
		return Evidence{}, ctx.Err()
	}}, passing("after")}
	running.Apply = func(apply func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error { <-begun; return apply(ctx) }
	}(running.Apply)
	later := named("later", running)
	later.Apply = func(context.Context) error { t.Error("later was applied"); return nil }

	report, err := Run(ctx, []*Phase{first, running, checking, later}, nil)
	if !errors.Is(err, why) || !errors.Is(err, context.Canceled) || !undone {
		t.Errorf("error %v, undone %t", err, undone)
	}
	if got := statuses(report); got != "first passed, running cancelled, checking cancelled, later skipped" {
		t.Error(got)
	}
	wantErr(t, find(t, report, "running").Err, "creating", "Ctrl-C")
	wantErr(t, find(t, report, "later").Err, "cancelled before it started", "Ctrl-C")
	var got []string
	for _, c := range find(t, report, "checking").Checks {
		got = append(got, c.Name+" "+c.Status.String())
	}
	if want := []string{"before passed", "during unknown", "after unknown"}; !slices.Equal(got, want) {
		t.Errorf("checks %q, want %q", got, want)
	}
	if report.OK() || report.Started.IsZero() || report.Ended.Before(report.Started) {
		t.Errorf("report %+v", report)
	}
}

func TestCancelledBeforeItBegan(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	report, err := Run(ctx, []*Phase{named("a"), named("b")}, nil)
	if !errors.Is(err, context.Canceled) || statuses(report) != "a skipped, b skipped" {
		t.Errorf("%v, %s", err, statuses(report))
	}
}

func TestVerifyOnlyAppliesNothing(t *testing.T) {
	a := named("a")
	a.Apply = func(context.Context) error { t.Error("applied"); return nil }
	b := named("b", a)
	l := &log{}
	report, err := RunWith(t.Context(), []*Phase{b}, Options{VerifyOnly: true}, l.on)
	if err != nil || !report.OK() || !report.VerifyOnly || statuses(report) != "a passed, b passed" {
		t.Errorf("%v, %+v", err, report)
	}
	if slices.Contains(l.lines, "applied a") {
		t.Errorf("events %q", l.lines)
	}
}

func TestOnlyRunsNeedsToo(t *testing.T) {
	var mu sync.Mutex
	var applied []string
	phases := []*Phase{named("a")}
	phases = append(phases, named("b", phases[0]), named("c"))
	for _, p := range phases {
		p.Apply = func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, p.Name)
			return nil
		}
	}
	report, err := RunWith(t.Context(), phases, Options{Only: []string{"b"}}, nil)
	if err != nil || statuses(report) != "a passed, b passed" || !slices.Equal(applied, []string{"a", "b"}) {
		t.Errorf("%v, %s, applied %v", err, statuses(report), applied)
	}
}

func TestMetadata(t *testing.T) {
	given := map[string]string{"version": "1"}
	p := named("p")
	p.Apply = func(ctx context.Context) error { Note(ctx, "digest", "sha256:0"); return nil }
	report, err := RunWith(t.Context(), []*Phase{p}, Options{Metadata: given}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(report.Metadata) != "map[digest:sha256:0 version:1]" || len(given) != 1 {
		t.Errorf("metadata %v, given %v", report.Metadata, given)
	}
}

func TestOutsideARun(t *testing.T) {
	Progress(t.Context(), "nobody hears %s", "this")
	Note(t.Context(), "k", "v")
	if s := t.Context().Value(scopeKey{}); s != nil {
		t.Error("there is a scope outside of a run")
	}
}

// Events come one at a time although everything else happens at once: the listener
// here has no lock, and the race detector watches.
func TestEventsComeOneAtATime(t *testing.T) {
	var phases []*Phase
	for i := range 20 {
		p := named(fmt.Sprint("p", i))
		p.Apply = func(ctx context.Context) error {
			for n := range 50 {
				Progress(ctx, "%d", n)
				Note(ctx, p.Name, fmt.Sprint(n))
			}
			return nil
		}
		phases = append(phases, p)
	}
	seen := map[string]int{}
	report, err := Run(t.Context(), phases, func(e Event) { seen[e.Phase]++ })
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range phases {
		// planned, started, 50 lines, applied, asked, answered, done
		if seen[p.Name] != 56 || report.Metadata[p.Name] != "49" {
			t.Errorf("%s: %d events, metadata %q", p.Name, seen[p.Name], report.Metadata[p.Name])
		}
	}
}

// An error that only says in words that the context ended is known as such too.
func TestCancellationIsKnownThroughWords(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := &Phase{
		Name: "p",
		Apply: func(ctx context.Context) error {
			cancel()
			<-ctx.Done()
			return errors.New("Get /api: " + ctx.Err().Error())
		},
		Checks: []Check{{Name: "c", Run: func(context.Context) (Evidence, error) { return Evidence{}, nil }}},
	}
	_, err := Run(ctx, []*Phase{p}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := strings.Count(err.Error(), context.Canceled.Error()); n != 1 {
		t.Errorf("said %d times: %v", n, err)
	}
}

package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sethvargo/go-githubactions"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// stepLog writes the step's log: a group for each phase, live, and workflow commands. The
// runner shows no group inside another one, so where phases run at the same time one of
// them is shown and the others wait for their turn, with all their lines.
//
// Nothing that a pod, a server or an input says can become a workflow command, or steer a
// terminal.
type stepLog struct {
	mu     sync.Mutex
	action *githubactions.Action
	w      io.Writer
	began  time.Time
	masks  []string

	shown   string   // the phase whose group is open
	waiting []string // phases that have begun and are not shown yet, in that order
	lines   map[string][]string
	docs    map[string]string
	done    map[string]string // what is said of a phase that has ended
	after   []string          // lines for after the group that is open
}

func newLog(w io.Writer, getenv func(string) string) *stepLog {
	w = &patientWriter{w: w}
	return &stepLog{
		action: githubactions.New(githubactions.WithWriter(w), githubactions.WithGetenv(getenv)),
		w:      w, began: time.Now(),
		lines: map[string][]string{}, docs: map[string]string{}, done: map[string]string{},
	}
}

// patientWriter drops what cannot be written: a log that nobody takes must not end the run,
// least of all while it cleans up.
type patientWriter struct{ w io.Writer }

func (p *patientWriter) Write(b []byte) (int, error) {
	_, _ = p.w.Write(b)
	return len(b), nil
}

// printable is s on one line, without control characters and without what the runner's old
// command syntax begins with.
func printable(s string) string {
	return strings.ReplaceAll(report.Printable(s), "##[", "# #[")
}

// line is a line of the log: never a command, for a command begins with two colons.
func line(s string) string {
	s = printable(s)
	if strings.HasPrefix(s, "::") {
		s = "· " + s
	}
	return s
}

// mask has the runner show each line of a secret as ***, from now on. It is to be called
// before anything can print it.
func (l *stepLog) mask(secret string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range strings.FieldsFuncSeq(secret, func(c rune) bool { return c == '\n' || c == '\r' }) {
		if s = strings.TrimSpace(s); s != "" {
			l.masks = append(l.masks, s)
			l.action.AddMask(s)
		}
	}
}

// redact puts *** in the place of what is masked, for what does not go by way of the log.
func (l *stepLog) redact(s string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.masks {
		s = strings.ReplaceAll(s, m, "***")
	}
	return s
}

// say writes a line outside of all groups or, while one is open, in it.
func (l *stepLog) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.print(fmt.Sprintf(format, args...))
}

func (l *stepLog) print(s string) { _, _ = fmt.Fprintln(l.w, line(s)) }

// on shows an event of the run.
func (l *stepLog) on(e phase.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := fmt.Sprintf("%6.1fs  ", e.Elapsed.Seconds())
	switch e.Kind {
	case phase.PhasePlanned:
		l.docs[e.Phase] = e.Text
	case phase.PhaseStarted:
		if l.shown == "" {
			l.open(e.Phase)
		} else {
			l.waiting = append(l.waiting, e.Phase)
		}
	case phase.PhaseProgress:
		text := e.Text
		if e.Check != "" {
			text = e.Check + ": " + text
		}
		l.add(e.Phase, at+text)
	case phase.PhaseApplied:
		l.add(e.Phase, at+"applied")
	case phase.CheckDone:
		text := fmt.Sprintf("%s%s %s", at, report.Mark(e.Status), e.Check)
		if e.Text != "" {
			text += ": " + e.Text
		}
		l.add(e.Phase, text)
	case phase.PhaseDone:
		said := fmt.Sprintf("%s %s: %s", report.Mark(e.Status), e.Phase, report.Word(e.Status))
		if e.Status != phase.Skipped {
			said += fmt.Sprintf(" after %.1fs", e.Elapsed.Seconds())
		}
		if e.Text != "" {
			said += ": " + e.Text
		}
		l.done[e.Phase] = said
		l.turn(e.Phase)
	}
}

// add puts a line into the group of a phase, now or when it is shown.
func (l *stepLog) add(phase, text string) {
	if phase == l.shown {
		l.print(text)
		return
	}
	l.lines[phase] = append(l.lines[phase], text)
}

func (l *stepLog) open(phase string) {
	l.shown = phase
	l.action.Group(printable(phase + ": " + l.docs[phase]))
	for _, text := range l.lines[phase] {
		l.print(text)
	}
	delete(l.lines, phase)
}

// turn is called when a phase has ended: if it is the one that is shown, or has no group, that
// is said, and those that waited are shown.
func (l *stepLog) turn(phase string) {
	if phase == l.shown {
		l.close()
		for len(l.waiting) > 0 && l.shown == "" {
			next := l.waiting[0]
			l.waiting = l.waiting[1:]
			l.open(next)
			if l.done[next] != "" {
				l.close()
			}
		}
		return
	}
	for _, w := range l.waiting {
		if w == phase {
			return
		}
	}
	if l.shown != "" {
		l.after = append(l.after, l.done[phase])
		return
	}
	l.print(l.done[phase])
}

func (l *stepLog) close() {
	l.action.EndGroup()
	l.print(l.done[l.shown])
	for _, s := range l.after {
		l.print(s)
	}
	l.shown, l.after = "", nil
}

// group writes lines into a group of their own, when no phase runs.
func (l *stepLog) group(title string, lines []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.action.Group(printable(title))
	for _, s := range lines {
		l.print(s)
	}
	l.action.EndGroup()
}

// quote writes what a pod said into a group of its own, between stop-commands and a token
// that nobody can foresee, so that none of it is taken for a command.
func (l *stepLog) quote(title, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	token := randomToken()
	l.action.Group(printable(title))
	_, _ = fmt.Fprintf(l.w, "::stop-commands::%s\n", token)
	for s := range strings.Lines(text) {
		l.print(s)
	}
	_, _ = fmt.Fprintf(l.w, "::%s::\n", token)
	l.action.EndGroup()
}

// annotate writes annotations, which the runner shows beside the run.
func (l *stepLog) annotate(all []annotation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range all {
		fields := map[string]string{"title": printable(a.title)}
		if a.file != "" {
			fields["file"] = printable(a.file)
		}
		action := l.action.WithFieldsMap(fields)
		if a.warning {
			action.Warningf("%s", a.text)
		} else {
			action.Errorf("%s", a.text)
		}
	}
}

// fail and warn are annotations without a place.
func (l *stepLog) fail(err error) { l.annotate([]annotation{{title: "zerotrust", text: text(err)}}) }
func (l *stepLog) warn(err error) {
	l.annotate([]annotation{{title: "zerotrust", text: text(err), warning: true}})
}

// text is an error with its lines, each of them printable.
func text(err error) string {
	var all []string
	for s := range strings.Lines(err.Error()) {
		all = append(all, printable(s))
	}
	return strings.Join(all, "\n")
}

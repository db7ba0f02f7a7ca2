package report

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// TerminalConfig says what the output is. The zero value writes plain lines.
type TerminalConfig struct {
	// Live says that the output is a terminal that understands ANSI sequences: running phases
	// are then shown at its bottom, each on a line that changes.
	Live bool
	// Width is the terminal's, in columns; default 80. It matters with Live only.
	Width int
	// Color marks outcomes by colour.
	Color bool
}

// Terminal shows a run while it goes on. Give its On to phase.Run, and Close it
// before anything else is written to the same place.
type Terminal struct {
	cfg TerminalConfig
	w   io.Writer

	mu      sync.Mutex
	names   int // columns of the longest phase name
	running []*running
	drawn   int // live lines that are on the screen
	tick    int
	err     error
	stop    chan struct{} // nil until the first event
	stopped chan struct{}
	closed  bool
}

// running is a phase between its start and its end.
type running struct {
	name     string
	started  time.Time
	last     string // what it said last
	lastLine time.Time
}

const (
	frameTime = 100 * time.Millisecond
	// heartbeat is how long a phase may be silent in plain output, for those who
	// would think it hangs, and for CI systems that kill what is silent.
	heartbeat = 30 * time.Second
)

// NewTerminal shows runs on w. Nothing is written before the first event.
func NewTerminal(w io.Writer, cfg TerminalConfig) *Terminal {
	if cfg.Width <= 0 {
		cfg.Width = 80
	}
	return &Terminal{cfg: cfg, w: w}
}

// On takes in an event. After Close it does nothing.
func (t *Terminal) On(e phase.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if t.stop == nil {
		t.stop, t.stopped = make(chan struct{}), make(chan struct{})
		go t.animate()
	}
	if t.cfg.Live {
		t.live(e)
		t.draw()
		return
	}
	t.plain(e)
}

// Close removes the live lines and returns the first error of writing. It may be
// called more than once.
func (t *Terminal) Close() error {
	t.mu.Lock()
	if !t.closed && t.stop != nil {
		close(t.stop)
	}
	t.closed = true
	stopped := t.stopped
	t.mu.Unlock()
	if stopped != nil {
		<-stopped
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = nil
	t.draw()
	if t.err != nil {
		return fmt.Errorf("report: write the progress: %w", t.err)
	}
	return nil
}

// animate keeps the clocks of live lines going, and plain output alive.
func (t *Terminal) animate() {
	defer close(t.stopped)
	ticker := time.NewTicker(frameTime)
	defer ticker.Stop()
	for {
		select {
		case <-t.stop:
			return
		case now := <-ticker.C:
			t.mu.Lock()
			t.tick++
			if t.cfg.Live {
				t.draw()
			} else {
				t.beat(now)
			}
			t.mu.Unlock()
		}
	}
}

func (t *Terminal) phase(name string) *running {
	for _, r := range t.running {
		if r.name == name {
			return r
		}
	}
	return &running{name: name} // not shown: of a phase that does not run
}

func (t *Terminal) write(s string) {
	if s == "" || t.err != nil {
		return
	}
	_, t.err = io.WriteString(t.w, s)
}

// note keeps the books that both kinds of output need.
func (t *Terminal) note(e phase.Event) {
	switch e.Kind {
	case phase.PhasePlanned:
		t.names = max(t.names, utf8.RuneCountInString(Printable(e.Phase)))
	case phase.PhaseStarted:
		t.running = append(t.running, &running{name: e.Phase, started: e.Time, lastLine: e.Time})
	case phase.PhaseDone:
		for i, r := range t.running {
			if r.name == e.Phase {
				t.running = append(t.running[:i], t.running[i+1:]...)
				break
			}
		}
	}
}

// live prints for good what is worth keeping, and remembers the rest for the live lines.
func (t *Terminal) live(e phase.Event) {
	t.note(e)
	r := t.phase(e.Phase)
	switch e.Kind {
	case phase.PhaseProgress:
		r.last = e.Text
		if e.Check != "" {
			r.last = e.Check + ": " + e.Text
		}
	case phase.PhaseApplied:
		r.last = "applied"
	case phase.CheckStarted:
		r.last = "checking: " + e.Check
	case phase.CheckDone:
		if e.Status != phase.Passed {
			t.keep(fmt.Sprintf("%s %s  %s: %s: %s", t.colored(e.Status, Mark(e.Status)), t.padded(e.Phase), Printable(e.Check), Word(e.Status), Printable(e.Text)))
		}
	case phase.PhaseDone:
		line := fmt.Sprintf("%s %s  %s", t.colored(e.Status, Mark(e.Status)), t.padded(e.Phase), t.colored(e.Status, Word(e.Status)))
		if e.Elapsed > 0 {
			line += " in " + short(e.Elapsed)
		}
		if e.Text != "" {
			line += ": " + Printable(e.Text)
		}
		t.keep(line)
	}
}

// keep prints a line above the live ones, to stay.
func (t *Terminal) keep(line string) {
	t.write(t.erase() + line + "\n")
	t.drawn = 0
}

// erase puts the cursor on the first live line and clears from there on.
func (t *Terminal) erase() string {
	if t.drawn == 0 {
		return ""
	}
	return fmt.Sprintf("\x1b[%dA\r\x1b[J", t.drawn)
}

// draw shows the live lines in place of the old ones, in one write so that nothing flickers.
func (t *Terminal) draw() {
	if !t.cfg.Live {
		return
	}
	var b strings.Builder
	b.WriteString(t.erase())
	for _, r := range t.running {
		spinner := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
		line := fmt.Sprintf("%c %s  %7s  %s", spinner[t.tick%len(spinner)], t.padded(r.name), short(time.Since(r.started)), Printable(r.last))
		b.WriteString(cut(strings.TrimRight(line, " "), t.cfg.Width-1) + "\n")
	}
	t.drawn = len(t.running)
	t.write(b.String())
}

func (t *Terminal) padded(name string) string { return fmt.Sprintf("%-*s", t.names, Printable(name)) }

// colored puts s into the colour of a status.
func (t *Terminal) colored(s phase.Status, what string) string {
	if !t.cfg.Color {
		return what
	}
	code := 33 // yellow
	switch s {
	case phase.Passed:
		code = 32
	case phase.Failed:
		code = 31
	case phase.Skipped:
		code = 90
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, what)
}

// plain prints a line for each event that a reader of a log wants.
func (t *Terminal) plain(e phase.Event) {
	t.note(e)
	r := t.phase(e.Phase)
	var said string
	switch e.Kind {
	case phase.PhaseStarted:
		said = "started"
	case phase.PhaseProgress:
		said = Printable(e.Text)
		if e.Check != "" {
			said = Printable(e.Check) + ": " + said
		}
		if said == r.last {
			return // nothing new
		}
		r.last = said
	case phase.PhaseApplied:
		said = "applied in " + short(e.Elapsed)
	case phase.CheckDone:
		said = fmt.Sprintf("%s %s: %s in %s", t.colored(e.Status, Mark(e.Status)), Printable(e.Check), Word(e.Status), short(e.Elapsed))
		if e.Text != "" {
			said += ": " + Printable(e.Text)
		}
	case phase.PhaseDone:
		said = t.colored(e.Status, Word(e.Status))
		if e.Elapsed > 0 {
			said += " in " + short(e.Elapsed)
		}
		if e.Text != "" {
			said += ": " + Printable(e.Text)
		}
	default:
		return
	}
	r.lastLine = e.Time
	t.line(e.Time, e.Phase, said)
}

func (t *Terminal) line(at time.Time, name, said string) {
	t.write(fmt.Sprintf("%s %s  %s\n", at.Format(time.TimeOnly), t.padded(name), said))
}

// beat says that silent phases still run.
func (t *Terminal) beat(now time.Time) {
	for _, r := range t.running {
		if now.Sub(r.lastLine) < heartbeat {
			continue
		}
		r.lastLine = now
		t.line(now, r.name, "still running after "+short(now.Sub(r.started)))
	}
}

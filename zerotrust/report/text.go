package report

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// Printable is s on one line and without control characters: what a pod or a server
// said must not steer the reader's terminal.
func Printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// cut is s in at most width columns. It counts each rune as one.
func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	return string(r[:width-1]) + "…"
}

// short prints a duration for a reader: 0.4s, 12.3s, 2m05s, 1h02m.
func short(d time.Duration) string {
	switch {
	case d < time.Minute-50*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d.Round(time.Second) < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	d = d.Round(time.Minute)
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

// Word is a status as a reader is told it.
func Word(s phase.Status) string {
	if s == phase.Unknown {
		return "could not tell"
	}
	return s.String()
}

// Mark is a status in one column.
func Mark(s phase.Status) string {
	switch s {
	case phase.Passed:
		return "✓"
	case phase.Failed:
		return "✗"
	case phase.Skipped, phase.Cancelled:
		return "-"
	}
	return "?"
}

// times are how long a phase took and its Apply, empty for what never ran.
func times(p phase.Result) (took, apply string) {
	if !p.Started.IsZero() {
		took = short(p.Duration)
	}
	if p.Apply > 0 {
		apply = short(p.Apply)
	}
	return took, apply
}

// passed is how many checks of a phase did.
func passed(p phase.Result) int {
	n := 0
	for _, c := range p.Checks {
		if c.Status == phase.Passed {
			n++
		}
	}
	return n
}

// notRun says that a check was never asked.
func notRun(c phase.CheckResult) bool { return c.Status == phase.Unknown && c.Started.IsZero() }

// outcome is what became of a check, as a reader is told it.
func outcome(c phase.CheckResult) string {
	if notRun(c) {
		return "not run"
	}
	return Word(c.Status)
}

// outcomeMark is an outcome in one column.
func outcomeMark(c phase.CheckResult) string {
	if notRun(c) {
		return Mark(phase.Skipped)
	}
	return Mark(c.Status)
}

// why is the error of a check, unless it says no more than what was expected and seen.
func why(c phase.CheckResult) string {
	if s := text(c.Err); s != phase.Want(c.Evidence.Want, c.Evidence.Got).Error() {
		return s
	}
	return ""
}

// told is what a check has to say for its outcome, less the details: labels and
// texts, none of them empty, on one line each.
func told(c phase.CheckResult) [][2]string {
	e := c.Evidence
	lines := [][2]string{{"expected", e.Want}, {"seen", e.Got}, {"error", why(c)}, {"source", e.Source}}
	if c.Status != phase.Passed {
		lines = append(lines, [2]string{"how to fix", c.Hint})
	}
	var all [][2]string
	for _, l := range lines {
		if s := Printable(l[1]); s != "" {
			all = append(all, [2]string{l[0], s})
		}
	}
	return all
}

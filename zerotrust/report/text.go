package report

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// printable is s on one line and without control characters: what a pod or a server
// said must not steer the reader's terminal.
func printable(s string) string {
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

// word is a status as a reader is told it.
func word(s phase.Status) string {
	if s == phase.Unknown {
		return "could not tell"
	}
	return s.String()
}

// mark is a status in one column.
func mark(s phase.Status) string {
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

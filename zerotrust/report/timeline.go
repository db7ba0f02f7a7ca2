package report

import (
	"fmt"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// timeline is when the phases of a run ran: bars beside each other, on one scale.
type timeline struct {
	Ticks []tick
	Bars  []bar
}

// tick is a round time since the start.
type tick struct{ Name, X string }

// bar is a phase. Places and widths are in percent of the run.
type bar struct {
	ID, Name, Class, Text string
	X, Width, ApplyWidth  string // empty if it never ran
}

// timelineOf covers the run and, if they go beyond it, its phases.
func timelineOf(r phase.Report) timeline {
	all := r.Ended.Sub(r.Started)
	for _, p := range r.Phases {
		if !p.Started.IsZero() {
			all = max(all, p.Started.Sub(r.Started)+p.Duration)
		}
	}
	all = max(all, time.Millisecond) // nothing is divided by zero
	// Not beyond the drawing, whatever the clocks were.
	part := func(d time.Duration) string {
		return fmt.Sprintf("%.2f%%", 100*min(max(d.Seconds()/all.Seconds(), 0), 1))
	}
	var t timeline
	for d, step := time.Duration(0), stepOf(all); d < all; d += step {
		t.Ticks = append(t.Ticks, tick{clock(d), part(d)})
	}
	for i, p := range r.Phases {
		b := bar{ID: phaseID(i), Name: Printable(p.Name), Class: p.Status.String(), Text: Word(p.Status)}
		if !p.Started.IsZero() {
			b.X, b.Width, b.ApplyWidth = part(p.Started.Sub(r.Started)), part(p.Duration), part(p.Apply)
			b.Text = short(p.Duration)
		}
		t.Bars = append(t.Bars, b)
	}
	return t
}

// stepOf is a round time that divides all into at most six.
func stepOf(all time.Duration) time.Duration {
	for _, s := range []time.Duration{
		time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second,
		15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour,
	} {
		if all <= 6*s {
			return s
		}
	}
	return (all/6 + time.Hour).Truncate(time.Hour)
}

// clock is a time since the start: 0, 250ms, 30s, 2m, 2m30s, 1h.
func clock(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour && d%time.Minute != 0:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}

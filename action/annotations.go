package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// mostAnnotations is how many of a kind the runner keeps of one step:
// https://github.com/orgs/community/discussions/26680
const mostAnnotations = 10

// annotation is one message beside the run.
type annotation struct {
	title, text, file string
	warning           bool

	rank int // the worst is 0
}

// annotationsOf are the worst things of a report, at most ten; the last one then says how many
// more there are. file is the intent's, "" for none.
func annotationsOf(r phase.Report, file string) []annotation {
	var all []annotation
	say := func(rank int, title, format string, args ...any) {
		all = append(all, annotation{title: title, text: fmt.Sprintf(format, args...), file: file, rank: rank, warning: rank >= rankUnknown})
	}
	for _, p := range r.Phases {
		if p.Err != nil && p.Status != phase.Skipped {
			rank := rankApply
			if p.Status != phase.Failed {
				rank = rankCancelled
			}
			say(rank, p.Name, "%s: %s", report.Word(p.Status), printable(p.Err.Error()))
		}
		for _, c := range p.Checks {
			if c.Status == phase.Passed || c.Started.IsZero() {
				continue
			}
			say(rankOf(c), p.Name+", "+c.Name, "%s", told(c))
		}
	}
	slices.SortStableFunc(all, func(a, b annotation) int { return cmp.Compare(a.rank, b.rank) })
	if len(all) > mostAnnotations {
		more := len(all) - mostAnnotations + 1
		all = append(all[:mostAnnotations-1], annotation{
			title: "and more", text: fmt.Sprintf("%d more did not pass: see the job summary or the report", more), file: file,
			rank: all[mostAnnotations-1].rank, warning: all[mostAnnotations-1].warning,
		})
	}
	return all
}

// From the worst on: what gets through that should not, what could not be set up, what else is
// not as it should be, what could not be told.
const (
	rankThrough = iota
	rankApply
	rankFailed
	rankUnknown
	rankCancelled
)

func rankOf(c phase.CheckResult) int {
	switch {
	case c.Status != phase.Failed:
		return rankUnknown
	case c.Edge != nil && !c.Edge.Allowed:
		return rankThrough
	}
	return rankFailed
}

// told is what a check has to say for not having passed, in lines.
func told(c phase.CheckResult) string {
	e := c.Evidence
	lines := []string{report.Word(c.Status)}
	for _, l := range [][2]string{{"expected", e.Want}, {"seen", e.Got}, {"source", e.Source}, {"how to fix", c.Hint}} {
		if s := printable(l[1]); s != "" {
			lines = append(lines, l[0]+": "+s)
		}
	}
	if c.Err != nil && c.Err.Error() != phase.Want(e.Want, e.Got).Error() {
		lines = slices.Insert(lines, 1, "error: "+printable(c.Err.Error()))
	}
	return strings.Join(lines, "\n")
}

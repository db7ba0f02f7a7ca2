package report

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// Summary writes a table of the phases, then what did not pass with its evidence and
// what to do, then one line with the verdict.
func Summary(w io.Writer, r phase.Report) error {
	var b bytes.Buffer
	table(&b, r)
	for _, p := range r.Phases {
		trouble(&b, p)
	}
	metadata(&b, r)
	fmt.Fprintf(&b, "\n%s\n", verdict(r))
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("report: write the summary: %w", err)
	}
	return nil
}

func table(b *bytes.Buffer, r phase.Report) {
	var rows bytes.Buffer
	t := tabwriter.NewWriter(&rows, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, " \tPHASE\tSTATUS\tTIME\tAPPLY\tCHECKS")
	for _, p := range r.Phases {
		took, apply := times(p)
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d of %d\n", Mark(p.Status), Printable(p.Name), Word(p.Status), took, apply, passed(p), len(p.Checks))
	}
	_ = t.Flush() // a buffer takes everything
	for line := range strings.Lines(rows.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// trouble tells all that did not pass in a phase.
func trouble(b *bytes.Buffer, p phase.Result) {
	if p.Status == phase.Passed {
		return
	}
	fmt.Fprintf(b, "\n%s %s: %s", Mark(p.Status), Printable(p.Name), Word(p.Status))
	if p.Err != nil {
		fmt.Fprintf(b, ": %s", Printable(p.Err.Error()))
	}
	b.WriteString("\n")
	for _, c := range p.Checks {
		// A check that was not asked has nothing to tell beyond its phase's line.
		if c.Status == phase.Passed || c.Started.IsZero() {
			continue
		}
		e := c.Evidence
		fmt.Fprintf(b, "  %s %s: %s", Mark(c.Status), Printable(c.Name), Word(c.Status))
		if why := why(c); why != "" {
			fmt.Fprintf(b, ": %s", Printable(why))
		}
		b.WriteString("\n")
		for _, line := range [][2]string{{"want", e.Want}, {"got", e.Got}, {"seen in", e.Source}, {"hint", c.Hint}} {
			if line[1] != "" {
				fmt.Fprintf(b, "      %-8s %s\n", line[0]+":", Printable(line[1]))
			}
		}
		for _, d := range e.Details {
			fmt.Fprintf(b, "      | %s\n", Printable(d))
		}
	}
}

func metadata(b *bytes.Buffer, r phase.Report) {
	if len(r.Metadata) == 0 {
		return
	}
	b.WriteString("\n")
	for _, k := range slices.Sorted(maps.Keys(r.Metadata)) {
		fmt.Fprintf(b, "%s: %s\n", Printable(k), Printable(r.Metadata[k]))
	}
}

func verdict(r phase.Report) string {
	counts := map[phase.Status]int{}
	checks, good := 0, 0
	for _, p := range r.Phases {
		counts[p.Status]++
		checks, good = checks+len(p.Checks), good+passed(p)
	}
	took := short(r.Ended.Sub(r.Started))
	if r.OK() {
		return fmt.Sprintf("PROVEN: all %d checks of %d phases passed in %s.", checks, len(r.Phases), took)
	}
	var parts []string
	for _, s := range []phase.Status{phase.Passed, phase.Failed, phase.Unknown, phase.Cancelled, phase.Skipped} {
		if counts[s] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", counts[s], Word(s)))
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing was run"}
	}
	return fmt.Sprintf("NOT PROVEN: %d of %d checks passed in %s; phases: %s.", good, checks, took, strings.Join(parts, ", "))
}

package main

import (
	"bytes"
	"fmt"
	"html"
	"strings"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

const (
	// summaryLimit keeps away from the 1 MiB beyond which the runner drops a summary:
	// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#step-isolation-and-limits
	summaryLimit = 1<<20 - 8<<10
	// tailLimit is for all log tails together, and tailBytes for one of them.
	tailLimit = 256 << 10
	tailBytes = 16 << 10
)

// tail is the end of what one container said.
type tail struct{ name, text string }

// summaryOf is the job summary: the report as Markdown, then the tails of logs, folded. used
// is what is in the step's summary already. What does not fit is left out whole and named,
// so the Markdown stays whole.
func summaryOf(r phase.Report, tails []tail, used int) (string, error) {
	limit := summaryLimit - used
	folded := foldedTails(tails, min(tailLimit, limit/2))
	var b bytes.Buffer
	if err := report.Markdown(&b, r, report.MarkdownConfig{Limit: limit - len(folded)}); err != nil {
		return "", err
	}
	if b.Len()+len(folded) > limit {
		return "", fmt.Errorf("the step's summary has %d bytes already, and no room for another one", used)
	}
	return b.String() + folded, nil
}

// foldedTails are the tails in at most room bytes.
func foldedTails(tails []tail, room int) string {
	if len(tails) == 0 {
		return ""
	}
	const heading = "\n## Logs\n"
	var b strings.Builder
	b.WriteString(heading)
	left := 0
	for i, t := range tails {
		piece := folded(t)
		if rest := fmt.Sprintf("\n**Left out:** the logs of %d more containers.\n", len(tails)); b.Len()+len(piece)+len(rest) > room {
			left = len(tails) - i
			break
		}
		b.WriteString(piece)
	}
	if left > 0 {
		fmt.Fprintf(&b, "\n**Left out:** the logs of %d more containers.\n", left)
	}
	if b.Len() > room {
		return ""
	}
	return b.String()
}

// folded is one tail. The text is in a pre element, which Markdown does not look into, and
// cannot end it.
func folded(t tail) string {
	return fmt.Sprintf("\n<details>\n<summary>%s</summary>\n\n<pre>%s</pre>\n\n</details>\n", html.EscapeString(printable(t.name)), html.EscapeString(lastLines(t.text, tailBytes)))
}

// lastLines is the end of a text, at most so many bytes of it, in whole printable lines.
func lastLines(s string, most int) string {
	var all []string
	for l := range strings.Lines(s) {
		all = append(all, printable(l))
	}
	size := 0
	for i := len(all) - 1; i >= 0; i-- {
		if size += len(all[i]) + 1; size > most {
			return strings.Join(append([]string{"…"}, all[i+1:]...), "\n")
		}
	}
	return strings.Join(all, "\n")
}

// wrongInputs is the summary of a step that could not begin.
func wrongInputs(err error) string {
	if err == nil {
		return ""
	}
	return fmt.Sprintf("# ✗ Nothing was run\n\n<pre>%s</pre>\n", html.EscapeString(text(err)))
}

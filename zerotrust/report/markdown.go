package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// MarkdownConfig limits the document. The zero value suits a job summary of GitHub.
type MarkdownConfig struct {
	// Limit is the most bytes to write; default 1 MiB less 4 KiB, at least 1 KiB. GitHub
	// drops a summary of more than 1 MiB:
	// https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands#step-isolation-and-limits
	Limit int
}

const (
	defaultLimit = 1<<20 - 4<<10
	leastLimit   = 1 << 10
	// noteRoom is kept free for the line that says what was left out.
	noteRoom = 400
	// longestName and longestText are in runes; one text must not cost all others their place.
	longestName = 120
	longestText = 2000
	mostDetails = 50
	// Mermaid draws nothing beyond these: https://mermaid.js.org/config/schema-docs/config.html
	mermaidEdges = 500
	mermaidText  = 50_000
)

// block is a piece of Markdown that stands or falls as one.
type block struct {
	section string // its heading, said before the first block of it
	kind    string // what is left out where it does not fit
	text    string // without a newline at its end
}

// Markdown writes the report in GitHub's flavour: the verdict, the phases, the matrix of
// edges, what did not pass with what to do, the proven edges as a Mermaid drawing
// and in words, the metadata. Whatever comes from the report is shown and never read as Markdown,
// HTML or Mermaid. What does not fit into the limit is left out by whole blocks,
// and named at the end.
func Markdown(w io.Writer, r phase.Report, cfg MarkdownConfig) error {
	if cfg.Limit <= 0 {
		cfg.Limit = defaultLimit
	}
	room := max(cfg.Limit, leastLimit) - noteRoom
	m := matrixOf(r)
	blocks := []block{{text: fmt.Sprintf("# %s %s", verdictMark(r), verdict(r))}}
	blocks = append(blocks, phaseTable(r)...)
	blocks = append(blocks, matrixTable(m)...)
	for _, p := range r.Phases {
		blocks = append(blocks, troubles(p)...)
	}
	blocks = append(blocks, provenEdges(m)...)
	blocks = append(blocks, metadataTable(r)...)

	var b strings.Builder
	section, left, kinds := "", map[string]int{}, []string{}
	for _, next := range blocks {
		piece := next.text + "\n\n"
		if next.section != section {
			piece = "## " + next.section + "\n\n" + piece
		}
		if b.Len()+len(piece) > room {
			if left[next.kind]++; left[next.kind] == 1 {
				kinds = append(kinds, next.kind)
			}
			continue
		}
		section = next.section
		b.WriteString(piece)
	}
	document := strings.TrimSuffix(b.String(), "\n")
	if len(kinds) > 0 {
		for i, k := range kinds {
			kinds[i] = fmt.Sprintf("%d × %s", left[k], k)
		}
		document += fmt.Sprintf("\n**Left out, to keep below %d bytes:** %s.\n", max(cfg.Limit, leastLimit), strings.Join(kinds, ", "))
	}
	if _, err := io.WriteString(w, document); err != nil {
		return fmt.Errorf("report: write the Markdown report: %w", err)
	}
	return nil
}

func verdictMark(r phase.Report) string {
	if r.OK() {
		return Mark(phase.Passed)
	}
	return Mark(phase.Failed)
}

func phaseTable(r phase.Report) []block {
	if len(r.Phases) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("| | Phase | Status | Time | Apply | Checks passed |\n|---|---|---|---:|---:|---:|")
	for _, p := range r.Phases {
		took, apply := times(p)
		fmt.Fprintf(&b, "\n| %s | %s | %s | %s | %s | %d of %d |", Mark(p.Status), code(p.Name, longestName), Word(p.Status), took, apply, passed(p), len(p.Checks))
	}
	return []block{{"Phases", "the table of phases", b.String()}}
}

func matrixTable(m matrix) []block {
	if len(m.sources) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("✓ as wanted, ✗ not so, ? could not tell, - not run; 🔒 both ends are to be authenticated first.\n\n| From → to |")
	for _, t := range m.targets {
		fmt.Fprintf(&b, " %s %s |", code(t.name, longestName), code(t.port, longestName))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(m.targets)))
	for i, source := range m.sources {
		fmt.Fprintf(&b, "\n| **%s** |", code(source, longestName))
		for _, cells := range m.cells[i] {
			var said []string
			for _, c := range cells {
				s := outcomeMark(c.CheckResult) + " " + c.got()
				if c.got() != c.wanted() {
					s = fmt.Sprintf("**%s want %s, %s**", outcomeMark(c.CheckResult), c.wanted(), c.got())
				}
				if c.Edge.Authenticated {
					s += " 🔒"
				}
				said = append(said, s)
			}
			fmt.Fprintf(&b, " %s |", strings.Join(said, "<br>"))
		}
	}
	return []block{{"Who may talk to whom", "the matrix of edges", b.String()}}
}

// troubles are all that did not pass in a phase.
func troubles(p phase.Result) []block {
	const section, kind = "What did not pass", "what did not pass"
	var all []block
	if p.Err != nil {
		all = append(all, block{section, kind, fmt.Sprintf("### %s %s: %s\n\n- **Error:** %s", Mark(p.Status), code(p.Name, longestName), Word(p.Status), code(p.Err.Error(), longestText))})
	}
	for _, c := range p.Checks {
		// A check that was not asked has nothing to tell beyond its phase's error.
		if c.Status == phase.Passed || notRun(c) && p.Err != nil {
			continue
		}
		var b strings.Builder
		fmt.Fprintf(&b, "### %s %s, %s: %s\n", Mark(c.Status), code(p.Name, longestName), code(c.Name, longestName), outcome(c))
		for _, l := range told(c) {
			fmt.Fprintf(&b, "\n- **%s:** %s", strings.ToUpper(l[0][:1])+l[0][1:], code(l[1], longestText))
		}
		for i, d := range c.Evidence.Details {
			if i == 0 {
				b.WriteString("\n- **Details:**")
			}
			if i == mostDetails {
				fmt.Fprintf(&b, "\n  - and %d more", len(c.Evidence.Details)-i)
				break
			}
			fmt.Fprintf(&b, "\n  - %s", code(d, longestText))
		}
		all = append(all, block{section, kind, strings.TrimSuffix(b.String(), "\n")})
	}
	return all
}

func provenEdges(m matrix) []block {
	const section = "Proven edges"
	var drawing, words strings.Builder
	drawing.WriteString("```mermaid\nflowchart LR")
	id, edges := map[string]string{}, 0
	node := func(name string) string {
		if _, known := id[name]; !known {
			id[name] = fmt.Sprintf("n%d", len(id))
			fmt.Fprintf(&drawing, "\n  %s[\"%s\"]", id[name], mermaid(name))
		}
		return id[name]
	}
	for _, c := range m.all() {
		if !c.proven() {
			continue
		}
		edges++
		from, to, arrow, proof := node(c.Edge.From), node(c.Edge.To), "-->", ""
		if c.Edge.Authenticated {
			arrow, proof = "==>", ", authenticated"
		}
		fmt.Fprintf(&drawing, "\n  %s %s|\"%s%s\"| %s", from, arrow, mermaid(c.Edge.Port), proof, to)
		fmt.Fprintf(&words, "\n- %s → %s on port %s%s", code(c.Edge.From, longestName), code(c.Edge.To, longestName), code(c.Edge.Port, longestName), proof)
	}
	if edges == 0 {
		return nil
	}
	drawing.WriteString("\n```")
	all := []block{{section, "the list of proven edges", strings.TrimPrefix(words.String(), "\n")}}
	if edges <= mermaidEdges && drawing.Len() <= mermaidText {
		all = slices.Insert(all, 0, block{section, "the drawing of proven edges", drawing.String()})
	}
	return all
}

func metadataTable(r phase.Report) []block {
	if len(r.Metadata) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("<details>\n<summary>Versions, digests and other metadata</summary>\n\n| Name | Value |\n|---|---|")
	for _, k := range slices.Sorted(maps.Keys(r.Metadata)) {
		fmt.Fprintf(&b, "\n| %s | %s |", code(k, longestName), code(r.Metadata[k], longestText))
	}
	b.WriteString("\n\n</details>")
	return []block{{"Metadata", "the table of metadata", b.String()}}
}

// code is s, at most so many runes of it, as inline code that holds in every place, also in
// a table. It is made of HTML, for no code span can hold each mix of backticks, pipes and
// backslashes. Character references never have a meaning in Markdown. Addresses do, and
// become links, unless they are broken up.
func code(s string, longest int) string {
	var b strings.Builder
	for _, r := range cut(Printable(s), longest) {
		if r < unicode.MaxASCII && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(" -.,:/=()", r) {
			fmt.Fprintf(&b, "&#%d;", r)
			continue
		}
		b.WriteRune(r)
	}
	return "<code>" + strings.NewReplacer("://", "&#58;//", "www.", "www&#46;").Replace(b.String()) + "</code>"
}

// mermaid is s, on one line, as what may stand in a quoted label. Mermaid writes a
// character reference with # in the place of &#.
func mermaid(s string) string {
	var b strings.Builder
	for _, r := range cut(Printable(s), longestName) {
		if r < unicode.MaxASCII && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(" -_./", r) {
			fmt.Fprintf(&b, "#%d;", r)
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
)

// HTML writes the report as one page that stands alone: it has no scripts, loads nothing, and
// its Content-Security-Policy forbids both. It shows the verdict, when which phase ran, the matrix
// of edges and a drawing of them, each phase and check with its evidence (what did not
// pass first, and open), and the metadata. Times are in UTC.
func HTML(w io.Writer, r phase.Report) error {
	t, err := template.New("page.html").Funcs(template.FuncMap{
		"printable": Printable, "short": short, "word": Word, "mark": Mark, "text": text, "utc": utc,
		"outcome": outcome, "outcomeMark": outcomeMark, "told": told, "label": label,
	}).Parse(pageHTML)
	var b bytes.Buffer
	if err == nil {
		err = t.Execute(&b, pageOf(r))
	}
	if err == nil {
		_, err = w.Write(b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("report: write the HTML report: %w", err)
	}
	return nil
}

// page is what page.html shows.
type page struct {
	phase.Report
	Policy           string // the Content-Security-Policy
	Style            template.CSS
	Verdict, Because string // "NOT PROVEN", and why
	Counts           []count
	Trouble          []link // to what did not pass
	Timeline         timeline
	Grid             grid
	Graph            graph
	Phases           []phaseView // what did not pass first
	Keys             []string    // of the metadata
}

type count struct {
	Class, Name string
	Number, Of  int
}

type link struct{ ID, Class, Mark, Phase, Check, Outcome string }

type phaseView struct {
	ID string
	phase.Result
	Passed int
	Checks []checkView // in the order of phases
}

type checkView struct {
	ID    string
	Class string
	Open  bool
	phase.CheckResult
}

// grid is a matrix with the headers of its columns by target.
type grid struct {
	Targets []gridTarget
	Rows    []gridRow
}

type gridTarget struct {
	Name  string
	Ports []string
}

type gridRow struct {
	Source string
	Cells  [][]gridCell
}

type gridCell struct {
	ID, Class, Mark, Want, Got string
	AsWanted, Authenticated    bool
	Label                      string // all of it in words
}

func phaseID(phase int) string        { return fmt.Sprintf("phase-%d", phase+1) }
func checkID(phase, check int) string { return fmt.Sprintf("check-%d-%d", phase+1, check+1) }

func pageOf(r phase.Report) page {
	m := matrixOf(r)
	// The style is the only thing that the policy lets in, by its hash.
	hash := sha256.Sum256([]byte(pageCSS))
	p := page{
		Report: r,
		Policy: fmt.Sprintf("default-src 'none'; style-src 'sha256-%s'; base-uri 'none'; form-action 'none'", base64.StdEncoding.EncodeToString(hash[:])),
		Style:  template.CSS(pageCSS), //nolint:gosec // a file of this package
		Counts: counts(r, m), Timeline: timelineOf(r), Grid: gridOf(m), Graph: graphOf(m),
		Keys: slices.Sorted(maps.Keys(r.Metadata)),
	}
	p.Verdict, p.Because, _ = strings.Cut(verdict(r), ": ")
	for i, res := range r.Phases {
		v := phaseView{ID: phaseID(i), Result: res, Passed: passed(res)}
		for j, c := range res.Checks {
			cv := checkView{ID: checkID(i, j), Class: checkClass(c), CheckResult: c}
			cv.Open = c.Status != phase.Passed && !notRun(c)
			v.Checks = append(v.Checks, cv)
		}
		slices.SortStableFunc(v.Checks, func(a, b checkView) int { return cmp.Compare(urgency(a.Class), urgency(b.Class)) })
		p.Phases = append(p.Phases, v)
	}
	slices.SortStableFunc(p.Phases, func(a, b phaseView) int {
		return cmp.Compare(urgency(a.Status.String()), urgency(b.Status.String()))
	})
	for _, v := range p.Phases {
		if v.Err != nil {
			p.Trouble = append(p.Trouble, link{ID: v.ID, Class: v.Status.String(), Mark: Mark(v.Status), Phase: v.Name, Outcome: Word(v.Status)})
		}
		for _, c := range v.Checks {
			if c.Open {
				p.Trouble = append(p.Trouble, link{c.ID, c.Class, outcomeMark(c.CheckResult), v.Name, c.Name, outcome(c.CheckResult)})
			}
		}
	}
	return p
}

// checkClass is a status as the style knows it, with a check that was not run like a
// phase that was skipped.
func checkClass(c phase.CheckResult) string {
	if notRun(c) {
		return phase.Skipped.String()
	}
	return c.Status.String()
}

// urgency is the place of a status among others: what a reader must see comes first.
func urgency(class string) int {
	return slices.Index([]string{"failed", "unknown", "cancelled", "skipped", "passed"}, class)
}

// counts are what the head of the page shows; of what did not happen, only what is there.
func counts(r phase.Report, m matrix) []count {
	phases := count{Class: "passed", Name: "phases passed", Of: len(r.Phases)}
	right, failed := count{Class: "passed", Name: "checks passed"}, count{Class: "failed", Name: "checks failed"}
	unknown, skipped := count{Class: "unknown", Name: "could not tell"}, count{Class: "skipped", Name: "not run"}
	for _, p := range r.Phases {
		if p.Status == phase.Passed {
			phases.Number++
		}
		for _, c := range p.Checks {
			right.Of++
			switch {
			case c.Status == phase.Passed:
				right.Number++
			case c.Status == phase.Failed:
				failed.Number++
			case notRun(c):
				skipped.Number++
			default:
				unknown.Number++
			}
		}
	}
	all := []count{phases, right}
	for _, c := range []count{failed, unknown, skipped} {
		if c.Number > 0 {
			all = append(all, c)
		}
	}
	allowed, denied := count{Class: "passed", Name: "edges proven allowed"}, count{Class: "passed", Name: "edges proven denied"}
	for _, c := range m.all() {
		kind := &denied
		if c.Edge.Allowed {
			kind = &allowed
		}
		kind.Of++
		if c.Status == phase.Passed {
			kind.Number++
		}
	}
	for _, c := range []count{allowed, denied} {
		if c.Of > 0 {
			all = append(all, c)
		}
	}
	for i, c := range all {
		if c.Class == "passed" && (c.Number == 0 || c.Number < c.Of) {
			all[i].Class = "skipped" // no green for less than all: the other counts tell why
		}
	}
	return all
}

func gridOf(m matrix) grid {
	var g grid
	for i, t := range m.targets {
		if i == 0 || m.targets[i-1].name != t.name {
			g.Targets = append(g.Targets, gridTarget{Name: t.name})
		}
		last := &g.Targets[len(g.Targets)-1]
		last.Ports = append(last.Ports, t.port)
	}
	for i, s := range m.sources {
		row := gridRow{Source: s}
		for _, cells := range m.cells[i] {
			var all []gridCell
			for _, c := range cells {
				all = append(all, gridCell{
					ID: checkID(c.phase, c.check), Class: checkClass(c.CheckResult) + " " + c.wanted(), Mark: outcomeMark(c.CheckResult),
					Want: c.wanted(), Got: c.got(), AsWanted: c.got() == c.wanted(), Authenticated: c.Edge.Authenticated, Label: c.words(),
				})
			}
			row.Cells = append(row.Cells, all)
		}
		g.Rows = append(g.Rows, row)
	}
	return g
}

// words are all of a cell, for those who do not see where it stands.
func (c cell) words() string {
	became := c.wanted()
	if c.Edge.Authenticated {
		became += " after authentication"
	}
	if c.Status == phase.Passed {
		became += ", as wanted"
	} else {
		became = fmt.Sprintf("want %s, %s", became, c.got())
	}
	return Printable(fmt.Sprintf("%s to %s on port %s: %s", c.Edge.From, c.Edge.To, c.Edge.Port, became))
}

// Words and the others are for page.html.
func (e graphEdge) Words() string { return e.Cell.words() }
func (e graphEdge) ID() string    { return checkID(e.Cell.phase, e.Cell.check) }
func (e graphEdge) Locked() bool  { return e.Cell.Edge.Authenticated }

// label is a name cut to what fits into a card of the drawing.
func label(s string) string { return cut(Printable(s), 17) }

func utc(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

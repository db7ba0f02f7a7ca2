package report

import (
	"cmp"
	"slices"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// matrix is the checks of a report that are about an edge, as a grid.
type matrix struct {
	sources []string   // its rows
	targets []target   // its columns; those of one name stand side by side
	cells   [][][]cell // by source and target: no cell where nothing was tried, two where it was twice
}

type target struct{ name, port string }

// cell is a check, and where it stands in the report.
type cell struct {
	phase, check int
	phase.CheckResult
}

// matrixOf has no rows for a report without edges. Names are in the order in which they
// appear as a source, then as a target; ports in that in which they appear.
func matrixOf(r phase.Report) matrix {
	var m matrix
	var all []cell
	for i, p := range r.Phases {
		for j, c := range p.Checks {
			if c.Edge == nil {
				continue
			}
			all = append(all, cell{i, j, c})
			if !slices.Contains(m.sources, c.Edge.From) {
				m.sources = append(m.sources, c.Edge.From)
			}
		}
	}
	names := slices.Clone(m.sources)
	for _, c := range all {
		if !slices.Contains(names, c.Edge.To) {
			names = append(names, c.Edge.To)
		}
		if t := (target{c.Edge.To, c.Edge.Port}); !slices.Contains(m.targets, t) {
			m.targets = append(m.targets, t)
		}
	}
	slices.SortStableFunc(m.targets, func(a, b target) int {
		return cmp.Compare(slices.Index(names, a.name), slices.Index(names, b.name))
	})
	m.cells = make([][][]cell, len(m.sources))
	for i := range m.cells {
		m.cells[i] = make([][]cell, len(m.targets))
	}
	for _, c := range all {
		row, column := slices.Index(m.sources, c.Edge.From), slices.Index(m.targets, target{c.Edge.To, c.Edge.Port})
		m.cells[row][column] = append(m.cells[row][column], c)
	}
	return m
}

// all are the cells, row by row.
func (m matrix) all() []cell { return slices.Concat(slices.Concat(m.cells...)...) }

// wanted is what is to become of an attempt to connect.
func (c cell) wanted() string {
	if c.Edge.Allowed {
		return "allowed"
	}
	return "denied"
}

// got is what became of it. An edge that is to be allowed and was not is not called
// denied: that would need evidence of its own.
func (c cell) got() string {
	switch {
	case c.Status == phase.Passed:
		return c.wanted()
	case c.Status != phase.Failed:
		return outcome(c.CheckResult)
	case !c.Edge.Allowed:
		return "got through"
	case c.Edge.Authenticated:
		return "did not get through authenticated"
	}
	return "did not get through"
}

// proven says that the cell is an allowed edge which was shown to be one.
func (c cell) proven() bool { return c.Edge.Allowed && c.Status == phase.Passed }

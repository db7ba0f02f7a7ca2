package report

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func TestMatrix(t *testing.T) {
	if m := matrixOf(phase.Report{Phases: proven().Phases}); len(m.sources) != 0 || len(m.all()) != 0 {
		t.Errorf("a report without edges has the matrix %+v", m)
	}
	edge := func(from, to, port string) phase.CheckResult {
		return phase.CheckResult{Edge: &phase.Edge{From: from, To: to, Port: port}, Status: phase.Passed}
	}
	m := matrixOf(phase.Report{Phases: []phase.Result{
		{Checks: []phase.CheckResult{{Name: "no edge"}, edge("a", "c", "1"), edge("a", "b", "1"), edge("b", "a", "53/UDP"), edge("b", "c", "2")}},
		{Checks: []phase.CheckResult{edge("a", "c", "1"), edge("b", "b", "1")}},
	}})
	if d := cmp.Diff([]string{"a", "b"}, m.sources); d != "" {
		t.Error(d)
	}
	var columns []string
	for _, t := range m.targets {
		columns = append(columns, t.name+":"+t.port)
	}
	// Sources first, in their order; ports of one target side by side.
	if d := cmp.Diff([]string{"a:53/UDP", "b:1", "c:1", "c:2"}, columns); d != "" {
		t.Error(d)
	}
	var counts [][]int
	for _, row := range m.cells {
		var n []int
		for _, c := range row {
			n = append(n, len(c))
		}
		counts = append(counts, n)
	}
	if d := cmp.Diff([][]int{{0, 1, 2, 0}, {1, 1, 0, 1}}, counts); d != "" {
		t.Error(d)
	}
	if c := m.cells[0][2]; c[0].phase != 0 || c[0].check != 1 || c[1].phase != 1 || c[1].check != 0 {
		t.Errorf("the cell a → c:1 leads to %+v", c)
	}
}

func TestCellWords(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct {
		edge      phase.Edge
		status    phase.Status
		started   time.Time
		want, got string
		proven    bool
	}{
		{phase.Edge{Allowed: true}, phase.Passed, now, "allowed", "allowed", true},
		{phase.Edge{}, phase.Passed, now, "denied", "denied", false},
		{phase.Edge{}, phase.Failed, now, "denied", "got through", false},
		// Not "denied", which nothing showed.
		{phase.Edge{Allowed: true}, phase.Failed, now, "allowed", "did not get through", false},
		{phase.Edge{Allowed: true, Authenticated: true}, phase.Failed, now, "allowed", "did not get through authenticated", false},
		{phase.Edge{Allowed: true}, phase.Unknown, now, "allowed", "could not tell", false},
		{phase.Edge{}, phase.Unknown, time.Time{}, "denied", "not run", false},
	} {
		c := cell{CheckResult: phase.CheckResult{Edge: &tt.edge, Status: tt.status, Started: tt.started}}
		if c.wanted() != tt.want || c.got() != tt.got || c.proven() != tt.proven {
			t.Errorf("%+v %s: want %q, got %q, proven %t", tt.edge, tt.status, c.wanted(), c.got(), c.proven())
		}
	}
}

func TestTold(t *testing.T) {
	c := phase.CheckResult{Hint: "turn the key", Status: phase.Failed, Err: phase.Want("shut", "open"),
		Evidence: phase.Evidence{Want: "shut", Got: "open", Source: "\n"}}
	want := [][2]string{{"expected", "shut"}, {"seen", "open"}, {"how to fix", "turn the key"}}
	if d := cmp.Diff(want, told(c)); d != "" {
		t.Error(d)
	}
	c.Status, c.Err = phase.Unknown, errors.New("no\nkey")
	want = [][2]string{{"expected", "shut"}, {"seen", "open"}, {"error", "no key"}, {"how to fix", "turn the key"}}
	if d := cmp.Diff(want, told(c)); d != "" {
		t.Error(d)
	}
	c.Status, c.Err = phase.Passed, nil
	if d := cmp.Diff(want[:2], told(c)); d != "" {
		t.Error(d)
	}
}

package phase

import (
	"context"
	"slices"
	"strings"
	"testing"
)

func passing(name string) Check {
	return Check{Name: name, Run: func(context.Context) (Evidence, error) { return Evidence{}, nil }}
}

func named(name string, needs ...*Phase) *Phase {
	return &Phase{Name: name, Needs: needs, Checks: []Check{passing("c")}}
}

func names(phases []*Phase) []string {
	var all []string
	for _, p := range phases {
		all = append(all, p.Name)
	}
	return all
}

func TestPlanOrder(t *testing.T) {
	a := named("a")
	b, c := named("b", a), named("c", a)
	d := named("d", b, c)
	e := named("e")
	for _, tt := range []struct {
		what  string
		given []*Phase
		only  []string
		want  []string
	}{
		{"needs first, whatever the order given", []*Phase{d, c, b, a}, nil, []string{"a", "b", "c", "d"}},
		{"otherwise the order given", []*Phase{e, a, c, b, d}, nil, []string{"e", "a", "c", "b", "d"}},
		{"needs that were not given", []*Phase{d}, nil, []string{"a", "b", "c", "d"}},
		{"the same phase given twice counts once", []*Phase{a, b, a}, nil, []string{"a", "b"}},
		{"only one and its needs", []*Phase{a, b, c, d, e}, []string{"c"}, []string{"a", "c"}},
		{"only two, in the order of the graph", []*Phase{a, b, c, d, e}, []string{"e", "b"}, []string{"a", "b", "e"}},
		{"only transitive needs", []*Phase{e, a, b, c, d}, []string{"d"}, []string{"a", "b", "c", "d"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			order, err := plan(tt.given, tt.only)
			if err != nil {
				t.Fatal(err)
			}
			if got := names(order); !slices.Equal(got, tt.want) {
				t.Errorf("order %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPlanRefuses(t *testing.T) {
	self := named("self")
	self.Needs = []*Phase{self}
	x, y, z := named("x"), named("y"), named("z")
	x.Needs, y.Needs, z.Needs = []*Phase{y}, []*Phase{z}, []*Phase{x}
	tail := named("tail", x)
	a := named("a")
	for _, tt := range []struct {
		what  string
		given []*Phase
		only  []string
		want  []string // all of it is in the error
	}{
		{"nothing", nil, nil, []string{"no phase to run"}},
		{"a nil phase", []*Phase{a, nil}, nil, []string{"phase 2 of 2 is nil"}},
		{"a nil need", []*Phase{named("n", a, nil)}, nil, []string{`need 2 of phase "n" is nil`}},
		{"itself", []*Phase{self}, nil, []string{`cycle: "self" needs "self"`}},
		{"a cycle of three, less what leads to it", []*Phase{tail}, nil, []string{`cycle: "x" needs "y" needs "z" needs "x"`}},
		{"two of a name", []*Phase{a, named("a")}, nil, []string{`two phases are named "a"`}},
		{"no name", []*Phase{named(" ")}, nil, []string{"has no name"}},
		{"no check", []*Phase{{Name: "bare"}}, nil, []string{`"bare" has no check`}},
		{"a check with nothing to run", []*Phase{{Name: "p", Checks: []Check{{Name: "idle"}}}}, nil, []string{`"idle" of phase "p" has nothing to run`}},
		{"a check of no name", []*Phase{{Name: "p", Checks: []Check{passing("")}}}, nil, []string{`check 1 of phase "p" has no name`}},
		{"two checks of a name", []*Phase{{Name: "p", Checks: []Check{passing("c"), passing("c")}}}, nil, []string{`two checks of phase "p" are named "c"`}},
		{"a negative timeout", []*Phase{{Name: "p", Timeout: -1, Checks: []Check{passing("c")}}}, nil, []string{"negative timeout"}},
		{"several at once", []*Phase{{Name: "bare"}, {Name: "p", Checks: []Check{{Name: "idle"}}}}, nil, []string{`"bare" has no check`, `"idle"`}},
		{"an unknown name, and says which there are", []*Phase{a, named("b")}, []string{"a", "c"}, []string{`["c"]`, "a, b"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			ran := false
			for _, p := range tt.given {
				if p != nil {
					p.Apply = func(context.Context) error { ran = true; return nil }
				}
			}
			report, err := RunWith(t.Context(), tt.given, Options{Only: tt.only}, func(Event) { ran = true })
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if ran || len(report.Phases) != 0 || report.OK() || report.Ended.IsZero() {
				t.Errorf("something ran (%t) or the report is wrong: %+v", ran, report)
			}
		})
	}
}

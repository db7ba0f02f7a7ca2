package report

import (
	"fmt"
	"image"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// wellDrawn: cards lie apart and on the drawing, no arrow passes over a card, and each
// ends at its port.
func wellDrawn(t testing.TB, g graph) {
	t.Helper()
	drawing := image.Rect(0, 0, g.Width, g.Height)
	card := func(n graphNode) image.Rectangle { return image.Rect(n.X, n.Y, n.X+n.W, n.Y+n.H) }
	cards := map[string]graphNode{}
	for i, n := range g.Nodes {
		cards[n.Name] = n
		if !card(n).In(drawing) {
			t.Errorf("%s at %v is not on the drawing %v", n.Name, card(n), drawing)
		}
		for _, other := range g.Nodes[:i] {
			if card(n).Inset(-8).Overlaps(card(other)) {
				t.Errorf("%s at %v and %s at %v are too near", n.Name, card(n), other.Name, card(other))
			}
		}
		below := n.Y + titleRoom - 8
		for _, p := range n.Ports {
			if p.Y < below || p.Y > n.Y+n.H-6 {
				t.Errorf("port %s of %s is at %d, in a card from %d to %d", p.Name, n.Name, p.Y, n.Y, n.Y+n.H)
			}
			below = p.Y + 14 // one line of text
		}
	}
	locks := map[image.Point]string{}
	for _, e := range g.Edges {
		from, to := cards[e.Cell.Edge.From], cards[e.Cell.Edge.To]
		for _, p := range trail(t, e.Path) {
			if !p.In(drawing) {
				t.Errorf("%s leaves the drawing at %v", e.Words(), p)
			}
			for _, n := range g.Nodes {
				if p.In(card(n).Inset(1)) && n.Name != from.Name && n.Name != to.Name {
					t.Errorf("%s passes over %s at %v", e.Words(), n.Name, p)
					break
				}
			}
		}
		var x, y int
		if _, err := fmt.Sscanf(e.Head, "M%d %d", &x, &y); err != nil {
			t.Fatal(err)
		}
		if x != to.X && x != to.X+to.W {
			t.Errorf("%s ends at %d, beside the card %v", e.Words(), x, card(to))
		}
		atPort := false
		for _, p := range to.Ports {
			atPort = atPort || p.Name == e.Cell.Edge.Port && p.Y == y
		}
		if !atPort {
			t.Errorf("%s does not end at its port", e.Words())
		}
		lock := image.Pt(e.LockX, e.LockY)
		for other, words := range locks {
			if d := lock.Sub(other); e.Locked() && d.X*d.X+d.Y*d.Y < 16*16 {
				t.Errorf("the locks of %s and %s overlap", words, e.Words())
			}
		}
		if e.Locked() {
			locks[lock] = e.Words()
		}
	}
}

// trail are points along a path of M, C and H.
func trail(t testing.TB, path string) []image.Point {
	t.Helper()
	var points []image.Point
	var at image.Point
	for _, step := range strings.FieldsFunc(strings.NewReplacer(" C", ";C", " H", ";H").Replace(path), func(r rune) bool { return r == ';' }) {
		var a, b, c image.Point
		if _, err := fmt.Sscanf(step, "M%d %d", &at.X, &at.Y); err == nil {
			continue
		}
		if _, err := fmt.Sscanf(step, "H%d", &c.X); err == nil {
			a, b, c.Y = at, image.Pt(c.X, at.Y), at.Y
		} else if _, err := fmt.Sscanf(step, "C%d %d %d %d %d %d", &a.X, &a.Y, &b.X, &b.Y, &c.X, &c.Y); err != nil {
			t.Fatalf("step %q of path %q: %v", step, path, err)
		}
		const parts = 40
		for i := range parts + 1 {
			s := float64(i) / parts
			bezier := func(p, a, b, c int) int {
				return int((1-s)*(1-s)*(1-s)*float64(p) + 3*(1-s)*(1-s)*s*float64(a) + 3*(1-s)*s*s*float64(b) + s*s*s*float64(c))
			}
			points = append(points, image.Pt(bezier(at.X, a.X, b.X, c.X), bezier(at.Y, a.Y, b.Y, c.Y)))
		}
		at = c
	}
	return points
}

func TestGraph(t *testing.T) {
	for name, r := range reports() {
		g := graphOf(matrixOf(r))
		if m := matrixOf(r); (len(m.sources) == 0) != (len(g.Nodes) == 0) {
			t.Errorf("%s: %d nodes for %d sources", name, len(g.Nodes), len(m.sources))
		}
		wellDrawn(t, g)
	}
	g := graphOf(matrixOf(fleet()))
	if len(g.Nodes) != 12 || len(g.Edges) != 18 {
		t.Errorf("%d nodes, %d edges", len(g.Nodes), len(g.Edges))
	}
	classes := map[string]int{}
	for _, e := range g.Edges {
		classes[e.Class]++
	}
	if d := cmp.Diff(map[string]int{"passed": 15, "failed": 1, "failed through": 1, "unknown": 1}, classes); d != "" {
		t.Error(d)
	}
	x := map[string]int{}
	for _, n := range g.Nodes {
		x[n.Name] = n.X
	}
	for _, order := range [][2]string{{"gateway", "shop"}, {"shop", "cart"}, {"cart", "vault"}, {"vault", "postgres"}} {
		if x[order[0]] >= x[order[1]] {
			t.Errorf("%s is not to the left of %s", order[0], order[1])
		}
	}
}

// TestGraphShapes: circles, loops, many ports, all to all.
func TestGraphShapes(t *testing.T) {
	for what, edges := range map[string]string{
		"one":            "a b 1",
		"there and back": "a b 1, b a 1",
		"to itself":      "a a 1, a b 1, a a 2",
		"a circle":       "a b 1, b c 1, c d 1, d a 1",
		"a short cut":    "a b 1, b c 1, c d 1, a d 1, a d 2, a c 1",
		"many ports":     "a b 1, a b 2, a b 3, a b 4, a b 5, c b 3, c d 1",
		"all to all":     "a b 1, a c 1, a d 1, b a 1, b c 1, b d 1, c a 1, c b 1, c d 1, d a 1, d b 1, d c 1",
		"two islands":    "a b 1, c d 1, d e 1",
	} {
		t.Run(what, func(t *testing.T) {
			var p phase.Result
			for e := range strings.SplitSeq(edges, ", ") {
				f := strings.Fields(e)
				p.Checks = append(p.Checks, phase.CheckResult{Status: phase.Passed, Edge: &phase.Edge{From: f[0], To: f[1], Port: f[2], Allowed: true, Authenticated: true}})
			}
			g := graphOf(matrixOf(phase.Report{Phases: []phase.Result{p}}))
			if len(g.Edges) != len(p.Checks) {
				t.Errorf("%d arrows for %d edges", len(g.Edges), len(p.Checks))
			}
			wellDrawn(t, g)
		})
	}
}

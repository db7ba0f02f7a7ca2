package report

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// graph is a drawing of the edges of a matrix: workloads as cards, in columns so that
// arrows lead to the right as far as they can. An arrow ends at the port in its card, so that no
// label has to find a place among the arrows, and none overlap.
type graph struct {
	Width, Height int
	Nodes         []graphNode
	Edges         []graphEdge
}

type graphNode struct {
	Name       string
	X, Y, W, H int
	Alone      bool // nothing leads to it or away
	Ports      []graphPort
}

type graphPort struct {
	Name    string
	Y, Text int // its middle; where its name is written, from the top of the card
}

type graphEdge struct {
	Cell         cell
	Class        string // "passed"; "failed", with "through" where it should not have been let; "unknown"
	Path, Head   string // the line and the tip of the arrow, as SVG
	LockX, LockY int    // where it says that it is authenticated
}

const (
	nodeWidth  = 164
	titleRoom  = 30
	portRoom   = 20
	slotRoom   = 18 // between arrows that leave a card
	columnGap  = 84 // between columns of cards
	nodeGap    = 26 // between cards
	bendRoom   = 12 // for an arrow that passes through a column
	graphEdgeX = 24 // around all
	graphEdgeY = 12
)

// station is what takes room in a column: a card, or an arrow on its way to a later column.
type station struct {
	column        int
	height        float64
	y             float64 // its middle
	before, after []*station
}

// arrow is an edge with its way from column to column.
type arrow struct {
	graphEdge
	from, to int // nodes
	port     int // of the node to
	back     bool
	way      []*station // from the left to the right
}

// graphOf draws what was proven to be allowed, what should be and could not be told, and all
// that failed. What was proven to be denied is no arrow. It gives the same drawing
// for the same matrix.
func graphOf(m matrix) graph {
	nodes, arrows := edgesOf(m)
	if len(nodes) == 0 {
		return graph{}
	}
	column := columnsOf(len(nodes), arrows)
	columns, cards := stations(nodes, arrows, column)
	arrange(columns)
	return draw(nodes, arrows, columns, cards)
}

// edgesOf are the nodes in the order of the matrix, with the ports that arrows lead to, and
// the arrows between them.
func edgesOf(m matrix) ([]graphNode, []*arrow) {
	var nodes []graphNode
	index := map[string]int{}
	names := slices.Clone(m.sources)
	for _, t := range m.targets {
		names = append(names, t.name)
	}
	for _, name := range names {
		if _, known := index[name]; !known {
			index[name] = len(nodes)
			nodes = append(nodes, graphNode{Name: name, Alone: true})
		}
	}
	var arrows []*arrow
	for _, c := range m.all() {
		class := "passed"
		switch {
		case c.Status == phase.Failed && c.Edge.Allowed:
			class = "failed"
		case c.Status == phase.Failed:
			class = "failed through"
		case !c.Edge.Allowed:
			continue
		case c.Status != phase.Passed:
			class = "unknown"
		}
		a := &arrow{graphEdge: graphEdge{Cell: c, Class: class}, from: index[c.Edge.From], to: index[c.Edge.To]}
		ports := &nodes[a.to].Ports
		if a.port = slices.IndexFunc(*ports, func(p graphPort) bool { return p.Name == c.Edge.Port }); a.port < 0 {
			a.port = len(*ports)
			*ports = append(*ports, graphPort{Name: c.Edge.Port})
		}
		nodes[a.from].Alone, nodes[a.to].Alone = false, false
		arrows = append(arrows, a)
	}
	return nodes, arrows
}

// columnsOf puts every node to the right of all that have arrows to it, and marks the
// arrows that would close a circle: they lead back.
func columnsOf(nodes int, arrows []*arrow) []int {
	const fresh, open, done = 0, 1, 2
	state := make([]int, nodes)
	var visit func(int)
	visit = func(n int) {
		state[n] = open
		for _, a := range arrows {
			if a.from != n || a.to == n {
				continue
			}
			switch state[a.to] {
			case open:
				a.back = true
			case fresh:
				visit(a.to)
			}
		}
		state[n] = done
	}
	for n := range nodes {
		if state[n] == fresh {
			visit(n)
		}
	}
	column := make([]int, nodes)
	for range nodes { // the longest way has fewer steps than there are nodes
		for _, a := range arrows {
			if left, right := a.ends(); left != right {
				column[right] = max(column[right], column[left]+1)
			}
		}
	}
	return column
}

// ends are the nodes at the left and at the right end.
func (a *arrow) ends() (left, right int) {
	if a.back {
		return a.to, a.from
	}
	return a.from, a.to
}

// stations fills the columns with cards and with the arrows that pass through.
func stations(nodes []graphNode, arrows []*arrow, column []int) (columns [][]*station, cards []*station) {
	columns = make([][]*station, slices.Max(column)+1)
	leave := make([]int, len(nodes))
	for _, a := range arrows {
		leave[a.from]++
	}
	put := func(s *station) *station {
		columns[s.column] = append(columns[s.column], s)
		return s
	}
	for i := range nodes {
		nodes[i].W, nodes[i].H = nodeWidth, max(titleRoom+portRoom*len(nodes[i].Ports), slotRoom*(leave[i]+1))
		cards = append(cards, put(&station{column: column[i], height: float64(nodes[i].H)}))
	}
	for _, a := range arrows {
		left, right := a.ends()
		if left == right {
			continue
		}
		a.way = []*station{cards[left]}
		for c := column[left] + 1; c < column[right]; c++ {
			a.way = append(a.way, put(&station{column: c, height: bendRoom}))
		}
		a.way = append(a.way, cards[right])
		for i := range a.way[1:] {
			a.way[i].after = append(a.way[i].after, a.way[i+1])
			a.way[i+1].before = append(a.way[i+1].before, a.way[i])
		}
	}
	return columns, cards
}

// arrange gives each station its place in its column: in the order of its neighbours, so
// that few arrows cross, and then as near to their height as there is room.
func arrange(columns [][]*station) {
	rank := map[*station]float64{}
	for _, c := range columns {
		for i, s := range c {
			rank[s] = float64(i)
		}
	}
	sweep(columns, func(c []*station, near func(*station) []*station) {
		want := map[*station]float64{}
		for _, s := range c {
			want[s] = mean(near(s), func(n *station) float64 { return rank[n] }, rank[s])
		}
		slices.SortStableFunc(c, func(a, b *station) int { return cmp.Compare(want[a], want[b]) })
		for i, s := range c {
			rank[s] = float64(i)
		}
	})
	for _, c := range columns {
		place(c, make([]float64, len(c)))
	}
	sweep(columns, func(c []*station, near func(*station) []*station) {
		want := make([]float64, len(c))
		for i, s := range c {
			want[i] = mean(near(s), func(n *station) float64 { return n.y }, s.y)
		}
		place(c, want)
	})
}

// sweep goes over the columns to the right, looking at neighbours on the left, and back, so
// often that little changes any more.
func sweep(columns [][]*station, do func([]*station, func(*station) []*station)) {
	for range 8 {
		for _, c := range columns {
			do(c, func(s *station) []*station { return s.before })
		}
		for _, c := range slices.Backward(columns) {
			do(c, func(s *station) []*station { return s.after })
		}
	}
}

func mean(all []*station, of func(*station) float64, none float64) float64 {
	if len(all) == 0 {
		return none
	}
	sum := 0.0
	for _, s := range all {
		sum += of(s)
	}
	return sum / float64(len(all))
}

// place puts the stations of a column near to where they want to be, in their order and
// without overlap: in the middle between pushing all down and pushing all up.
func place(c []*station, want []float64) {
	room := func(i int) float64 { return (c[i-1].height+c[i].height)/2 + nodeGap }
	down, up := slices.Clone(want), slices.Clone(want)
	for i := 1; i < len(c); i++ {
		down[i] = max(down[i], down[i-1]+room(i))
	}
	for i := len(c) - 1; i > 0; i-- {
		up[i-1] = min(up[i-1], up[i]-room(i))
	}
	for i, s := range c {
		s.y = (down[i] + up[i]) / 2
	}
}

// draw turns places into coordinates.
func draw(nodes []graphNode, arrows []*arrow, columns [][]*station, cards []*station) graph {
	top, bottom := math.Inf(1), math.Inf(-1)
	for _, c := range columns {
		for _, s := range c {
			top, bottom = min(top, s.y-s.height/2), max(bottom, s.y+s.height/2)
		}
	}
	x := func(column int) int { return graphEdgeX + column*(nodeWidth+columnGap) }
	y := func(s *station) int { return int(s.y-top) + graphEdgeY }
	g := graph{
		Width: x(len(columns)-1) + nodeWidth + graphEdgeX, Height: int(bottom-top) + 2*graphEdgeY,
		Nodes: nodes,
	}
	for i := range nodes {
		n := &nodes[i]
		n.X, n.Y = x(cards[i].column), y(cards[i])-n.H/2
		for j := range n.Ports {
			n.Ports[j].Text = titleRoom + portRoom*j + portRoom/2
			n.Ports[j].Y = n.Y + n.Ports[j].Text - 4 // the middle of small letters
		}
	}
	for i, n := range nodes {
		leaving := slices.DeleteFunc(slices.Clone(arrows), func(a *arrow) bool { return a.from != i })
		// In the order of where they go first, so that they do not cross at once.
		slices.SortStableFunc(leaving, func(a, b *arrow) int { return cmp.Compare(a.next(nodes, y), b.next(nodes, y)) })
		for k, a := range leaving {
			a.trace(n, nodes[a.to], n.Y+n.H*(k+1)/(len(leaving)+1), x, y)
		}
	}
	for _, a := range arrows {
		g.Edges = append(g.Edges, a.graphEdge)
	}
	return g
}

// next is the height of where the arrow goes first.
func (a *arrow) next(nodes []graphNode, y func(*station) int) int {
	if stops := a.stops(); len(stops) > 0 {
		return y(stops[0])
	}
	return nodes[a.to].Ports[a.port].Y
}

// stops are the stations between the cards, from the arrow's start to its tip.
func (a *arrow) stops() []*station {
	if len(a.way) < 3 {
		return nil
	}
	stops := slices.Clone(a.way[1 : len(a.way)-1])
	if a.back {
		slices.Reverse(stops)
	}
	return stops
}

// trace draws the arrow, which leaves its card at the height startY.
func (a *arrow) trace(from, to graphNode, startY int, x func(int) int, y func(*station) int) {
	const tip, lock, loop = 8, 22, 40
	endY := to.Ports[a.port].Y
	startX, endX, ahead := from.X+from.W, to.X, 1
	if a.back {
		startX, endX, ahead = from.X, to.X+to.W, -1
	}
	a.LockX, a.LockY = startX+ahead*lock, startY
	if a.from == a.to {
		endX = startX
		a.Path = fmt.Sprintf("M%d %d C%d %d %d %d %d %d", startX, startY, startX+loop, startY, endX+loop, endY, endX+tip, endY)
		a.Head = head(endX, endY, -1)
		return
	}
	var path strings.Builder
	fmt.Fprintf(&path, "M%d %d", startX, startY)
	atX, atY := startX, startY
	curve := func(toX, toY int) {
		middle := (atX + toX) / 2
		fmt.Fprintf(&path, " C%d %d %d %d %d %d", middle, atY, middle, toY, toX, toY)
	}
	for _, s := range a.stops() {
		near, far := x(s.column), x(s.column)+nodeWidth
		if a.back {
			near, far = far, near
		}
		curve(near, y(s))
		fmt.Fprintf(&path, " H%d", far)
		atX, atY = far, y(s)
	}
	curve(endX-ahead*tip, endY)
	a.Path, a.Head = path.String(), head(endX, endY, ahead)
}

// head is the tip of an arrow that points to the right (1) or to the left (-1).
func head(x, y, ahead int) string {
	return fmt.Sprintf("M%d %d L%d %d L%d %d Z", x, y, x-ahead*9, y-5, x-ahead*9, y+5)
}

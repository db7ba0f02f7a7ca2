package report

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/html"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func htmlOf(t testing.TB, r phase.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := HTML(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// parsed is the page as a browser sees it.
func parsed(t testing.TB, page string) []*html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(root.Descendants())
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func words(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

func all(nodes []*html.Node, element string) []*html.Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *html.Node) bool { return n.Type != html.ElementNode || n.Data != element })
}

// shape is the page without what it says: its elements and the names of their attributes.
func shape(nodes []*html.Node) string {
	var b strings.Builder
	for _, n := range nodes {
		if n.Type != html.ElementNode {
			continue
		}
		fmt.Fprintf(&b, "%s", n.Data)
		for _, a := range n.Attr {
			fmt.Fprintf(&b, " %s", a.Key)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// standsAlone: nothing is loaded, nothing runs, every link has a place on the page.
func standsAlone(t testing.TB, page string) {
	t.Helper()
	nodes := parsed(t, page)
	ids := map[string]bool{}
	for _, n := range nodes {
		if id := attr(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("two elements are %q", id)
			}
			ids[id] = true
		}
	}
	for _, n := range nodes {
		switch {
		case n.Type == html.CommentNode:
			t.Errorf("a comment: %q", n.Data)
		case n.Type != html.ElementNode:
			continue
		case slices.Contains([]string{"script", "link", "img", "image", "iframe", "object", "embed", "form", "base", "audio", "video", "foreignObject", "animate", "set"}, n.Data):
			t.Errorf("an element %q", n.Data)
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "href":
				if !strings.HasPrefix(a.Val, "#") || !ids[a.Val[1:]] {
					t.Errorf("a link to %q", a.Val)
				}
			case strings.HasPrefix(a.Key, "on") || slices.Contains([]string{"style", "src", "srcset", "srcdoc", "action", "formaction", "data", "poster", "background", "cite", "ping", "manifest"}, a.Key):
				t.Errorf("%s has the attribute %s=%q", n.Data, a.Key, a.Val)
			}
		}
	}
	style := all(nodes, "style")
	if len(style) != 1 || style[0].FirstChild.Data != pageCSS || regexp.MustCompile(`url\(|@import|</|expression`).MatchString(pageCSS) {
		t.Error("the style is not that of the package, or loads something")
	}
	hash := sha256.Sum256([]byte(style[0].FirstChild.Data))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; base-uri 'none'; form-action 'none'"
	for _, m := range all(nodes, "meta") {
		if attr(m, "http-equiv") == "Content-Security-Policy" && attr(m, "content") == want {
			return
		}
	}
	t.Error("the policy does not fit the page")
}

func TestHTML(t *testing.T) {
	for name, r := range reports() {
		page := htmlOf(t, r)
		if name == "mixed" || name == "empty" {
			golden(t, name+".html", page)
		}
		standsAlone(t, page)
		nodes := parsed(t, page)
		want := "✗ NOT PROVEN"
		if r.OK() {
			want = "✓ PROVEN"
		}
		if h1 := all(nodes, "h1"); len(h1) != 1 || words(h1[0]) != want {
			t.Errorf("%s: the heading is not %q", name, want)
		}
		for _, li := range all(nodes, "li") { // of the counts
			if n, of, _ := strings.Cut(words(li), " / "); attr(li, "class") == "passed" && li.Parent.Parent.Data == "main" && !strings.HasPrefix(of, n+" ") {
				t.Errorf("%s: %q is green", name, words(li))
			}
		}
		if htmlOf(t, r) != page {
			t.Errorf("%s: the page differs from one time to the next", name)
		}
	}
}

// TestHTMLEvidence: what did not pass comes first, is open, and all of it is there.
func TestHTMLEvidence(t *testing.T) {
	r := mixed()
	nodes := parsed(t, htmlOf(t, r))
	var order []string
	for _, n := range all(nodes, "article") {
		order = append(order, attr(n, "id"))
	}
	if d := cmp.Diff([]string{"phase-3", "phase-4", "phase-5", "phase-6", "phase-1", "phase-2"}, order); d != "" {
		t.Error(d)
	}
	checks := map[string]*html.Node{}
	order = nil
	for _, n := range all(nodes, "details") {
		if id := attr(n, "id"); id != "" {
			checks[id] = n
			if strings.HasPrefix(id, "check-3-") {
				order = append(order, id)
			}
		}
	}
	if d := cmp.Diff([]string{"check-3-1", "check-3-2", "check-3-3", "check-3-4"}, order); d != "" {
		t.Error(d)
	}
	for i, p := range r.Phases {
		for j, c := range p.Checks {
			n := checks[checkID(i, j)]
			if n == nil {
				t.Errorf("%s, %s is missing", p.Name, c.Name)
				continue
			}
			open := slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == "open" })
			if open != (c.Status == phase.Failed || c.Status == phase.Unknown && !c.Started.IsZero()) {
				t.Errorf("%s, %s is open: %t", p.Name, c.Name, open)
			}
			e := c.Evidence
			for _, s := range append(e.Details, c.Name, c.Doc, e.Want, e.Got, e.Source, outcome(c), why(c)) {
				if !strings.Contains(words(n), Printable(s)) {
					t.Errorf("%s, %s does not say %q", p.Name, c.Name, s)
				}
			}
			if says := strings.Contains(words(n), "See the policies."); says != (c.Hint != "") {
				t.Errorf("%s, %s has its hint: %t", p.Name, c.Name, says)
			}
		}
	}
	if n := checks["check-3-1"]; !strings.Contains(words(n), "2020-01-02 02:05:06 UTC, for 4.0s") {
		t.Errorf("no time in UTC: %s", words(n))
	}
	for _, s := range []string{"apply Deployment a/b: no image", "sha256:0", "image <a>", "1m01s, of which apply 1m00s"} {
		if !slices.ContainsFunc(nodes, func(n *html.Node) bool { return n.Type == html.TextNode && strings.Contains(n.Data, s) }) {
			t.Errorf("the page does not say %q", s)
		}
	}
}

func TestHTMLMatrix(t *testing.T) {
	r := fleet()
	nodes := parsed(t, htmlOf(t, r))
	cells := map[string]*html.Node{}
	for _, a := range all(nodes, "a") {
		if a.Parent.Data == "td" {
			cells[attr(a, "aria-label")] = a
		}
	}
	if len(cells) != len(r.Phases[5].Checks) {
		t.Errorf("%d cells for %d checks", len(cells), len(r.Phases[5].Checks))
	}
	for label, want := range map[string][2]string{ // what is seen, and its class
		"gateway to shop on port 8000: allowed after authentication, as wanted": {"✓ allowed", "passed allowed"},
		"gateway to dns on port 53/UDP: allowed, as wanted":                     {"✓ allowed", "passed allowed"},
		"shop to gateway on port 8443: denied, as wanted":                       {"✓ denied", "passed denied"},
		"intruder to metrics on port 9090: want denied, got through":            {"✗ got through want denied", "failed denied"},
		"payments to mailer on port 2525: want allowed, did not get through":    {"✗ did not get through want allowed", "failed allowed"},
		"shop to catalog on port 8000: want allowed, could not tell":            {"? could not tell want allowed", "unknown allowed"},
	} {
		switch n := cells[label]; {
		case n == nil:
			t.Errorf("no cell says %q", label)
		case words(n) != want[0] && words(n) != strings.Replace(want[0], " want", "want", 1) || attr(n, "class") != want[1]:
			t.Errorf("%s: shows %q as %q", label, words(n), attr(n, "class"))
		}
	}
	for _, th := range all(nodes, "th") {
		if attr(th, "scope") == "" {
			t.Errorf("the header %q has no scope", words(th))
		}
	}
	// A cell leads to its own evidence.
	n := cells["intruder to metrics on port 9090: want denied, got through"]
	for _, d := range all(nodes, "details") {
		if "#"+attr(d, "id") == attr(n, "href") && !strings.Contains(words(d), "it got through: connected in 3ms") {
			t.Errorf("the cell leads to %q", words(d))
		}
	}
}

func TestHTMLIsInert(t *testing.T) {
	nodes := parsed(t, htmlOf(t, hostile(nasty)))
	if d := cmp.Diff(shape(parsed(t, htmlOf(t, hostile("x")))), shape(nodes)); d != "" {
		t.Errorf("what is quoted changes the page (-harmless +hostile):\n%s", d)
	}
	if !slices.ContainsFunc(nodes, func(n *html.Node) bool { return n.Type == html.TextNode && n.Data == Printable(nasty) }) {
		t.Error("what was said is not shown as it was")
	}
	if strings.ContainsAny(htmlOf(t, hostile(nasty)), "\x1b\x00\x07\u202e\u2028") {
		t.Error("control characters are on the page")
	}
}

// TestHTMLContrast reads the colours from the style: text must stand out from what is
// behind it by 4.5 to 1 (WCAG 2.2, 1.4.3), lines and bars by 3 to 1 (1.4.11).
func TestHTMLContrast(t *testing.T) {
	colour := regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)
	light := map[string]string{}
	dark := map[string]string{}
	before, after, _ := strings.Cut(pageCSS, "prefers-color-scheme: dark")
	for _, m := range colour.FindAllStringSubmatch(before, -1) {
		light[m[1]] = m[2]
	}
	for _, m := range colour.FindAllStringSubmatch(after, -1) {
		dark[m[1]] = m[2]
	}
	if len(light) < 20 || len(light) != len(dark) {
		t.Fatalf("%d colours in light, %d in dark", len(light), len(dark))
	}
	luminance := func(hex string) float64 {
		l := 0.0
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
			if err != nil {
				t.Fatal(err)
			}
			c := float64(v) / 255
			if c <= 0.04045 {
				c /= 12.92
			} else {
				c = math.Pow((c+0.055)/1.055, 2.4)
			}
			l += weight * c
		}
		return l
	}
	for scheme, colours := range map[string]map[string]string{"light": light, "dark": dark} {
		demand := func(front, back string, least float64) {
			a, b := luminance(colours[front]), luminance(colours[back])
			if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); ratio < least {
				t.Errorf("%s: %s on %s is %.2f to 1, not %.1f", scheme, front, back, ratio, least)
			}
		}
		for _, back := range []string{"page", "card"} {
			for _, front := range []string{"text", "muted", "link"} {
				demand(front, back, 4.5)
			}
		}
		for _, s := range []string{"passed", "failed", "unknown", "skipped"} {
			demand(s, s+"-tint", 4.5)
			demand(s, "card", 4.5)
			demand("text", s+"-tint", 4.5)
			demand(s+"-bar", "card", 3)
		}
		demand("denied", "denied-tint", 4.5)
	}
}

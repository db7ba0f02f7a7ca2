package report

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func markdownOf(t testing.TB, r phase.Report, limit int) string {
	t.Helper()
	var b bytes.Buffer
	if err := Markdown(&b, r, MarkdownConfig{Limit: limit}); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMarkdown(t *testing.T) {
	for name, r := range reports() {
		got := markdownOf(t, r, 0)
		if name != "hostile" {
			golden(t, name+".md", got)
		}
		wellFormed(t, got)
		if proven := strings.HasPrefix(got, "# ✓ PROVEN"); proven != r.OK() || strings.Contains(got, "Left out") {
			t.Errorf("%s: the report is OK: %t, and it says\n%s", name, r.OK(), got)
		}
	}
}

var (
	codes  = regexp.MustCompile("<code>[^<>`|*_\\[\\]\\\\\n]*</code>")
	quoted = regexp.MustCompile(`"[^"<>\n\x60]*"`)
)

// wellFormed looks for what is cut in two, and for markup that is not ours.
func wellFormed(t testing.TB, doc string) {
	t.Helper()
	fenced, details, columns := false, 0, 0
	for line := range strings.Lines(codes.ReplaceAllString(doc, "C")) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			if fenced == (line == "```mermaid") || !fenced && line != "```mermaid" {
				t.Errorf("fence %q", line)
			}
			fenced = !fenced
			continue
		case fenced:
			if !regexp.MustCompile(`^(flowchart LR|  n\d+\[L\]|  n\d+ (-->|==>)\|L\| n\d+)$`).MatchString(quoted.ReplaceAllString(line, "L")) {
				t.Errorf("Mermaid line %q", line)
			}
			continue
		case line == "<details>":
			details++
		case line == "</details>":
			details--
		case strings.HasPrefix(line, "|"):
			if n := strings.Count(line, "|"); columns != 0 && n != columns {
				t.Errorf("a row of %d, not %d: %q", n, columns, line)
			} else {
				columns = n
			}
			continue
		}
		columns = 0
		line = strings.NewReplacer("<details>", "", "</details>", "", "<summary>", "", "</summary>", "").Replace(line)
		if strings.ContainsAny(line, "<>`\\") || strings.Contains(line, "://") {
			t.Errorf("markup in %q", line)
		}
	}
	if fenced || details != 0 {
		t.Errorf("open at the end: a fence: %t, details: %d", fenced, details)
	}
}

func TestMarkdownLimit(t *testing.T) {
	for name, r := range reports() {
		whole := markdownOf(t, r, 0)
		for limit := 1024; limit < 20_000; limit += 97 {
			got := markdownOf(t, r, limit)
			if len(got) > limit {
				t.Errorf("%s: %d bytes, not %d", name, len(got), limit)
			}
			wellFormed(t, got)
			if got != whole && !strings.Contains(got, fmt.Sprintf("**Left out, to keep below %d bytes:** ", limit)) {
				t.Errorf("%s: does not say that it was cut:\n%s", name, got)
			}
			if !strings.HasPrefix(got, strings.SplitAfter(whole, "\n")[0]) {
				t.Errorf("%s: the verdict is gone", name)
			}
		}
		if got := markdownOf(t, r, 1); len(got) > leastLimit {
			t.Errorf("%s: %d bytes for a limit that is too small", name, len(got))
		}
	}
	got := markdownOf(t, mixed(), 1400)
	if !strings.Contains(got, "**Left out, to keep below 1400 bytes:** 1 × the matrix of edges, ") || !strings.Contains(got, " × what did not pass") {
		t.Errorf("cut to\n%s", got)
	}
	// A huge text costs itself, not its check.
	r := mixed()
	r.Phases[2].Checks[0].Evidence.Got = strings.Repeat("|", 5<<20)
	if got := markdownOf(t, r, 0); !strings.Contains(got, "…</code>") || strings.Contains(got, "Left out") || len(got) > defaultLimit {
		t.Errorf("with a huge text: %d bytes", len(got))
	}
}

// skeleton is a document less what it quotes.
func skeleton(doc string) string {
	return quoted.ReplaceAllString(codes.ReplaceAllString(doc, "C"), "L")
}

func TestMarkdownIsInert(t *testing.T) {
	if d := cmp.Diff(skeleton(markdownOf(t, hostile("x"), 0)), skeleton(markdownOf(t, hostile(nasty), 0))); d != "" {
		t.Errorf("what is quoted changes the document (-harmless +hostile):\n%s", d)
	}
	for in, want := range map[string]string{
		"a|b":              "<code>a&#124;b</code>",
		"`\\|<b>&amp;":     "<code>&#96;&#92;&#124;&#60;b&#62;&#38;amp&#59;</code>",
		"a\nb":             "<code>a b</code>",
		"http://x www.y.z": "<code>http&#58;//x www&#46;y.z</code>",
		"web:8000 → v1.2":  "<code>web:8000 → v1.2</code>",
		"":                 "<code></code>",
	} {
		if got := code(in, 16); got != want {
			t.Errorf("%q is %s, want %s", in, got, want)
		}
	}
	if got := code("``````", 3); got != "<code>&#96;&#96;…</code>" {
		t.Errorf("cut: %s", got)
	}
	if got := mermaid("a\"]\n#35;%%{`<b>`:style"); got != "a#34;#93; #35;35#59;#37;#37;#123;#96;#60;b#62;#96;#58;style" {
		t.Errorf("a label: %s", got)
	}
}

// TestMermaidLimits: Mermaid shows an error in the place of a drawing that is too big.
func TestMermaidLimits(t *testing.T) {
	var r phase.Report
	for i := range mermaidEdges + 1 {
		c := phase.CheckResult{Status: phase.Passed, Edge: &phase.Edge{From: "a", To: fmt.Sprint(i), Port: "1", Allowed: true}}
		r.Phases = append(r.Phases, phase.Result{Checks: []phase.CheckResult{c}})
	}
	if got := markdownOf(t, r, 0); strings.Contains(got, "```mermaid") || !strings.Contains(got, "→ <code>500</code> on port") {
		t.Error("too many edges are drawn, or not listed")
	}
	r.Phases = r.Phases[1:]
	if got := markdownOf(t, r, 0); !strings.Contains(got, "```mermaid") {
		t.Error("as many edges as Mermaid takes are not drawn")
	}
}

package report

import (
	"strings"
	"testing"
)

// FuzzRenderers puts any text into every place of a report: JUnit can always be read, and
// the page and the Markdown are built as for a harmless text. Use -fuzzminimizetime 1x: one
// text is put into very much, and is slow to make shorter.
func FuzzRenderers(f *testing.F) {
	for _, s := range []string{nasty, "", "\x00", "\xff", "\ufffe", "\u2028|", "]]>", "-->", "`", "\\|", "#", "x\"]", "www.a.b http://c", strings.Repeat("长", 300)} {
		f.Add(s)
	}
	page, markdown := shape(parsed(f, htmlOf(f, hostile("x")))), skeleton(markdownOf(f, hostile("x"), 0))
	f.Fuzz(func(t *testing.T, s string) {
		r := hostile(s)
		readJUnit(t, r)
		gotPage, gotMarkdown := htmlOf(t, r), markdownOf(t, r, 0)
		standsAlone(t, gotPage)
		wellFormed(t, gotMarkdown)
		if Printable(s) == "" {
			return // texts that are empty are not told
		}
		if shape(parsed(t, gotPage)) != page {
			t.Errorf("%q changes the page", s)
		}
		if skeleton(gotMarkdown) != markdown {
			t.Errorf("%q changes the Markdown", s)
		}
	})
}

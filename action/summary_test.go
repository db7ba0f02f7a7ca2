package main

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/internal/golden"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func summarised(t *testing.T, r phase.Report, tails []tail, used int) string {
	t.Helper()
	s, err := summaryOf(r, tails, used)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSummary(t *testing.T) {
	tails := []tail{{"shop/gateway-1, container gateway", "one\n\n<b>two</b>\n"}, {"kube-system/cilium-x, container cilium-agent", "level=error\n"}}
	golden.Equal(t, "testdata/summary-failed.md", []byte(summarised(t, broken("nothing"), tails, 0)))
	golden.Equal(t, "testdata/summary-proven.md", []byte(summarised(t, proven(), nil, 0)))
	golden.Equal(t, "testdata/summary-inputs.md", []byte(wrongInputs(fmt.Errorf("input workers: want a number\ninput images: <b>"))))
}

// whole says what is left open in a summary.
func whole(s string) error {
	for _, tag := range []string{"details", "pre", "summary", "code"} {
		if a, b := strings.Count(s, "<"+tag+">"), strings.Count(s, "</"+tag+">"); a != b {
			return fmt.Errorf("%d <%s>, %d </%s>", a, tag, b, tag)
		}
	}
	if strings.Count(s, "```")%2 != 0 {
		return fmt.Errorf("an open fence")
	}
	return nil
}

// However much there is to tell, the summary stays below the limit, and whole.
func TestSummaryIsCut(t *testing.T) {
	r := broken("x")
	for i := range 5000 {
		r.Phases[1].Checks = append(r.Phases[1].Checks, phase.CheckResult{
			Name: fmt.Sprintf("check %d", i), Status: phase.Failed, Started: at(1), Err: phase.Want("a", strings.Repeat("b", 500)),
			Evidence: phase.Evidence{Want: "a", Got: strings.Repeat("b", 500)},
		})
	}
	var tails []tail
	for i := range 200 {
		tails = append(tails, tail{fmt.Sprintf("pod %d", i), strings.Repeat("<line>\n", 5000)})
	}
	for _, used := range []int{0, 1000, 500 << 10, 900 << 10, 1<<20 - 12<<10} {
		s := summarised(t, r, tails, used)
		if used+len(s) >= 1<<20 {
			t.Errorf("with %d bytes there already it has %d", used, len(s))
		}
		if err := whole(s); err != nil {
			t.Errorf("with %d bytes there already: %v", used, err)
		}
		if !strings.Contains(s, "Left out") {
			t.Errorf("with %d bytes there already, it does not say that something is left out", used)
		}
		if !strings.Contains(s, "NOT PROVEN") {
			t.Error("the verdict is missing")
		}
	}
	if _, err := summaryOf(r, tails, 1<<20); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a full summary gives %v", err)
	}
}

func TestNothingSaidIsMarkdown(t *testing.T) {
	for _, said := range evil {
		s := summarised(t, broken(said), []tail{{said, said}}, 0)
		if err := whole(s); err != nil {
			t.Errorf("%q: %v", said, err)
		}
		// What is between these Markdown does not look into.
		seen := regexp.MustCompile(`(?s)<(pre|summary)>.*?</(pre|summary)>`).ReplaceAllString(s, "")
		for _, bad := range []string{"<script>", "\n# heading", "\x1b", "\x00"} {
			if strings.Contains(seen, bad) || bad != "\n# heading" && strings.Contains(s, bad) {
				t.Errorf("%q makes %q", said, bad)
			}
		}
	}
}

func TestLastLines(t *testing.T) {
	for _, tt := range []struct{ s, want string }{
		{"", ""}, {"a\nb\n", "a\nb"}, {"aaaa\nbbbb\ncccc", "…\nbbbb\ncccc"}, {strings.Repeat("x", 99), "…"},
	} {
		if got := lastLines(tt.s, 10); got != tt.want {
			t.Errorf("the end of %q is %q, want %q", tt.s, got, tt.want)
		}
	}
}

package zerotrust

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/zerotrust/precinct"
)

// Each point of the guide names a check that looks at it in a running cluster, or a cause
// that is named when it is not so; and these are there.
func TestGuideIsTiedToChecks(t *testing.T) {
	s := &Stack{cfg: Config{Intent: Precinct99(), Workers: 2}, td: spiffeid.RequireTrustDomainFromString("demo.local")}
	known := map[string]bool{}
	for _, p := range s.Phases() {
		for _, c := range p.Checks {
			known["check: "+c.Name] = true
		}
	}
	for _, c := range append(s.Mutations(), s.Wiretap(precinct.NewSite(""))) {
		known["check: "+c.Name] = true
	}
	for _, c := range Causes() {
		known["cause: "+c.Name] = true
	}
	text, err := os.ReadFile("../docs/cilium-spire.md")
	if err != nil {
		t.Fatal(err)
	}
	reference := regexp.MustCompile(`\[(check|cause): [^\]]+\]`)
	named := map[string]bool{}
	points := strings.Split(string(text), "\n- ")
	for _, point := range points[1:] {
		point, _, _ = strings.Cut(point, "\n\n")
		all := reference.FindAllString(point, -1)
		if len(all) == 0 {
			t.Errorf("no check is named for: %s", point)
		}
		for _, r := range all {
			name := strings.Trim(strings.Join(strings.Fields(r), " "), "[]")
			named[name] = true
			if !known[name] {
				t.Errorf("there is no %s", name)
			}
		}
	}
	for _, c := range Causes() {
		if !named["cause: "+c.Name] {
			t.Errorf("the guide does not speak of cause %s", c.Name)
		}
	}
	if len(points) < 15 {
		t.Errorf("only %d points were found", len(points)-1)
	}
}

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// evil is what servers, pods and pull requests may say: each of it must stay text.
var evil = []string{
	"two\nlines", "cr\rlf\r\nx", "\n::set-output name=result::passed", "\n::error::x", "::add-mask::x", "::stop-commands::x", "\n::endgroup::",
	"%0A::warning::x", "%25", "##[error]x", "##[group]y", "\x1b[31mred\x1b[0m\x1b[2J", "end-AAAA\nend-AAAA", "result<<EOF\npassed\nEOF",
	"_GitHubActionsFileCommandDelimeter_\nresult=passed", "</pre></details><script>", "```\n# heading", "| a | b |", "a,b:c", "\u202eright to left", "\x00",
}

var day = time.Date(2026, 5, 4, 9, 30, 0, 0, time.UTC)

func at(s float64) time.Time { return day.Add(time.Duration(s * float64(time.Second))) }

// broken is a report with something of each kind in it; what is quoted in it is said.
func broken(said string) phase.Report {
	sec := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	ok := phase.CheckResult{Name: "nodes ready", Status: phase.Passed, Started: at(60), Duration: sec(1), Evidence: phase.Evidence{Want: "3", Got: "3"}}
	return phase.Report{
		Started: at(0), Ended: at(125.4), Metadata: map[string]string{"image quay.io/cilium/cilium:v1.20.2": "sha256:0", "runner": said},
		Phases: []phase.Result{
			{Name: "cluster", Doc: "A cluster runs.", Status: phase.Passed, Started: at(0), Duration: sec(61.2), Apply: sec(60), Checks: []phase.CheckResult{ok}},
			{Name: "edges", Doc: "Edges are as wanted.", Needs: []string{"cluster"}, Status: phase.Failed, Started: at(61), Duration: sec(12), Checks: []phase.CheckResult{
				{Name: "a → b:80", Status: phase.Unknown, Started: at(61), Err: errors.New("no flow was heard: " + said), Edge: &phase.Edge{From: "a", To: "b", Port: "80", Allowed: true}},
				{Name: "b → a:80", Status: phase.Failed, Started: at(61), Err: phase.Want("connected", said), Evidence: phase.Evidence{Want: "connected", Got: said}, Edge: &phase.Edge{From: "b", To: "a", Port: "80", Allowed: true}},
				{Name: "intruder → a:80", Hint: "See the policies.", Status: phase.Failed, Started: at(61), Err: phase.Want("dropped", "it got through"),
					Evidence: phase.Evidence{Want: "dropped", Got: "it got through", Source: "Hubble", Details: []string{"pod " + said}}, Edge: &phase.Edge{From: "intruder", To: "a", Port: "80"}},
				{Name: "c → a:80", Status: phase.Passed, Started: at(61), Edge: &phase.Edge{From: "c", To: "a", Port: "80", Allowed: true, Authenticated: true}},
			}},
			{Name: "apps", Needs: []string{"cluster"}, Status: phase.Failed, Started: at(61), Duration: sec(30), Apply: sec(30), Err: fmt.Errorf("apply Deployment a/b: %s", said),
				Checks: []phase.CheckResult{{Name: "run", Err: errors.New("not run: the phase was not applied")}}},
			{Name: "journey", Needs: []string{"apps"}, Status: phase.Skipped, Err: errors.New(`it needs "apps", which failed`),
				Checks: []phase.CheckResult{{Name: "login", Err: errors.New("not run: the phase was skipped")}}},
		},
	}
}

// proven is a report in which all is well.
func proven() phase.Report {
	r := broken("")
	r.Phases = r.Phases[:1]
	return r
}

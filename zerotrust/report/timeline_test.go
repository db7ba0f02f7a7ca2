package report

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func TestTimeline(t *testing.T) {
	at := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	r := phase.Report{Started: at, Ended: at.Add(100 * time.Second), Phases: []phase.Result{
		{Name: "a", Status: phase.Passed, Started: at, Duration: 50 * time.Second, Apply: 25 * time.Second},
		{Name: "b", Status: phase.Failed, Started: at.Add(50 * time.Second), Duration: 50 * time.Second},
		{Name: "c", Status: phase.Skipped},
		{Name: "d", Status: phase.Passed, Started: at.Add(-time.Second), Duration: -time.Second}, // a clock that was set
	}}
	want := timeline{
		Ticks: []tick{{"0", "0.00%"}, {"30s", "30.00%"}, {"1m", "60.00%"}, {"1m30s", "90.00%"}},
		Bars: []bar{
			{ID: "phase-1", Name: "a", Class: "passed", Text: "50.0s", X: "0.00%", Width: "50.00%", ApplyWidth: "25.00%"},
			{ID: "phase-2", Name: "b", Class: "failed", Text: "50.0s", X: "50.00%", Width: "50.00%", ApplyWidth: "0.00%"},
			{ID: "phase-3", Name: "c", Class: "skipped", Text: "skipped"},
			{ID: "phase-4", Name: "d", Class: "passed", Text: "-1.0s", X: "0.00%", Width: "0.00%", ApplyWidth: "0.00%"},
		},
	}
	if d := cmp.Diff(want, timelineOf(r)); d != "" {
		t.Error(d)
	}
}

func TestTicksAreFewAndDistinct(t *testing.T) {
	for all := time.Millisecond; all < 1000*time.Hour; all = all*5/4 + 1 {
		r := phase.Report{Ended: time.Time{}.Add(all)}
		seen := map[string]bool{}
		ticks := timelineOf(r).Ticks
		for _, tick := range ticks {
			if seen[tick.Name] || strings.Contains(tick.X, "-") {
				t.Errorf("in %s the tick %v", all, tick)
			}
			seen[tick.Name] = true
		}
		if len(ticks) < 1 || len(ticks) > 6 {
			t.Errorf("in %s there are the ticks %v", all, ticks)
		}
	}
}

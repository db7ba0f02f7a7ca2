package main

import (
	"testing"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func TestVerdicts(t *testing.T) {
	only := func(s phase.Status, c phase.Status) phase.Report {
		return phase.Report{Phases: []phase.Result{{Name: "a", Status: s, Checks: []phase.CheckResult{{Name: "c", Status: c, Started: at(1)}}}}}
	}
	for name, tt := range map[string]struct {
		report      phase.Report
		interrupted bool
		want        result
		code        map[string]int
	}{
		"proven":      {only(phase.Passed, phase.Passed), false, passed, map[string]int{failNotProven: 0, failFailed: 0, failNever: 0}},
		"failed":      {only(phase.Failed, phase.Failed), false, failed, map[string]int{failNotProven: 1, failFailed: 1, failNever: 0}},
		"unknown":     {only(phase.Unknown, phase.Unknown), false, unknown, map[string]int{failNotProven: 1, failFailed: 0, failNever: 0}},
		"zero":        {only(phase.Passed, phase.Unknown), false, unknown, map[string]int{failNotProven: 1}},
		"timed out":   {only(phase.Cancelled, phase.Unknown), false, failed, map[string]int{failFailed: 1}},
		"interrupted": {only(phase.Passed, phase.Passed), true, cancelled, map[string]int{failNotProven: 130, failFailed: 130, failNever: 130}},
		"nothing run": {phase.Report{}, false, faulty, map[string]int{failNotProven: 1, failNever: 1}},
	} {
		if got := resultOf(tt.report, tt.interrupted); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
		for failOn, code := range tt.code {
			if got := exitCode(tt.want, failOn); got != code {
				t.Errorf("%s with fail-on %s: %d, want %d", name, failOn, got, code)
			}
		}
	}
}

func TestCounts(t *testing.T) {
	var o outputs
	o.count(broken("x"))
	if o.Passed != 2 || o.Failed != 3 || o.Skipped != 2 || o.FailedPhase != "edges" || o.Seconds != 126 {
		t.Errorf("got %+v", o)
	}
}

func TestWhatIsCleanedUp(t *testing.T) {
	for _, tt := range []struct {
		s    state
		want bool
	}{
		{state{}, false},
		{state{Cluster: "a", Cleanup: cleanupAlways, Result: passed}, false}, // not ours
		{state{Cluster: "a", Ours: true, Cleanup: cleanupAlways, Result: passed}, true},
		{state{Cluster: "a", Ours: true, Cleanup: cleanupAlways, Result: failed}, true},
		{state{Cluster: "a", Ours: true, Cleanup: cleanupAlways}, true}, // killed
		{state{Cluster: "a", Ours: true, Cleanup: cleanupOnSuccess, Result: passed}, true},
		{state{Cluster: "a", Ours: true, Cleanup: cleanupOnSuccess, Result: unknown}, false},
		{state{Cluster: "a", Ours: true, Cleanup: cleanupOnSuccess, Result: cancelled}, false},
		{state{Cluster: "a", Ours: true, Cleanup: cleanupNever, Result: passed}, false},
	} {
		if got, why := tt.s.removes(); got != tt.want || got == (why != "") {
			t.Errorf("%+v: %v (%s), want %v", tt.s, got, why, tt.want)
		}
	}
	folder := t.TempDir()
	want := state{Cluster: "a", Ours: true, Cleanup: "never", Result: failed, LogsDir: "/l"}
	if err := want.save(folder); err != nil {
		t.Fatal(err)
	}
	if got, err := loadState(folder); err != nil || got != want {
		t.Errorf("read %+v, %v", got, err)
	}
	if got, err := loadState(t.TempDir()); err != nil || got != (state{}) {
		t.Errorf("of nothing: %+v, %v", got, err)
	}
}

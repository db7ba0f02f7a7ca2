package main

import (
	"math"
	"strconv"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// outputs are what later steps can read, by the tags. None of them is secret.
type outputs struct {
	Result      result `output:"result"`
	Passed      int    `output:"passed"`  // checks
	Failed      int    `output:"failed"`  // checks that failed or could not tell
	Skipped     int    `output:"skipped"` // checks that were not asked
	FailedPhase string `output:"failed-phase"`
	Kubeconfig  string `output:"kubeconfig"` // a path
	ClusterName string `output:"cluster-name"`
	TrustDomain string `output:"trust-domain"`
	ReportDir   string `output:"report-dir"`
	ReportJSON  string `output:"report-json"`
	ReportJUnit string `output:"report-junit"`
	ReportHTML  string `output:"report-html"`
	LogsDir     string `output:"logs-dir"`
	Seconds     int    `output:"duration-seconds"`
}

// result is the verdict in a word.
type result string

const (
	passed    result = "passed"
	failed    result = "failed"    // something is not as it should be
	unknown   result = "unknown"   // nothing failed, but something could not be told
	cancelled result = "cancelled" // the workflow was
	faulty    result = "error"     // nothing could be run: wrong inputs, no binary, no workspace
)

// resultOf is the verdict of a report. A run that ran out of time has failed.
func resultOf(r phase.Report, interrupted bool) result {
	switch {
	case interrupted:
		return cancelled
	case r.OK():
		return passed
	case len(r.Phases) == 0:
		return faulty
	}
	for _, p := range r.Phases {
		if p.Status == phase.Failed || p.Status == phase.Cancelled {
			return failed
		}
	}
	return unknown
}

// exitCode is what the step ends with: 0, 1, or 130 when cancelled. Only a verdict can be
// forgiven by fail-on: what kept it from being reached cannot.
func exitCode(r result, failOn string) int {
	switch {
	case r == passed:
		return 0
	case r == cancelled:
		return 130
	case r == faulty:
		return 1
	case failOn == failNever, failOn == failFailed && r == unknown:
		return 0
	}
	return 1
}

// count fills in what the report says.
func (o *outputs) count(r phase.Report) {
	o.Passed, o.Failed, o.Skipped, o.FailedPhase = 0, 0, 0, ""
	for _, p := range r.Phases {
		if o.FailedPhase == "" && p.Status != phase.Passed && p.Status != phase.Skipped {
			o.FailedPhase = p.Name
		}
		for _, c := range p.Checks {
			switch {
			case c.Status == phase.Passed:
				o.Passed++
			case c.Started.IsZero():
				o.Skipped++
			default:
				o.Failed++
			}
		}
	}
	o.Seconds = int(math.Ceil(r.Ended.Sub(r.Started).Seconds()))
}

// pairs are the names and values in the order of the struct.
func (o outputs) pairs() [][2]string {
	var all [][2]string
	for _, name := range fieldNames(o) {
		value := ""
		switch v := fieldOf(o, name).(type) {
		case string:
			value = v
		case result:
			value = string(v)
		case int:
			value = strconv.Itoa(v)
		}
		all = append(all, [2]string{name, value})
	}
	return all
}

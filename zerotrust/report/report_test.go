package report

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); if it should, run the test with -update:\n%s", path, diff)
	}
}

// mixed is a report with one of everything.
func mixed() phase.Report {
	at := time.Date(2020, 1, 2, 3, 4, 5, 6_000_000, time.FixedZone("", 3600))
	after := func(s float64) time.Time { return at.Add(time.Duration(s * float64(time.Second))) }
	d := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	return phase.Report{
		Started: at, Ended: after(125.4567),
		Metadata: map[string]string{"kubernetes": "v1.37.2", "image <a>": "sha256:0"},
		Phases: []phase.Result{
			{Name: "cluster", Doc: "A cluster runs.", Status: phase.Passed, Started: at, Duration: d(61.2), Apply: d(60),
				Checks: []phase.CheckResult{{Name: "nodes ready", Doc: "All are.", Status: phase.Passed, Started: after(60), Duration: d(1.2),
					Evidence: phase.Evidence{Want: "3", Got: "3", Details: []string{"a", "b", "c"}, Source: "GET /api/v1/nodes"}}}},
			{Name: "verify-only", Status: phase.Passed, Started: at, Duration: d(0.0004), Checks: []phase.CheckResult{{Name: "bare", Status: phase.Passed, Started: at}}},
			{Name: "edges", Needs: []string{"cluster"}, Status: phase.Failed, Started: after(61.2), Duration: d(12),
				Checks: []phase.CheckResult{
					{Name: "a → b:80", Hint: "See the policies.", Status: phase.Failed, Started: after(61.2), Duration: d(4),
						Err:      phase.Want("dropped", "an answer with \x1b[31mescapes\x1b[0m\nand lines"),
						Evidence: phase.Evidence{Want: "dropped", Got: "an answer with \x1b[31mescapes\x1b[0m\nand lines", Details: []string{"flow 1", "flow 2"}, Source: "Hubble"}},
					{Name: "b → a:80", Status: phase.Unknown, Started: after(61.2), Duration: d(12), Err: errors.New("no flow was heard")},
					{Name: "c → a:80", Status: phase.Passed, Started: after(61.2), Duration: d(1)},
				}},
			{Name: "apps", Needs: []string{"cluster"}, Status: phase.Failed, Started: after(61.2), Duration: d(30), Apply: d(30), Err: errors.New("apply Deployment a/b: no image"),
				Checks: []phase.CheckResult{{Name: "run", Status: phase.Unknown, Err: errors.New("not run: the phase was not applied")}}},
			{Name: "slow", Status: phase.Cancelled, Started: after(61.2), Duration: d(30), Apply: d(30), Err: fmt.Errorf("interrupted: %w", context.Canceled),
				Checks: []phase.CheckResult{{Name: "run", Status: phase.Unknown, Err: errors.New("not run: the phase was not applied")}}},
			{Name: "journey", Needs: []string{"apps", "edges"}, Status: phase.Skipped, Err: errors.New(`it needs "apps", which failed`),
				Checks: []phase.CheckResult{{Name: "login", Status: phase.Unknown, Err: errors.New("not run: the phase was skipped")}}},
		},
	}
}

func proven() phase.Report {
	r := mixed()
	r.Phases = r.Phases[:2]
	r.VerifyOnly = true
	r.Metadata = nil
	return r
}

func TestJSON(t *testing.T) {
	for name, r := range map[string]phase.Report{"mixed": mixed(), "proven": proven(), "empty": {}} {
		var b bytes.Buffer
		if err := JSON(&b, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".json", b.String())
		var back struct {
			OK      bool
			Started time.Time
			Phases  []struct{ Checks []any }
		}
		if err := json.Unmarshal(b.Bytes(), &back); err != nil {
			t.Fatal(err)
		}
		if back.OK != r.OK() || !back.Started.Equal(r.Started) || len(back.Phases) != len(r.Phases) || back.Phases == nil {
			t.Errorf("%s read back: %+v", name, back)
		}
	}
}

func TestSummary(t *testing.T) {
	for name, r := range map[string]phase.Report{"mixed": mixed(), "proven": proven(), "empty": {}} {
		var b bytes.Buffer
		if err := Summary(&b, r); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", b.String())
		if strings.Contains(b.String(), "\x1b") {
			t.Errorf("%s: what was seen can steer the terminal: %q", name, b.String())
		}
		if got := strings.Contains(b.String(), "\nPROVEN"); got != r.OK() {
			t.Errorf("%s: says proven: %t, the report is OK: %t", name, got, r.OK())
		}
	}
}

type full struct{ after int }

func (f *full) Write(p []byte) (int, error) {
	if f.after -= len(p); f.after < 0 {
		return 0, errors.New("disk full")
	}
	return len(p), nil
}

func TestWriteErrorsAreTold(t *testing.T) {
	term := NewTerminal(&full{}, TerminalConfig{})
	term.On(phase.Event{Kind: phase.PhaseStarted, Phase: "p", Time: time.Now()})
	for what, err := range map[string]error{
		"JSON": JSON(&full{}, mixed()), "Summary": Summary(&full{}, mixed()), "Terminal": term.Close(),
	} {
		if err == nil || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestText(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.0s", 449 * time.Millisecond: "0.4s", 12345 * time.Millisecond: "12.3s", 59949 * time.Millisecond: "59.9s",
		59951 * time.Millisecond: "1m00s", 125 * time.Second: "2m05s", 119600 * time.Millisecond: "2m00s",
		time.Hour - time.Millisecond: "1h00m", 3725 * time.Second: "1h02m",
	} {
		if got := short(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
	for width, want := range map[int]string{5: "äbcde", 9: "äbcde", 4: "äbc…", 1: "…", 0: "", -1: ""} {
		if got := cut("äbcde", width); got != want {
			t.Errorf("in %d columns %q, want %q", width, got, want)
		}
	}
	if got := printable(" a\tb\n\x1b[2Jc\u202e d\x00"); got != "a b ·[2Jc· d·" {
		t.Errorf("printable: %q", got)
	}
	if printable("→ ✓ 值") != "→ ✓ 值" {
		t.Error("printable loses letters")
	}
}

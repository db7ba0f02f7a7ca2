package report_test

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// A run is shown while it goes on, and summed up at its end.
func Example() {
	door := &phase.Phase{Name: "door", Checks: []phase.Check{{
		Name: "shut", Hint: "Turn the key.",
		Run: func(context.Context) (phase.Evidence, error) { return phase.Evidence{}, phase.Want("shut", "open") },
	}}}

	// On a terminal: report.TerminalConfig{Live: true, Width: its width, Color: NO_COLOR is not set}.
	progress := report.NewTerminal(os.Stderr, report.TerminalConfig{})
	r, _ := phase.Run(context.Background(), []*phase.Phase{door}, progress.On)
	if err := progress.Close(); err != nil {
		fmt.Println(err)
	}

	r.Phases[0].Duration, r.Ended = time.Second, r.Started.Add(time.Second) // for this example alone
	if err := report.Summary(os.Stdout, r); err != nil {
		fmt.Println(err)
	}
	// Output:
	//    PHASE  STATUS  TIME  APPLY  CHECKS
	// ✗  door   failed  1.0s         0 of 1
	//
	// ✗ door: failed
	//   ✗ shut: failed
	//       want:    shut
	//       got:     open
	//       hint:    Turn the key.
	//
	// NOT PROVEN: 0 of 1 checks passed in 1.0s; phases: 1 failed.
}

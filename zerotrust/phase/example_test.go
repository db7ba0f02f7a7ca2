package phase_test

import (
	"context"
	"fmt"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// A door is built, and then proven to be shut.
func Example() {
	shut := false
	door := &phase.Phase{
		Name: "door", Doc: "The door is shut.",
		Apply: func(ctx context.Context) error {
			phase.Progress(ctx, "turning the key")
			shut = true
			return nil
		},
		Checks: []phase.Check{{
			Name: "shut", Hint: "Turn the key again.",
			Run: func(context.Context) (phase.Evidence, error) {
				ev := phase.Evidence{Source: "the handle"}
				if !shut {
					return ev, phase.Want("shut", "open")
				}
				ev.Got = "it does not move"
				return ev, nil
			},
		}},
	}
	guard := &phase.Phase{
		Name: "guard", Doc: "Someone watches the door.", Needs: []*phase.Phase{door},
		Checks: []phase.Check{{
			Name: "awake",
			Run:  func(context.Context) (phase.Evidence, error) { return phase.Evidence{}, phase.Want("awake", "asleep") },
		}},
	}

	report, err := phase.Run(context.Background(), []*phase.Phase{door, guard}, func(e phase.Event) {
		if e.Kind == phase.PhaseProgress {
			fmt.Printf("%s: %s\n", e.Phase, e.Text)
		}
	})
	for _, p := range report.Phases {
		fmt.Println(p.Name, p.Status)
	}
	fmt.Println(err)
	// Output:
	// door: turning the key
	// door passed
	// guard failed
	// phase "guard": check "awake": failed: want awake; got asleep
}

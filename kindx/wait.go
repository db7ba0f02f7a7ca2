package kindx

import (
	"context"
	"fmt"
	"time"
)

// waitFor asks until it is told yes. When ctx ends first, the error says what was
// waited for, for how long, and what was seen last.
func waitFor(ctx context.Context, what string, interval time.Duration, probe func(context.Context) (done bool, saw string, err error)) error {
	start := time.Now()
	saw := "nothing"
	for {
		done, now, err := probe(ctx)
		if done || err != nil {
			return err
		}
		// A probe that ctx cut short tells nothing about what it probes.
		if ctx.Err() == nil || saw == "nothing" {
			saw = now
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: gave up after %s, last seen: %s: %w", what, time.Since(start).Round(100*time.Millisecond), saw, ctx.Err())
		case <-time.After(interval):
		}
	}
}

package kube

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// defaultInterval is how often Wait probes when it is not told.
const defaultInterval = 500 * time.Millisecond

// Wait calls probe at once and then at every interval (default 500 ms) until it
// reports done. What the probe saw, or its error, is shown when the wait fails. An
// error is taken as passing, unless it is Permanent. When ctx ends, the error says
// what was waited for, how long, and what was last seen, and wraps ctx's cause.
func Wait(ctx context.Context, what string, interval time.Duration, probe func(context.Context) (done bool, saw string, err error)) error {
	if interval <= 0 {
		interval = defaultInterval
	}
	begin := time.Now()
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	last := "nothing yet"
	for {
		if ctx.Err() == nil {
			done, saw, err := probe(ctx)
			if p := (*permanentError)(nil); errors.As(err, &p) {
				return fmt.Errorf("waiting for %s: %w", what, p.err)
			}
			if err == nil && done {
				return nil
			}
			// An error that the end of ctx itself made would hide what was seen before.
			if ctx.Err() == nil || err == nil {
				last = describe(saw, err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: gave up after %s (%w); last seen: %s",
				what, time.Since(begin).Round(100*time.Millisecond), context.Cause(ctx), last)
		}
	}
}

func describe(saw string, err error) string {
	switch {
	case err == nil && saw == "":
		return "not done"
	case err == nil:
		return saw
	case saw == "":
		return err.Error()
	}
	return saw + ": " + err.Error()
}

// Permanent marks an error that waiting cannot mend: Wait returns it at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

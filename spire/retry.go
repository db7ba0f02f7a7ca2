package spire

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Retry says how a call is repeated that failed because the server was not there
// (Unavailable), had too much to do (ResourceExhausted), took too long
// (DeadlineExceeded) or gave way to another (Aborted). What fails with Internal, as
// when a proxy between the two resets a stream, is tried three times at most: all
// calls of this package may be made twice. Other errors are final.
//
// Once a call of an Apply has found no server in all its attempts, the others are made
// once each, until one finds it: an apply of many calls ends soon after the first.
type Retry struct {
	// Attempts is how often a call is made at most. Zero is 8; 1 means no retry.
	Attempts int
	// Pause is the wait before the second attempt; it doubles each time up to 25
	// times itself, and is shortened at random by up to a half so that callers spread
	// out. Zero is 200 ms, which with 8 attempts gives a server about 15 s to return.
	Pause time.Duration

	// onWait is told of each wait.
	onWait func(pause time.Duration, err error)
}

// internalAttempts is how often a call is made that fails with Internal.
const internalAttempts = 3

// do calls f until it succeeds, fails for good, or the attempts are used up.
func (r Retry) do(ctx context.Context, f func() error) error {
	attempts := cmp.Or(r.Attempts, 8)
	for n := 1; ; n++ {
		err := f()
		internal := status.Code(err) == codes.Internal
		if err == nil || !retryable(status.Code(err)) && !internal {
			return err
		}
		if n >= attempts || internal && n >= internalAttempts {
			return fmt.Errorf("given up after %d attempts: %w", n, err)
		}
		if ctxErr := r.wait(ctx, n, err); ctxErr != nil {
			return fmt.Errorf("%w; last seen: %w", ctxErr, err)
		}
	}
}

// wait is the pause after the nth attempt, which failed with why.
func (r Retry) wait(ctx context.Context, n int, why error) error {
	base := cmp.Or(r.Pause, 200*time.Millisecond)
	pause := min(base<<min(n-1, 10), 25*base)
	pause -= rand.N(pause/2 + 1)
	if r.onWait != nil {
		r.onWait(pause, why)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

func retryable(c codes.Code) bool {
	return c == codes.Unavailable || c == codes.ResourceExhausted || c == codes.DeadlineExceeded || c == codes.Aborted
}

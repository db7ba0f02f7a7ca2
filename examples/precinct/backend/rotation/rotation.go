// Package rotation replaces a value that works for a limited time, such as a pool of
// connections made with leased credentials, while it is in use: everyone who began
// with the old one ends with it, and only then is it closed.
package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

// Config says how values are made and unmade.
type Config[T any] struct {
	Open  func(context.Context) (T, time.Time, error) // a new value and when it expires; required
	Close func(ctx context.Context, old, next T)      // of a value that nobody uses any more; next is zero at the very end; required
	Stale func(error) bool                            // whether an error says that the value is no longer accepted; required
	Log   *slog.Logger                                // required

	Limit time.Duration // for one Open, one drain and one Close each; 15 s by default
}

// Change is one rotation. Old is the zero value at the first.
type Change[T any] struct {
	Old, New T
	Seconds  float64
}

// State is what a holder holds now. The zero value: nothing yet.
type State struct {
	Since, Expires time.Time
	Rotations      int   // replacements so far; the first value is none
	Err            error // of the newest rotation
}

// ErrNothing says that there is no value yet, and no reason either.
var ErrNothing = errors.New("starting")

// Holder holds the current value.
type Holder[T any] struct {
	config  Config[T]
	changed chan struct{} // wakes Run when somebody rotated

	mu      sync.Mutex
	flight  *flight[T] // the rotation under way
	current *generation[T]
	count   int
	err     error
	forced  time.Time // when a stale value was last replaced out of turn
}

type generation[T any] struct {
	value          T
	since, expires time.Time
	replaced       chan struct{} // closed when there is a newer one
	idle           chan struct{} // closed when there is a newer one and nobody uses this
	users          int
}

// New is a holder of nothing yet: Run or Rotate fill it.
func New[T any](c Config[T]) *Holder[T] {
	if c.Limit == 0 {
		c.Limit = 15 * time.Second
	}
	return &Holder[T]{config: c, changed: make(chan struct{}, 1), err: ErrNothing}
}

// State is what there is now.
func (h *Holder[T]) State() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := State{Rotations: max(0, h.count-1), Err: h.err}
	if g := h.current; g != nil {
		s.Since, s.Expires = g.since, g.expires
	}
	return s
}

// Use calls f with the current value, which stays open until f returns. If the error
// says that the value is no longer accepted, it is replaced at once and f is called
// once more; f must therefore be repeatable after such an error.
func (h *Holder[T]) Use(ctx context.Context, f func(T) error) error {
	g, err := h.take()
	if err != nil {
		return err
	}
	err = f(g.value)
	h.release(g)
	if err == nil || !h.config.Stale(err) {
		return err
	}
	if failed := h.replace(ctx, g); failed != nil {
		return fmt.Errorf("%w (and no new one: %w)", err, failed)
	}
	if g, failed := h.take(); failed == nil {
		defer h.release(g)
		return f(g.value)
	}
	return err
}

func (h *Holder[T]) take() (*generation[T], error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.current == nil {
		return nil, h.err
	}
	h.current.users++
	return h.current, nil
}

func (h *Holder[T]) release(g *generation[T]) {
	h.mu.Lock()
	defer h.mu.Unlock()
	g.users--
	if g.users == 0 && g != h.current {
		close(g.idle)
	}
}

// errTooOften keeps a value that is refused for ever from being replaced for ever.
var errTooOften = errors.New("it was replaced a moment ago")

// replace rotates, unless somebody else has done so already. It waits for the new
// value alone, not for the end of the old.
func (h *Holder[T]) replace(ctx context.Context, stale *generation[T]) error {
	h.mu.Lock()
	if h.current != stale {
		h.mu.Unlock()
		return nil
	}
	if h.flight == nil {
		if time.Since(h.forced) < 2*time.Second {
			h.mu.Unlock()
			return errTooOften
		}
		h.forced = time.Now()
	}
	f := h.start()
	h.mu.Unlock()
	select {
	case <-stale.replaced:
		return nil
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Rotate replaces the value now and waits until the old one is closed. Whoever asks
// during a rotation shares it. The rotation goes on when the context ends.
func (h *Holder[T]) Rotate(ctx context.Context) (Change[T], error) {
	h.mu.Lock()
	f := h.start()
	h.mu.Unlock()
	select {
	case <-f.done:
		return f.change, f.err
	case <-ctx.Done():
		return Change[T]{}, ctx.Err()
	}
}

// flight is a rotation under way. What it came to is set before done is closed.
type flight[T any] struct {
	done   chan struct{}
	change Change[T]
	err    error
}

// start joins the rotation under way or begins one; the caller holds the lock.
func (h *Holder[T]) start() *flight[T] {
	if h.flight != nil {
		return h.flight
	}
	f := &flight[T]{done: make(chan struct{})}
	h.flight = f
	go func() {
		f.change, f.err = h.rotate()
		h.mu.Lock()
		h.flight, h.err = nil, f.err
		h.mu.Unlock()
		close(f.done)
		select {
		case h.changed <- struct{}{}:
		default:
		}
	}()
	return f
}

func (h *Holder[T]) rotate() (Change[T], error) {
	start := time.Now()
	// It belongs to everyone, so nobody's context ends it.
	open, cancel := context.WithTimeout(context.Background(), h.config.Limit)
	defer cancel()
	value, expires, err := h.config.Open(open)
	if err != nil {
		return Change[T]{}, err
	}
	c := Change[T]{New: value}
	if old := h.swap(value, expires); old != nil {
		c.Old = old.value
		h.end(context.Background(), old, value)
	}
	c.Seconds = time.Since(start).Seconds()
	return c, nil
}

// swap makes a value the current one and returns the generation before.
func (h *Holder[T]) swap(value T, expires time.Time) *generation[T] {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.current
	h.current = &generation[T]{value: value, since: time.Now(), expires: expires,
		replaced: make(chan struct{}), idle: make(chan struct{})}
	h.count++
	h.err = nil
	h.retire(old)
	return old
}

func (h *Holder[T]) retire(g *generation[T]) {
	if g == nil {
		return
	}
	close(g.replaced)
	if g.users == 0 {
		close(g.idle)
	}
}

// end closes a generation when its last user is done, or has had time enough.
func (h *Holder[T]) end(ctx context.Context, g *generation[T], next T) {
	drain, cancel := context.WithTimeout(ctx, h.config.Limit)
	defer cancel()
	select {
	case <-g.idle:
	case <-drain.Done():
		h.config.Log.Warn("a rotated value is still in use and is closed now")
	}
	ctx, cancel = context.WithTimeout(ctx, h.config.Limit)
	defer cancel()
	h.config.Close(ctx, g.value, next)
}

// Run rotates when it is time, for ever: at once while there is nothing, then after
// two thirds of a value's life. While that fails the value stays in use and the next
// try is soon.
func (h *Holder[T]) Run(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.changed:
			// What failed on demand is tried again as well.
			if failures = max(failures, 1); h.State().Err == nil {
				failures = 0
			}
			continue
		case <-time.After(h.wait(failures)):
		}
		if _, err := h.Rotate(ctx); err != nil && ctx.Err() == nil {
			failures++
			h.config.Log.Warn("rotation failed", "error", err.Error(), "failures", failures)
		}
	}
}

func (h *Holder[T]) wait(failures int) time.Duration {
	if failures > 0 {
		return backoff(failures)
	}
	s := h.State()
	if s.Since.IsZero() {
		return 0
	}
	return time.Until(due(s.Since, s.Expires))
}

// due is after two thirds of a life, or a little earlier: so that what was started
// together does not rotate together.
func due(since, expires time.Time) time.Time {
	life := max(expires.Sub(since), 0)
	return since.Add(jitter(life * 2 / 3))
}

// backoff doubles from half a second to five: somebody waits for the recovery.
func backoff(failures int) time.Duration {
	return jitter(min(500*time.Millisecond<<min(failures-1, 10), 5*time.Second))
}

// jitter takes up to a tenth off.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/10+1)
}

// Close closes the current value, as far as the context gives it time. Run must have
// ended.
func (h *Holder[T]) Close(ctx context.Context) {
	h.mu.Lock()
	f := h.flight
	h.mu.Unlock()
	if f != nil {
		select {
		case <-f.done:
		case <-ctx.Done():
		}
	}
	h.mu.Lock()
	g := h.current
	h.current, h.err = nil, errors.New("shutting down")
	h.retire(g)
	h.mu.Unlock()
	if g != nil {
		var none T
		h.end(ctx, g, none)
	}
}

package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errStale = errors.New("no longer accepted")

// maker makes values that count up, and remembers which are open.
type maker struct {
	mu     sync.Mutex
	made   int
	life   time.Duration
	fail   error
	slow   time.Duration
	closed map[int]int // value → the one after it
}

func (m *maker) config() Config[int] {
	return Config[int]{
		Open: func(ctx context.Context) (int, time.Time, error) {
			time.Sleep(m.slow)
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.fail != nil {
				return 0, time.Time{}, m.fail
			}
			m.made++
			return m.made, time.Now().Add(m.life), nil
		},
		Close: func(_ context.Context, old, next int) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.closed[old] = next
		},
		Stale: func(err error) bool { return errors.Is(err, errStale) },
		Log:   slog.New(slog.DiscardHandler),
	}
}

func newMaker() *maker { return &maker{life: time.Hour, closed: map[int]int{}} }

func (m *maker) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func TestRunRotatesAfterTwoThirds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		h := New(m.config())
		if err := h.Use(t.Context(), func(int) error { return nil }); !errors.Is(err, ErrNothing) {
			t.Errorf("before the first: %v", err)
		}
		ctx, stop := context.WithCancel(t.Context())
		go h.Run(ctx)
		time.Sleep(time.Second)
		if s := h.State(); s.Rotations != 0 || s.Err != nil || time.Until(s.Expires).Round(time.Minute) != time.Hour {
			t.Errorf("at first: %+v", s)
		}
		time.Sleep(35 * time.Minute) // 40 minus a tenth is 36
		if n := h.State().Rotations; n != 0 {
			t.Errorf("%d rotations too early", n)
		}
		time.Sleep(6 * time.Minute)
		if n := h.State().Rotations; n != 1 {
			t.Errorf("%d rotations after 41 minutes", n)
		}
		// A rotation on demand is one: the next is due two thirds later.
		if _, err := h.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(35 * time.Minute)
		if n := h.State().Rotations; n != 2 {
			t.Errorf("%d rotations, want the schedule to start again", n)
		}
		time.Sleep(10 * time.Hour)
		if n := h.State().Rotations; n < 16 || n > 18 {
			t.Errorf("%d rotations after ten hours more", n)
		}
		stop()
		synctest.Wait()
		h.Close(t.Context())
		if len(m.closed) != m.made {
			t.Errorf("%d of %d values closed", len(m.closed), m.made)
		}
	})
}

func TestWhatFailsIsTriedAgainAndTheOldOneIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		h := New(m.config())
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		broken := errors.New("sealed")
		m.set(func() { m.fail = broken })
		go h.Run(ctx)
		time.Sleep(time.Minute)
		if err := h.Use(ctx, func(int) error { return nil }); !errors.Is(err, broken) {
			t.Errorf("without a value: %v, want the reason", err)
		}
		m.set(func() { m.fail = nil })
		time.Sleep(5 * time.Second)
		if s := h.State(); s.Since.IsZero() || s.Err != nil {
			t.Errorf("five seconds later: %+v", s)
		}
		m.set(func() { m.fail = broken })
		time.Sleep(50 * time.Minute)
		used := 0
		if err := h.Use(ctx, func(v int) error { used = v; return nil }); err != nil || used != 1 {
			t.Errorf("the old one: %d, %v", used, err)
		}
		if s := h.State(); !errors.Is(s.Err, broken) || s.Rotations != 0 {
			t.Errorf("state %+v", s)
		}
		m.set(func() { m.fail = nil })
		time.Sleep(5 * time.Second)
		if s := h.State(); s.Err != nil || s.Rotations != 1 {
			t.Errorf("after the outage: %+v", s)
		}
	})
}

// A demand that fails must not leave its error behind for as long as the value lives.
func TestAFailedDemandIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		h := New(m.config())
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go h.Run(ctx)
		time.Sleep(time.Second)
		m.set(func() { m.fail = errors.New("sealed") })
		if _, err := h.Rotate(ctx); err == nil {
			t.Error("it did not fail")
		}
		m.set(func() { m.fail = nil })
		time.Sleep(2 * time.Second)
		if s := h.State(); s.Err != nil || s.Rotations != 1 {
			t.Errorf("state %+v", s)
		}
	})
}

func TestARotationWaitsForItsUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		h := New(m.config())
		if _, err := h.Rotate(t.Context()); err != nil {
			t.Fatal(err)
		}
		go h.Use(t.Context(), func(int) error { time.Sleep(3 * time.Second); return nil })
		synctest.Wait()
		go func() {
			time.Sleep(time.Second) // the new one is there, the old one is in use
			if err := h.Use(t.Context(), func(v int) error {
				if v != 2 {
					return fmt.Errorf("got %d", v)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			if len(m.closed) != 0 {
				t.Error("it was closed while in use")
			}
		}()
		c, err := h.Rotate(t.Context())
		if err != nil || c.Old != 1 || c.New != 2 || c.Seconds < 2.9 || c.Seconds > 3.1 || m.closed[1] != 2 {
			t.Errorf("got %+v, %v, closed %v", c, err, m.closed)
		}
	})
}

func TestWhoNeverEndsIsNotWaitedForForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		h := New(m.config())
		_, _ = h.Rotate(t.Context())
		end := make(chan struct{})
		go h.Use(t.Context(), func(int) error { <-end; return nil })
		synctest.Wait()
		c, err := h.Rotate(t.Context())
		if err != nil || c.Seconds < 14 || c.Seconds > 16 {
			t.Errorf("got %+v, %v", c, err)
		}
		close(end)
	})
}

func TestDemandsShareARotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		m.slow = time.Second
		h := New(m.config())
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.Rotate(gone); !errors.Is(err, context.Canceled) {
			t.Errorf("whoever went away: %v", err)
		}
		var wait sync.WaitGroup
		for range 10 {
			wait.Go(func() {
				if c, err := h.Rotate(t.Context()); err != nil || c.New != 1 {
					t.Errorf("got %+v, %v", c, err)
				}
			})
		}
		wait.Wait()
		if m.made != 1 {
			t.Errorf("%d rotations", m.made)
		}
	})
}

func TestAStaleValueIsReplacedAndTheUseRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMaker()
		h := New(m.config())
		_, _ = h.Rotate(t.Context())
		onlyFrom := func(least int) func(int) error {
			return func(v int) error {
				if v < least {
					return fmt.Errorf("value %d: %w", v, errStale)
				}
				return nil
			}
		}
		var wait sync.WaitGroup
		for range 10 {
			wait.Go(func() {
				if err := h.Use(t.Context(), onlyFrom(2)); err != nil {
					t.Error(err)
				}
			})
		}
		wait.Wait()
		if m.made != 2 {
			t.Errorf("%d values for one that went stale", m.made)
		}
		// What is refused for ever is not replaced for ever.
		for range 10 {
			if err := h.Use(t.Context(), onlyFrom(100)); !errors.Is(err, errStale) {
				t.Errorf("got %v", err)
			}
		}
		if m.made > 3 {
			t.Errorf("%d values within no time", m.made)
		}
		time.Sleep(3 * time.Second)
		m.set(func() { m.fail = errors.New("sealed") })
		if err := h.Use(t.Context(), onlyFrom(100)); !errors.Is(err, errStale) || !errors.Is(err, m.fail) {
			t.Errorf("got %v, want both reasons", err)
		}
		// Other errors are their own.
		own := errors.New("own")
		if err := h.Use(t.Context(), func(int) error { return own }); !errors.Is(err, own) || errors.Is(err, errStale) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Second)
	})
}

func TestBackoff(t *testing.T) {
	for failures, most := range map[int]time.Duration{1: 500 * time.Millisecond, 2: time.Second, 4: 4 * time.Second, 5: 5 * time.Second, 1000: 5 * time.Second} {
		if got := backoff(failures); got > most || got < most*8/10 {
			t.Errorf("after %d failures %s, want about %s", failures, got, most)
		}
	}
}

func ExampleHolder() {
	h := New(Config[string]{
		Open:  func(context.Context) (string, time.Time, error) { return "a pool", time.Now().Add(time.Hour), nil },
		Close: func(context.Context, string, string) {},
		Stale: func(error) bool { return false },
		Log:   slog.New(slog.DiscardHandler),
	})
	_, _ = h.Rotate(context.Background())
	_ = h.Use(context.Background(), func(v string) error {
		fmt.Println("with", v)
		return nil
	})
	// Output: with a pool
}

package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// play runs phases with one of everything, on synctest's clock, and calls at after 2.05
// seconds, in the middle.
func play(t *testing.T, term *Terminal, at func()) {
	t.Helper()
	sleep := func(ctx context.Context, d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	check := func(name string, d time.Duration, ev phase.Evidence, err error) phase.Check {
		return phase.Check{Name: name, Run: func(ctx context.Context) (phase.Evidence, error) {
			if err := sleep(ctx, d); err != nil {
				return ev, err
			}
			return ev, err
		}}
	}
	cluster := &phase.Phase{Name: "cluster", Doc: "A cluster runs.",
		Apply: func(ctx context.Context) error {
			for i := range 4 {
				phase.Progress(ctx, "node %d of 3\x1b[2J", min(i+1, 3)) // the last one twice
				if err := sleep(ctx, 300*time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		},
		Checks: []phase.Check{check("nodes ready", 100*time.Millisecond, phase.Evidence{Got: "3 of 3"}, nil)}}
	network := &phase.Phase{Name: "network-policies", Needs: []*phase.Phase{cluster},
		Apply: func(ctx context.Context) error {
			phase.Progress(ctx, "%s", strings.Repeat("long ", 30))
			return sleep(ctx, 40*time.Second)
		},
		Checks: []phase.Check{check("healthy", 0, phase.Evidence{}, nil)}}
	edges := &phase.Phase{Name: "edges", Needs: []*phase.Phase{cluster}, Serial: true,
		Checks: []phase.Check{
			check("a → b", 500*time.Millisecond, phase.Evidence{}, phase.Want("dropped", "an answer")),
			check("b → a", 2*time.Second, phase.Evidence{}, errors.New("no flow")),
		}}
	later := &phase.Phase{Name: "later", Needs: []*phase.Phase{edges}, Checks: []phase.Check{check("c", 0, phase.Evidence{}, nil)}}
	go func() {
		time.Sleep(2050 * time.Millisecond) // synctest's clock
		at()
	}()
	_, err := phase.Run(t.Context(), []*phase.Phase{cluster, network, edges, later}, term.On)
	if err == nil {
		t.Error("the run passed")
	}
	if err := term.Close(); err != nil {
		t.Error(err)
	}
}

func TestPlain(t *testing.T) {
	// The lines have the time of the day, and synctest's clock starts at midnight in UTC.
	zone := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = zone })
	for _, color := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var b bytes.Buffer
			term := NewTerminal(&b, TerminalConfig{Color: color})
			play(t, term, func() {})
			// Phases that run at the same time have no order, so each is told on its own.
			all := slices.Collect(strings.Lines(b.String()))
			slices.SortStableFunc(all, func(a, b string) int {
				return strings.Compare(strings.Fields(a)[1], strings.Fields(b)[1])
			})
			lines := strings.Join(all, "")
			if color {
				golden(t, "plain-color.txt", lines)
			} else {
				golden(t, "plain.txt", lines)
				if strings.Contains(lines, "\x1b") {
					t.Error("escapes in plain output")
				}
			}
		})
	}
}

func TestLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{t: t, width: 50}
		term := NewTerminal(s, TerminalConfig{Live: true, Width: 50})
		var middle []string
		play(t, term, func() { middle = s.show() })
		want := []string{
			"✓ cluster           passed in 1.3s",
			"✗ edges             a → b: failed: want dropped; g", "ot an answer",
			"⠋ network-policies     0.7s  long long long long…",
			"⠋ edges                0.7s  checking: b → a",
		}
		// Any frame of the spinner will do, and the order of phases that started together.
		for i, line := range middle {
			for _, c := range "⠙⠹⠸⠼⠴⠦⠧⠇⠏" {
				line = strings.Replace(line, string(c), "⠋", 1)
			}
			middle[i] = line
		}
		if n := len(middle); n > 1 && strings.Contains(middle[n-2], "edges") {
			middle[n-2], middle[n-1] = middle[n-1], middle[n-2]
		}
		if diff := cmp.Diff(want, middle); diff != "" {
			t.Errorf("in the middle (-want +got):\n%s", diff)
		}
		want = []string{
			"✓ cluster           passed in 1.3s",
			"✗ edges             a → b: failed: want dropped; g", "ot an answer",
			"? edges             b → a: could not tell: no flow",
			"✗ edges             failed in 2.5s",
			`- later             skipped: it needs "edges", whi`, "ch failed",
			"✓ network-policies  passed in 40.0s",
		}
		if diff := cmp.Diff(want, s.show()); diff != "" {
			t.Errorf("at the end (-want +got):\n%s", diff)
		}
	})
}

func TestLiveColorAndNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &screen{t: t, width: 10}
		term := NewTerminal(s, TerminalConfig{Live: true, Width: 10, Color: true})
		play(t, term, func() {
			lines := s.show()
			for _, l := range lines[len(lines)-2:] {
				if len([]rune(l)) > 9 {
					t.Errorf("live line %q fills the line, and the terminal will wrap it", l)
				}
			}
		})
		if !strings.Contains(s.raw.String(), "\x1b[32m✓\x1b[0m") || !strings.Contains(s.raw.String(), "\x1b[31mfailed\x1b[0m") {
			t.Error("outcomes have no colour")
		}
	})
}

func TestTerminalCloses(t *testing.T) {
	var b bytes.Buffer
	unused := NewTerminal(&b, TerminalConfig{Live: true})
	if err := errors.Join(unused.Close(), unused.Close()); err != nil || b.Len() != 0 {
		t.Errorf("an unused one: %v, wrote %q", err, &b)
	}
	unused.On(phase.Event{Kind: phase.PhaseStarted, Phase: "p", Time: time.Now()})
	if b.Len() != 0 {
		t.Errorf("wrote after Close: %q", &b)
	}

	// A run that was left in the middle: its live lines go, what is for good stays.
	s := &screen{t: t, width: 80}
	term := NewTerminal(s, TerminalConfig{Live: true})
	for _, e := range []phase.Event{
		{Kind: phase.PhaseStarted, Phase: "done"}, {Kind: phase.PhaseStarted, Phase: "hangs"},
		{Kind: phase.PhaseDone, Phase: "done", Status: phase.Passed},
	} {
		e.Time = time.Now()
		term.On(e)
	}
	if got := s.show(); len(got) != 2 || !strings.Contains(got[1], "hangs") {
		t.Errorf("before: %q", got)
	}
	if err := term.Close(); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"✓ done  passed"}, s.show()); diff != "" {
		t.Error(diff)
	}
}

// screen is as much of a terminal as the live output needs: lines that wrap, a cursor
// that goes up, clearing to the end, and colours, which it ignores. Anything
// else fails the test.
type screen struct {
	t     *testing.T
	width int

	mu    sync.Mutex
	lines [][]rune
	row   int
	col   int
	raw   bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.raw.Write(p)
	for rest := string(p); rest != ""; {
		if code, after, ok := strings.Cut(rest, "m"); ok && strings.HasPrefix(code, "\x1b[") && strings.Trim(code[2:], "0123456789") == "" {
			rest = after
			continue
		}
		var n int
		if _, err := fmt.Sscanf(rest, "\x1b[%dA", &n); err == nil {
			if s.row -= n; s.row < 0 {
				s.t.Errorf("the cursor goes above the screen")
				s.row = 0
			}
			rest = rest[len(fmt.Sprintf("\x1b[%dA", n)):]
			continue
		}
		if after, ok := strings.CutPrefix(rest, "\x1b[J"); ok {
			for len(s.lines) > s.row+1 {
				s.lines = s.lines[:len(s.lines)-1]
			}
			if s.row < len(s.lines) {
				s.lines[s.row] = s.lines[s.row][:s.col]
			}
			rest = after
			continue
		}
		r := []rune(rest)[0]
		rest = rest[len(string(r)):]
		switch {
		case r == '\n':
			s.row, s.col = s.row+1, 0
		case r == '\r':
			s.col = 0
		case r < ' ':
			s.t.Errorf("control character %q in %q", r, p)
		default:
			if s.col == s.width {
				s.row, s.col = s.row+1, 0
			}
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, nil)
			}
			line := append(s.lines[s.row][:min(s.col, len(s.lines[s.row]))], r)
			s.lines[s.row], s.col = line, s.col+1
		}
	}
	return len(p), nil
}

func (s *screen) show() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, l := range s.lines {
		out = append(out, string(l))
	}
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

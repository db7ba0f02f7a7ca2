package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
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

func TestJSON(t *testing.T) {
	for name, r := range reports() {
		var b bytes.Buffer
		if err := JSON(&b, r); err != nil {
			t.Fatal(err)
		}
		if shown(name) {
			golden(t, name+".json", b.String())
		}
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
	for name, r := range reports() {
		var b bytes.Buffer
		if err := Summary(&b, r); err != nil {
			t.Fatal(err)
		}
		if shown(name) {
			golden(t, name+".txt", b.String())
		}
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
		"JUnit": JUnit(&full{}, mixed()), "Markdown": Markdown(&full{}, mixed(), MarkdownConfig{}), "HTML": HTML(&full{}, mixed()),
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
	if got := Printable(" a\tb\n\x1b[2Jc\u202e d\x00"); got != "a b ·[2Jc· d·" {
		t.Errorf("printable: %q", got)
	}
	if Printable("→ ✓ 值") != "→ ✓ 值" {
		t.Error("printable loses letters")
	}
}

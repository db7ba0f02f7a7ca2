package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/org/spire-vault-99-action/internal/golden"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// commands are the workflow commands that the runner would find in a log, as it reads it: at
// the start of a line in the new syntax, anywhere in the old one, and none between
// stop-commands and its token.
func commands(log string) []string {
	var all []string
	stop := ""
	for l := range strings.SplitSeq(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(log), "\n") {
		l = strings.TrimSpace(l)
		if stop != "" {
			if l == "::"+stop+"::" {
				stop = ""
			}
			continue
		}
		if token, ok := strings.CutPrefix(l, "::stop-commands::"); ok {
			stop = token
			continue
		}
		name, _, ok := strings.Cut(strings.TrimPrefix(l, "::"), "::")
		if strings.HasPrefix(l, "::") && ok {
			name, _, _ = strings.Cut(name, " ")
			all = append(all, name)
		}
		if _, old, ok := strings.Cut(l, "##["); ok {
			all = append(all, "##["+old)
		}
	}
	return all
}

func none(string) string { return "" }

// interleaved is a run in which two phases go on at the same time, and one is skipped.
func interleaved(said string) []phase.Event {
	s := func(x float64) time.Duration { return time.Duration(x * float64(time.Second)) }
	return []phase.Event{
		{Kind: phase.PhasePlanned, Phase: "cluster", Text: "A cluster runs."},
		{Kind: phase.PhasePlanned, Phase: "cilium", Text: "It has a network."},
		{Kind: phase.PhasePlanned, Phase: "spire", Text: "It has identities."},
		{Kind: phase.PhasePlanned, Phase: "apps", Text: "It has work."},
		{Kind: phase.PhaseStarted, Phase: "cluster"},
		{Kind: phase.PhaseProgress, Phase: "cluster", Text: "making it " + said, Elapsed: s(1)},
		{Kind: phase.PhaseApplied, Phase: "cluster", Elapsed: s(40)},
		{Kind: phase.CheckDone, Phase: "cluster", Check: "nodes ready", Status: phase.Passed, Text: "3", Elapsed: s(0.1)},
		{Kind: phase.PhaseDone, Phase: "cluster", Status: phase.Passed, Elapsed: s(41)},
		{Kind: phase.PhaseStarted, Phase: "cilium"},
		{Kind: phase.PhaseStarted, Phase: "spire"},
		{Kind: phase.PhaseProgress, Phase: "spire", Text: "server ready", Elapsed: s(5)},
		{Kind: phase.PhaseProgress, Phase: "cilium", Text: "release made", Elapsed: s(6)},
		{Kind: phase.CheckDone, Phase: "spire", Check: "agents " + said, Status: phase.Failed, Text: said, Elapsed: s(7)},
		{Kind: phase.PhaseDone, Phase: "spire", Status: phase.Failed, Text: said, Elapsed: s(8)},
		{Kind: phase.PhaseDone, Phase: "apps", Status: phase.Skipped, Text: `it needs "spire", which failed`},
		{Kind: phase.PhaseProgress, Phase: "cilium", Check: "healthy", Text: "2 of 3", Elapsed: s(9)},
		{Kind: phase.PhaseDone, Phase: "cilium", Status: phase.Unknown, Elapsed: s(20)},
	}
}

func TestLog(t *testing.T) {
	var b bytes.Buffer
	l := newLog(&b, none)
	for _, e := range interleaved("slowly") {
		l.on(e)
	}
	l.annotate(annotationsOf(broken("nothing"), "zerotrust.yaml"))
	l.fail(errors.New("a\nb"))
	golden.Equal(t, "testdata/log.txt", b.Bytes())
}

// What is shown of the phase whose group is open is shown at once.
func TestLogIsLive(t *testing.T) {
	var b bytes.Buffer
	l := newLog(&b, none)
	for _, e := range interleaved("slowly") {
		before := b.Len()
		l.on(e)
		if e.Phase == "cluster" && e.Kind == phase.PhaseProgress && b.Len() == before {
			t.Error("a line of the open group has to wait")
		}
	}
}

// Groups are never inside each other, and each phase that began has one.
func TestGroups(t *testing.T) {
	var b bytes.Buffer
	l := newLog(&b, none)
	for _, e := range interleaved("x") {
		l.on(e)
	}
	want := slices.Repeat([]string{"group", "endgroup"}, 3)
	if got := commands(b.String()); !slices.Equal(got, want) {
		t.Errorf("the commands are %q, want %q", got, want)
	}
}

func TestNothingSaidIsACommand(t *testing.T) {
	for _, said := range evil {
		var b bytes.Buffer
		l := newLog(&b, none)
		for _, e := range interleaved(said) {
			l.on(e)
		}
		l.quote("log of "+said, said+"\n::end-AAAA::\n::error::x\n")
		l.say("%s", said)
		l.group(said, []string{said})
		l.annotate(annotationsOf(broken(said), said))
		l.fail(errors.New(said))
		for _, c := range commands(b.String()) {
			if !slices.Contains([]string{"group", "endgroup", "error", "warning"}, c) {
				t.Errorf("%q makes the command %q in\n%s", said, c, b.String())
			}
		}
		errs := strings.Count(strings.Join(commands(b.String()), " "), "error")
		if want := 1 + 3; errs != want { // fail, and what failed in the report
			t.Errorf("%q makes %d errors, want %d", said, errs, want)
		}
		if strings.ContainsAny(b.String(), "\x1b\x00") {
			t.Errorf("%q steers the terminal: %q", said, b.String())
		}
	}
}

func TestAnnotationsWorstFirstTenAtMost(t *testing.T) {
	got := annotationsOf(broken("x"), "")
	var titles []string
	for _, a := range got {
		titles = append(titles, a.title)
	}
	want := []string{"edges, intruder → a:80", "apps", "edges, b → a:80", "edges, a → b:80"}
	if !slices.Equal(titles, want) {
		t.Errorf("the order is %q, want %q", titles, want)
	}
	if got[0].warning || !got[3].warning {
		t.Error("a failure is an error, what could not be told a warning")
	}
	r := broken("x")
	for i := range 200 {
		r.Phases[1].Checks = append(r.Phases[1].Checks, phase.CheckResult{Name: fmt.Sprint(i), Status: phase.Failed, Started: at(1), Err: phase.Want("a", "b")})
	}
	if got = annotationsOf(r, ""); len(got) != 10 || !strings.Contains(got[9].text, "195 more") || got[0].title != want[0] {
		t.Errorf("of 204, %d are shown, the last one %+v", len(got), got[len(got)-1])
	}
	if got := annotationsOf(proven(), ""); len(got) != 0 {
		t.Errorf("a proven report has the annotations %v", got)
	}
}

func TestMasks(t *testing.T) {
	var b bytes.Buffer
	l := newLog(&b, none)
	key := []byte("-----BEGIN RSA PRIVATE KEY-----\nMIIEfirst\nMIIEsecond\n-----END RSA PRIVATE KEY-----\n")
	cfg := &api.Config{AuthInfos: map[string]*api.AuthInfo{
		"a": {Token: "tok\r\n::set-output name=x::y", Password: "pass", ClientKeyData: key},
		"b": {Exec: &api.ExecConfig{Env: []api.ExecEnvVar{{Name: "AWS_PROFILE", Value: "default"}, {Name: "API_TOKEN", Value: "exec-secret"}}}},
	}}
	for _, s := range secretsOf(cfg) {
		l.mask(s)
	}
	for _, secret := range []string{"tok", "pass", base64.StdEncoding.EncodeToString(key), "MIIEfirst", "MIIEsecond", "exec-secret"} {
		if !strings.Contains(b.String(), "::add-mask::"+secret+"\n") {
			t.Errorf("%q is not masked by\n%s", secret, b.String())
		}
		if got := l.redact("x " + secret + " y"); strings.Contains(got, secret) {
			t.Errorf("%q is shown as %q", secret, got)
		}
	}
	if regexp.MustCompile(`add-mask::(default|-----)`).MatchString(b.String()) {
		t.Errorf("a word that is no secret is masked by\n%s", b.String())
	}
	for _, c := range commands(b.String()) {
		if c != "add-mask" {
			t.Errorf("a secret makes the command %s", c)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

// A log that cannot be written ends nothing.
func TestLogThatCannotBeWritten(t *testing.T) {
	l := newLog(full{}, none)
	for _, e := range interleaved("x") {
		l.on(e)
	}
	l.mask("x")
	l.quote("a", "b")
	l.fail(errors.New("x"))
}

package attest

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

func run(t *testing.T, second error) phase.Report {
	t.Helper()
	check := func(name string, err error) phase.Check {
		return phase.Check{Name: name, Run: func(ctx context.Context) (phase.Evidence, error) {
			phase.Note(ctx, "image backend", "sha256:"+strings.Repeat("ab", 32))
			phase.Note(ctx, "vault", "1.21.0")
			return phase.Evidence{}, err
		}}
	}
	first := &phase.Phase{Name: "apps", Checks: []phase.Check{check("a", nil), check("b", second)}}
	r, _ := phase.Run(t.Context(), []*phase.Phase{first, {Name: "4D", Needs: []*phase.Phase{first}, Checks: []phase.Check{check("c", nil)}}}, nil)
	return r
}

type statement struct {
	Type          string `json:"_type"`
	PredicateType string
	Subject       []struct {
		Name   string
		Digest map[string]string
	}
	Predicate struct {
		Result                   string
		Configuration            []struct{ Name string }
		PassedTests, FailedTests []string
	}
}

func TestStatement(t *testing.T) {
	for name, tc := range map[string]struct {
		err            error
		result         string
		passed, failed []string
	}{
		"all passed":         {nil, "PASSED", []string{"apps: a", "apps: b", "4D: c"}, nil},
		"one failed":         {phase.Want("x", "y"), "FAILED", []string{"apps: a"}, []string{"apps: b", "4D", "4D: c"}},
		"one not to be told": {errors.New("no answer"), "FAILED", []string{"apps: a"}, []string{"apps: b", "4D", "4D: c"}},
	} {
		text, err := Statement(run(t, tc.err), "zerotrust.yaml", []byte("version: 1\n"))
		if err != nil {
			t.Fatal(err)
		}
		var s statement
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if s.Type != "https://in-toto.io/Statement/v1" || s.PredicateType != PredicateType || len(s.Subject) != 1 || s.Subject[0].Name != "backend" ||
			s.Subject[0].Digest["sha256"] != strings.Repeat("ab", 32) || s.Predicate.Configuration[0].Name != "zerotrust.yaml" {
			t.Errorf("%s: %+v\n%s", name, s, text)
		}
		if p := s.Predicate; p.Result != tc.result || !slices.Equal(p.PassedTests, tc.passed) || !slices.Equal(p.FailedTests, tc.failed) {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if _, err := Statement(phase.Report{}, "x", nil); err == nil || !strings.Contains(err.Error(), "no image's digest") {
		t.Errorf("an empty report: %v", err)
	}
}

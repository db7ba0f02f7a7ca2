package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// readJUnit reads a document as a CI system does, and counts for itself.
func readJUnit(t testing.TB, r phase.Report) testsuites {
	t.Helper()
	var b bytes.Buffer
	if err := JUnit(&b, r); err != nil {
		t.Fatal(err)
	}
	var doc testsuites
	dec := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	if err := dec.Decode(&doc); err != nil {
		t.Fatalf("%v in\n%s", err, &b)
	}
	if rest, err := dec.Token(); err != nil || strings.TrimSpace(string(rest.(xml.CharData))) != "" {
		t.Errorf("after the document: %q, %v", rest, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
	seconds, at := regexp.MustCompile(`^\d+\.\d{3}$`), regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$`)
	tests, failures, errs := 0, 0, 0
	for _, s := range doc.Suites {
		f, e, k := 0, 0, 0
		for _, c := range s.Cases {
			outcomes := 0
			for n, is := range map[*int]bool{&f: c.Failure != nil, &e: c.Error != nil, &k: c.Skipped != nil} {
				if is {
					*n++
					outcomes++
				}
			}
			if outcomes > 1 || !strings.HasPrefix(c.Classname, "zerotrust.") || !seconds.MatchString(c.Time) {
				t.Errorf("test case %+v", c)
			}
		}
		if s.Tests != len(s.Cases) || s.Failures != f || s.Errors != e || s.Skipped != k {
			t.Errorf("suite %q says %d tests, %d failures, %d errors, %d skipped", s.Name, s.Tests, s.Failures, s.Errors, s.Skipped)
		}
		if !seconds.MatchString(s.Time) || s.Timestamp != "" && !at.MatchString(s.Timestamp) {
			t.Errorf("suite %q: time %q, timestamp %q", s.Name, s.Time, s.Timestamp)
		}
		if len(s.Properties) != len(r.Metadata) {
			t.Errorf("suite %q has the properties %v", s.Name, s.Properties)
		}
		tests, failures, errs = tests+s.Tests, failures+f, errs+e
	}
	if doc.Tests != tests || doc.Failures != failures || doc.Errors != errs || !seconds.MatchString(doc.Time) {
		t.Errorf("all say %d tests, %d failures, %d errors, time %q", doc.Tests, doc.Failures, doc.Errors, doc.Time)
	}
	if green := failures+errs == 0; green != r.OK() {
		t.Errorf("the report is OK: %t, the document is green: %t", r.OK(), green)
	}
	return doc
}

func TestJUnit(t *testing.T) {
	for name, r := range reports() {
		var b bytes.Buffer
		if err := JUnit(&b, r); err != nil {
			t.Fatal(err)
		}
		if shown(name) {
			golden(t, name+".xml", b.String())
		}
		readJUnit(t, r)
	}

	find := func(name string) testcase {
		for _, s := range readJUnit(t, mixed()).Suites {
			for _, c := range s.Cases {
				if s.Name+" "+c.Name == name {
					return c
				}
			}
		}
		t.Fatalf("no test case %q", name)
		return testcase{}
	}
	if c := find("edges a → b:80"); c.Failure == nil || c.Failure.Message != "want dropped; got an answer with ·[31mescapes·[0m and lines" ||
		!strings.Contains(c.Failure.Body, "expected: dropped\nseen: an answer") || !strings.Contains(c.Failure.Body, "how to fix: See the policies.\n| flow 1\n| flow 2\n") {
		t.Errorf("a failed check: %+v", c.Failure)
	}
	if c := find("edges b → a:80"); c.Error == nil || c.Error.Message != "no flow was heard" {
		t.Errorf("a check that could not tell: %+v", c)
	}
	if c := find("apps apply"); c.Error == nil || c.Error.Message != "apply Deployment a/b: no image" {
		t.Errorf("a failed Apply: %+v", c)
	}
	if c := find("slow phase"); c.Error == nil || c.Error.Type != "cancelled" {
		t.Errorf("a cancelled phase: %+v", c)
	}
	if c := find("journey login"); c.Skipped == nil {
		t.Errorf("a check that was not run: %+v", c)
	}
	if c := find("cluster nodes ready"); !strings.Contains(c.SystemOut, "seen: 3\n") {
		t.Errorf("a proof: %+v", c)
	}
}

// TestJUnitIsNotGreenByOmission: a report may be amiss without any check that is.
func TestJUnitIsNotGreenByOmission(t *testing.T) {
	passed := []phase.CheckResult{{Name: "c", Status: phase.Passed, Started: time.Now()}}
	for what, r := range map[string]phase.Report{
		"nothing was run":              {},
		"a phase without checks":       {Phases: []phase.Result{{Name: "p", Status: phase.Passed}}},
		"a phase that is not passed":   {Phases: []phase.Result{{Name: "p", Checks: passed}}},
		"a passed phase with an error": {Phases: []phase.Result{{Name: "p", Status: phase.Passed, Err: errors.New("e"), Checks: passed}}},
		"an unasked check":             {Phases: []phase.Result{{Name: "p", Status: phase.Passed, Checks: []phase.CheckResult{{Name: "c"}}}}},
		"cancelled before its start":   cancelled(),
		"time that goes backwards":     {Started: time.Now(), Phases: []phase.Result{{Duration: -1}}},
	} {
		t.Run(what, func(t *testing.T) { readJUnit(t, r) })
	}
}

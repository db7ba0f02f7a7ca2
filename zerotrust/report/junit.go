package report

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// The elements and attributes that Jenkins, GitLab and the GitHub actions have in common:
// https://github.com/jenkinsci/xunit-plugin/blob/master/src/main/resources/org/jenkinsci/plugins/xunit/types/model/xsd/junit-10.xsd
type testsuites struct {
	XMLName  xml.Name    `xml:"testsuites"`
	Name     string      `xml:"name,attr"`
	Tests    int         `xml:"tests,attr"`
	Failures int         `xml:"failures,attr"`
	Errors   int         `xml:"errors,attr"`
	Time     string      `xml:"time,attr"`
	Suites   []testsuite `xml:"testsuite"`
}

type testsuite struct {
	Name       string     `xml:"name,attr"`
	Tests      int        `xml:"tests,attr"`
	Failures   int        `xml:"failures,attr"`
	Errors     int        `xml:"errors,attr"`
	Skipped    int        `xml:"skipped,attr"`
	Time       string     `xml:"time,attr"`
	Timestamp  string     `xml:"timestamp,attr,omitempty"`
	Properties []property `xml:"properties>property"`
	Cases      []testcase `xml:"testcase"`
}

type property struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type testcase struct {
	Name      string  `xml:"name,attr"`
	Classname string  `xml:"classname,attr"`
	Time      string  `xml:"time,attr"`
	Skipped   *reason `xml:"skipped"`
	Error     *reason `xml:"error"`
	Failure   *reason `xml:"failure"`
	SystemOut string  `xml:"system-out,omitempty"`
}

type reason struct {
	Type    string `xml:"type,attr"`
	Message string `xml:"message,attr"`
	Body    string `xml:",chardata"`
}

// JUnit writes the report as JUnit XML: a test suite for each phase, with the metadata as its
// properties, and a test case for each check. A check that failed is a failure, one
// that could not tell an error, one that was not run is skipped. A phase with an error
// has a test case of its own for it, named "apply" or "phase": an error, or skipped
// where the phase was. Should none of this tell that the report is not OK, a suite
// "run" with the error "verdict" does: the document is green for a proven report alone.
//
// Texts are on one line, and characters that XML cannot hold are replaced.
func JUnit(w io.Writer, r phase.Report) error {
	doc := testsuites{Name: "zerotrust", Time: xmlSeconds(r.Ended.Sub(r.Started))}
	add := func(s testsuite) {
		for _, k := range slices.Sorted(maps.Keys(r.Metadata)) {
			s.Properties = append(s.Properties, property{Printable(k), Printable(r.Metadata[k])})
		}
		for _, c := range s.Cases {
			s.Tests++
			switch {
			case c.Failure != nil:
				s.Failures++
			case c.Error != nil:
				s.Errors++
			case c.Skipped != nil:
				s.Skipped++
			}
		}
		doc.Tests, doc.Failures, doc.Errors = doc.Tests+s.Tests, doc.Failures+s.Failures, doc.Errors+s.Errors
		doc.Suites = append(doc.Suites, s)
	}
	for _, p := range r.Phases {
		add(suiteOf(p))
	}
	if !r.OK() && doc.Failures+doc.Errors == 0 {
		add(testsuite{Name: "run", Time: doc.Time, Timestamp: xmlTime(r.Started), Cases: []testcase{{
			Name: "verdict", Classname: "zerotrust.run", Time: doc.Time, Error: &reason{Type: "unknown", Message: verdict(r)},
		}}})
	}
	out, err := xml.MarshalIndent(doc, "", "  ")
	if err == nil {
		_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, out)
	}
	if err != nil {
		return fmt.Errorf("report: write the JUnit report: %w", err)
	}
	return nil
}

func suiteOf(p phase.Result) testsuite {
	s := testsuite{Name: Printable(p.Name), Time: xmlSeconds(p.Duration), Timestamp: xmlTime(p.Started)}
	class := "zerotrust." + s.Name
	if p.Err != nil {
		c := testcase{Name: "phase", Classname: class, Time: xmlSeconds(p.Apply)}
		because := &reason{Type: p.Status.String(), Message: Printable(p.Err.Error())}
		switch p.Status {
		case phase.Skipped:
			c.Skipped = because
		case phase.Failed: // by its Apply: failed checks leave the phase no error
			c.Name, c.Error = "apply", because
		default:
			c.Error = because
		}
		s.Cases = append(s.Cases, c)
	}
	for _, check := range p.Checks {
		c := testcase{Name: Printable(check.Name), Classname: class, Time: xmlSeconds(check.Duration)}
		because := &reason{Type: check.Status.String(), Message: cmp.Or(Printable(text(check.Err)), outcome(check)), Body: body(check)}
		switch {
		case check.Status == phase.Passed:
			c.SystemOut = body(check)
		case check.Status == phase.Failed:
			c.Failure = because
		case notRun(check):
			c.Skipped, because.Body = because, "" // the message is all there is
		default:
			c.Error = because
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

// body is all that a check has to tell, in lines.
func body(c phase.CheckResult) string {
	var b strings.Builder
	for _, l := range told(c) {
		fmt.Fprintf(&b, "%s: %s\n", l[0], l[1])
	}
	for _, d := range c.Evidence.Details {
		fmt.Fprintf(&b, "| %s\n", Printable(d))
	}
	return b.String()
}

// xmlSeconds is never negative, which the schema does not take.
func xmlSeconds(d time.Duration) string { return fmt.Sprintf("%.3f", max(d, 0).Seconds()) }

// xmlTime is in UTC, and has no zone, which old readers do not take.
func xmlTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05")
}

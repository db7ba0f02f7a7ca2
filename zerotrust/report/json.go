package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// SchemaVersion is the version of the document that JSON writes.
const SchemaVersion = 1

type document struct {
	SchemaVersion int               `json:"schemaVersion"`
	OK            bool              `json:"ok"`
	VerifyOnly    bool              `json:"verifyOnly"`
	Started       time.Time         `json:"started"`
	Ended         time.Time         `json:"ended"`
	Seconds       seconds           `json:"seconds"`
	Metadata      map[string]string `json:"metadata"`
	Phases        []phaseDocument   `json:"phases"`
}

type phaseDocument struct {
	Name         string          `json:"name"`
	Doc          string          `json:"doc,omitempty"`
	Needs        []string        `json:"needs"`
	Status       string          `json:"status"`
	Error        string          `json:"error,omitempty"`
	Started      time.Time       `json:"started,omitzero"`
	Seconds      seconds         `json:"seconds"`
	ApplySeconds seconds         `json:"applySeconds"`
	Checks       []checkDocument `json:"checks"`
}

type checkDocument struct {
	Name     string           `json:"name"`
	Doc      string           `json:"doc,omitempty"`
	Hint     string           `json:"hint,omitempty"`
	Edge     *edgeDocument    `json:"edge,omitempty"`
	Status   string           `json:"status"`
	Error    string           `json:"error,omitempty"`
	Started  time.Time        `json:"started,omitzero"`
	Seconds  seconds          `json:"seconds"`
	Evidence evidenceDocument `json:"evidence"`
}

type edgeDocument struct {
	From          string `json:"from"`
	To            string `json:"to"`
	Port          string `json:"port"`
	Allowed       bool   `json:"allowed"`
	Authenticated bool   `json:"authenticated"`
}

type evidenceDocument struct {
	Want    string   `json:"want,omitempty"`
	Got     string   `json:"got,omitempty"`
	Details []string `json:"details,omitempty"`
	Source  string   `json:"source,omitempty"`
}

type seconds float64

func inSeconds(d time.Duration) seconds { return seconds(math.Round(d.Seconds()*1000) / 1000) }

// JSON writes the report as the document that the package comment describes, indented,
// with a newline at its end.
func JSON(w io.Writer, r phase.Report) error {
	d := document{
		SchemaVersion: SchemaVersion, OK: r.OK(), VerifyOnly: r.VerifyOnly,
		Started: r.Started.UTC(), Ended: r.Ended.UTC(), Seconds: inSeconds(r.Ended.Sub(r.Started)),
		Metadata: r.Metadata, Phases: []phaseDocument{},
	}
	if d.Metadata == nil {
		d.Metadata = map[string]string{}
	}
	for _, p := range r.Phases {
		pd := phaseDocument{
			Name: p.Name, Doc: p.Doc, Needs: append([]string{}, p.Needs...), Status: p.Status.String(), Error: text(p.Err),
			Started: p.Started.UTC(), Seconds: inSeconds(p.Duration), ApplySeconds: inSeconds(p.Apply), Checks: []checkDocument{},
		}
		for _, c := range p.Checks {
			pd.Checks = append(pd.Checks, checkDocument{
				Name: c.Name, Doc: c.Doc, Hint: c.Hint, Edge: (*edgeDocument)(c.Edge), Status: c.Status.String(), Error: text(c.Err),
				Started: c.Started.UTC(), Seconds: inSeconds(c.Duration), Evidence: evidenceDocument(c.Evidence),
			})
		}
		d.Phases = append(d.Phases, pd)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return fmt.Errorf("report: write the JSON report: %w", err)
	}
	return nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

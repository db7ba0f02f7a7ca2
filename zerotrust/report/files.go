package report

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// files are the forms of a report, by the names that WriteFiles gives them.
var files = map[string]func(io.Writer, phase.Report) error{
	"report.json": JSON,
	"report.html": HTML,
	"junit.xml":   JUnit,
	"report.md":   func(w io.Writer, r phase.Report) error { return Markdown(w, r, MarkdownConfig{}) },
}

// WriteFiles writes the report to a folder, which is made if it is not there:
// report.html, report.json, report.md and junit.xml. One that cannot be written does not
// keep the others.
func WriteFiles(dir string, r phase.Report) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	var all []error
	for name, write := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err == nil {
			err = errors.Join(write(f, r), f.Close())
		}
		if err != nil {
			all = append(all, fmt.Errorf("writing the report: %w", err))
		}
	}
	return errors.Join(all...)
}

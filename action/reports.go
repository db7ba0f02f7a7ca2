package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/report"
)

// reportForms are what the input reports can name, in the order of its documentation.
var reportForms = []struct {
	name, file string
	write      func(io.Writer, phase.Report) error
}{
	{"html", "report.html", report.HTML},
	{"json", "report.json", report.JSON},
	{"junit", "junit.xml", report.JUnit},
	{"markdown", "report.md", func(w io.Writer, r phase.Report) error { return report.Markdown(w, r, report.MarkdownConfig{}) }},
}

func reportNames() []string {
	var all []string
	for _, f := range reportForms {
		all = append(all, f.name)
	}
	return all
}

// writeReports writes the wanted forms below dir, which is made if need be, and returns the
// path of each that was written whole. One that cannot be written does not keep the others.
func writeReports(dir string, names []string, r phase.Report) (map[string]string, error) {
	written := map[string]string{}
	if len(names) == 0 {
		return written, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return written, fmt.Errorf("writing the report: %w", err)
	}
	var all []error
	for _, f := range reportForms {
		if !slices.Contains(names, f.name) {
			continue
		}
		path := filepath.Join(dir, f.file)
		var text bytes.Buffer
		err := f.write(&text, r)
		if err == nil {
			err = os.WriteFile(path, text.Bytes(), 0o644)
		}
		if err != nil {
			all = append(all, fmt.Errorf("writing the report: %w", err))
			continue
		}
		written[f.name] = path
	}
	return written, errors.Join(all...)
}

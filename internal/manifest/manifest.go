// Package manifest renders the YAML templates that lie beside the code that
// applies them.
package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
)

// Render executes the template name of files with values. Beside Go's own functions
// a template has quote, lower, indent (spaces, text), hash (a short one, quoted) and funcs.
// A value that is missing is an error.
func Render(files fs.FS, name string, values any, funcs template.FuncMap) ([]byte, error) {
	all := template.FuncMap{"quote": strconv.Quote, "lower": strings.ToLower, "indent": indent, "hash": hash}
	maps.Copy(all, funcs)
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return nil, err
	}
	t, err := template.New(name).Option("missingkey=error").Funcs(all).Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", name, err)
	}
	var out bytes.Buffer
	if err := t.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// plain has nothing that YAML, HCL or a shell would read as more than a word.
var plain = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9._:/@-]*$`)

// Plain says which of a Config's fields, by name, a template cannot take as they are.
func Plain(fields map[string]string) error {
	var faults []error
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !plain.MatchString(fields[name]) {
			faults = append(faults, fmt.Errorf("Config.%s %q: want letters, digits and . _ - : / @", name, fields[name])) //nolint:staticcheck // it begins with a name
		}
	}
	return errors.Join(faults...)
}

func indent(n int, text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if line != "" {
			lines[i] = strings.Repeat(" ", n) + line
		}
	}
	return strings.Join(lines, "\n")
}

// hash is in quotes, or YAML could take it for a number.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return strconv.Quote(hex.EncodeToString(sum[:8]))
}

package cilium

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart"
)

// fingerprint names a chart's content and values: equal for a chart just loaded
// and for the same chart read back from a release. It is taken from the release
// itself and not from a label beside it, so it cannot outlive a rollback.
func fingerprint(c *chart.Chart, values map[string]any) (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	var add func(c *chart.Chart) error
	add = func(c *chart.Chart) error {
		fmt.Fprintf(h, "chart %q %q\n", c.Name(), c.Metadata.Version)
		for _, files := range [][]*chart.File{c.Templates, c.Files} {
			files = slices.SortedFunc(slices.Values(files), func(a, b *chart.File) int { return strings.Compare(a.Name, b.Name) })
			for _, f := range files {
				fmt.Fprintf(h, "file %q %x\n", f.Name, sha256.Sum256(f.Data))
			}
		}
		fmt.Fprintf(h, "schema %x\n", sha256.Sum256(c.Schema))
		if err := enc.Encode(c.Values); err != nil {
			return err
		}
		for _, dep := range c.Dependencies() {
			if err := add(dep); err != nil {
				return err
			}
		}
		return nil
	}
	if c == nil || c.Metadata == nil {
		return "", fmt.Errorf("cilium: a release without a chart")
	}
	if err := add(c); err != nil {
		return "", fmt.Errorf("cilium: fingerprint of chart %s: %w", c.Name(), err)
	}
	if err := enc.Encode(values); err != nil {
		return "", fmt.Errorf("cilium: the values are not plain data (maps, lists, strings, numbers, booleans): %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)[:16]), nil
}

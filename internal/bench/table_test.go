package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	table := Table{Name: "x", Title: "Things made", Versions: []string{"thing 1"}, Notes: []string{"a note"}, Rows: []Row{
		{What: "make", Size: 10, Way: "bare", Seconds: 2, Limit: true},
		{What: "make", Size: 10, Way: "ours", Seconds: 2.5, MemoryMiB: 7},
		{What: "keep", Size: 10, Way: "ours", Seconds: 1, Wrong: "WRONG: 1 is missing"},
	}}
	got := table.String()
	for _, want := range []string{"Things made (thing 1)", "1.25   7", "WRONG: 1 is missing", "- a note"} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
	grown := Table{SizeName: "nodes", Rows: []Row{{What: "load", Size: 3, Way: "ours", Seconds: 3}, {What: "load", Size: 1, Way: "ours", Seconds: 2}, {What: "load", Size: 1, Way: "theirs", Seconds: 1}}}
	if got := grown.String(); !strings.Contains(got, "nodes") || strings.Count(got, "1.50") != 1 {
		t.Errorf("how time grows from one node to three is not told:\n%s", got)
	}
	dir := t.TempDir()
	if err := write(dir, Result{Machine: thisMachine(), Tables: []Table{table, {Name: "empty"}}}); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "x.svg"))
	if err != nil || !strings.Contains(string(svg), "<svg") {
		t.Errorf("no plot: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "empty.svg")); err == nil {
		t.Error("an empty table has a plot")
	}
}

package main

import (
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	table := Table{Title: "Loading", Versions: []string{"kind v1"}, Rows: []Row{
		{What: "cold", Size: 1, Way: "ours", Limit: true, Seconds: 2},
		{What: "cold", Size: 1, Way: "kind", Seconds: 3},
		{What: "cold", Size: 3, Way: "ours", Limit: true, Seconds: 3},
		{What: "cold", Size: 3, Way: "kind", Seconds: 9, Wrong: "another digest"},
	}}
	if r := table.Ratio(table.Rows[3]); r != 3 {
		t.Errorf("ratio %v", r)
	}
	if g := table.Growth(table.Rows[3]); g != 3 {
		t.Errorf("growth %v", g)
	}
	if g := table.Growth(table.Rows[0]); g != 0 {
		t.Errorf("growth of the least %v", g)
	}
	if s := table.String(); !strings.Contains(s, "another digest") || !strings.Contains(s, "1.50") {
		t.Error(s)
	}
}

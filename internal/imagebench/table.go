package main

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"
)

// Table compares ways to one end.
type Table struct {
	Name, Title string
	// Versions of what is measured, Notes on how.
	Versions, Notes []string
	Rows            []Row
}

// Row is one way, with one number of nodes.
type Row struct {
	What string
	// Size is how many nodes were loaded into.
	Size int
	Way  string
	// Limit says that the others of the same What and Size are measured against this one.
	Limit bool
	// Seconds is the best of all runs.
	Seconds float64
	// Wrong is what is wrong with the result; "" is right.
	Wrong string `json:",omitempty"`
}

// Ratio is r's time in those of the limit of its What and Size; 0 if there is none.
func (t Table) Ratio(r Row) float64 {
	for _, l := range t.Rows {
		if l.Limit && l.What == r.What && l.Size == r.Size && l.Seconds > 0 {
			return r.Seconds / l.Seconds
		}
	}
	return 0
}

// Growth is r's time in those of the same way with the fewest nodes; 0 if r is that one.
func (t Table) Growth(r Row) float64 {
	least := r
	for _, o := range t.Rows {
		if o.What == r.What && o.Way == r.Way && o.Size < least.Size && o.Seconds > 0 {
			least = o
		}
	}
	if least.Size == r.Size {
		return 0
	}
	return r.Seconds / least.Seconds
}

func (t Table) String() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s (%s)\n", t.Title, strings.Join(t.Versions, ", "))
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "what\tnodes\tway\tseconds\ttimes images.Load\ttimes itself with fewest nodes\t")
	for _, r := range t.Rows {
		ratio, growth := "", ""
		if x := t.Ratio(r); x > 0 {
			ratio = fmt.Sprintf("%.2f", x)
		}
		if x := t.Growth(r); x > 0 {
			growth = fmt.Sprintf("%.2f", x)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%.2f\t%s\t%s\t%s\n", r.What, r.Size, r.Way, r.Seconds, ratio, growth, r.Wrong)
	}
	_ = w.Flush() // into memory
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	return b.String()
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
)

// Result is all of a run.
type Result struct {
	Machine Machine
	Tables  []Table
}

// Machine is where it was measured. It names no host and no path.
type Machine struct {
	CPU       string
	Cores     int
	MemoryGiB int
	Go, OS    string
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d GiB, %s, %s", m.CPU, m.Cores, m.MemoryGiB, m.OS, m.Go)
}

func thisMachine() Machine {
	m := Machine{CPU: "unknown", Cores: runtime.NumCPU(), Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH}
	field := func(file, name string) string {
		data, _ := os.ReadFile(file) // absent where it is no Linux
		for line := range strings.Lines(string(data)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
				return strings.TrimSpace(value)
			}
		}
		return ""
	}
	if cpu := field("/proc/cpuinfo", "model name"); cpu != "" {
		m.CPU = cpu
	}
	var kib int
	if _, err := fmt.Sscanf(field("/proc/meminfo", "MemTotal"), "%d", &kib); err == nil {
		m.MemoryGiB = (kib + 1<<19) >> 20
	}
	return m
}

// Table compares ways to one end.
type Table struct {
	// Name is short and stable: it is part of a plot's file name.
	Name, Title string
	// Versions of what is measured, Notes on how.
	Versions []string
	Notes    []string
	// SizeName is what sizes count where it is no number of things done: then there is no
	// rate, but how each way's time grows from its smallest size.
	SizeName string `json:",omitempty"`
	Rows     []Row
}

// Row is one way, at one size.
type Row struct {
	// What is done, to how many things, and by which way.
	What string
	Size int
	Way  string
	// Limit says that the others of the same What and Size are measured against this one.
	Limit bool
	// Aside is for what was only tried to find the limit: it is in the table and in no plot.
	Aside bool `json:",omitempty"`
	// Seconds is the best of all runs.
	Seconds float64
	// MemoryMiB is the peak above the baseline, where it was measured.
	MemoryMiB float64 `json:",omitempty"`
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

// Growth is r's time in those of the same way at its smallest size; 0 if r is that one.
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
	size, rate := "size", "per s"
	if t.SizeName != "" {
		size, rate = t.SizeName, "grown"
	}
	fmt.Fprintf(w, "what\t%s\tway\tseconds\t%s\tratio\tMiB\t\n", size, rate)
	for _, r := range t.Rows {
		ratio, memory, pace := "", "", ""
		if x := t.Growth(r); t.SizeName == "" {
			pace = fmt.Sprintf("%.0f", float64(r.Size)/r.Seconds)
		} else if x > 0 {
			pace = fmt.Sprintf("%.2f", x)
		}
		if x := t.Ratio(r); x > 0 {
			ratio = fmt.Sprintf("%.2f", x)
		}
		if r.MemoryMiB > 0 {
			memory = fmt.Sprintf("%.0f", r.MemoryMiB)
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%.2f\t%s\t%s\t%s\t%s\n", r.What, r.Size, r.Way, r.Seconds, pace, ratio, memory, r.Wrong)
	}
	_ = w.Flush() // into memory
	for _, n := range t.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	return b.String()
}

// write puts bench.json and a plot for each table into dir.
func write(dir string, r Result) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bench.json"), append(data, '\n'), 0o644); err != nil {
		return err
	}
	for _, t := range r.Tables {
		if err := plotTable(filepath.Join(dir, t.Name+".svg"), t); err != nil {
			return fmt.Errorf("plot %s: %w", t.Name, err)
		}
	}
	return nil
}

// Command bench measures what this module does beside other ways to the same end, side by
// side in one run, and says so as a table, as JSON and as SVG plots. It is a module of its
// own, so that importers pay for none of it.
//
//	make bench-short
//
// A section is a function that fills tables: add one to sections for anything else.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// config is what a section is told.
type config struct {
	// short is for some minutes in all.
	short bool
	// sizes are how many entries are created, where it is not short; none is those of the section.
	sizes []int
	// repeat is how often each thing is measured; the best counts.
	repeat int
	// log tells of progress.
	log func(format string, args ...any)
}

// section measures one thing.
type section struct {
	name, doc string
	run       func(context.Context, config) ([]Table, error)
}

var sections = []section{
	{"entries", "keep the registration entries of a SPIRE server equal to a list", entries},
	{"images", "load images into the nodes of a kind cluster", loaded},
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var (
		c    config
		out  string
		only string
	)
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprintln(stderr, "Measures this module beside other ways to the same end. Sections:")
		for _, s := range sections {
			fmt.Fprintf(stderr, "  %-10s %s\n", s.name, s.doc)
		}
		fmt.Fprintln(stderr, "Exit code: 0, or 1 if anything failed or had a wrong result. Time never fails. Flags:")
		f.PrintDefaults()
	}
	f.BoolVar(&c.short, "short", false, "measure less, in at most 5 minutes")
	f.IntVar(&c.repeat, "repeat", 0, "measure each thing so often, and take the best (default 1 if short, else 2)")
	f.Func("entries", "create so many entries and measure nothing else of that section, where it is not short: numbers, comma-separated (default 1000,5000,10000)", func(list string) error {
		for _, text := range strings.Split(list, ",") {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 {
				return fmt.Errorf("%q is no number of entries", text)
			}
			c.sizes = append(c.sizes, n)
		}
		return nil
	})
	f.StringVar(&out, "out", "", "folder for bench.json and the plots (default: none are written)")
	f.StringVar(&only, "section", "", "only these, comma-separated (default: all)")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 1
	}
	if c.repeat <= 0 {
		c.repeat = 2
		if c.short {
			c.repeat = 1
		}
	}
	c.log = func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }

	r := Result{Machine: thisMachine()}
	fmt.Fprintln(stdout, r.Machine)
	code := 0
	for _, s := range sections {
		if only != "" && !strings.Contains(","+only+",", ","+s.name+",") {
			continue
		}
		tables, err := s.run(ctx, c)
		for _, t := range tables {
			fmt.Fprintf(stdout, "\n%s", t)
			for _, row := range t.Rows {
				if row.Wrong != "" {
					code = 1
				}
			}
		}
		r.Tables = append(r.Tables, tables...)
		if err != nil {
			fmt.Fprintf(stderr, "bench: %s: %v\n", s.name, err)
			code = 1
		}
	}
	if out != "" {
		if err := write(filepath.Clean(out), r); err != nil {
			fmt.Fprintln(stderr, "bench:", err)
			return 1
		}
	}
	return code
}

// Command imagebench measures how long images take into the nodes of a kind cluster, by
// this module and by other ways, side by side in one run on the same nodes. It is a module
// of its own, so that importers pay for none of it.
//
//	go -C internal/imagebench run . -short
//
// It needs a container engine. Results are verified on every node after each measurement: a
// wrong one fails the program, time never does.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// config is what is to be measured.
type config struct {
	sizes     []int // of the cluster: how many of its nodes are loaded into
	megabytes int   // of the image, unpacked
	repeat    int   // the best counts
	nodeImage string
	cluster   string
	keep      bool // the cluster
	only      string
	log       func(format string, args ...any)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := config{sizes: []int{1, 3, 5}, log: func(format string, a ...any) { fmt.Fprintf(stderr, format+"\n", a...) }}
	var short bool
	var out string
	f := flag.NewFlagSet("imagebench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&short, "short", false, "one node and a small image, for a minute")
	f.StringVar(&out, "out", "", "file for the result as JSON")
	f.IntVar(&c.megabytes, "mb", 0, "size of the image, unpacked, in MB (default 378, or 24 if short)")
	f.IntVar(&c.repeat, "repeat", 1, "measure each thing so often, and take the best")
	f.StringVar(&c.nodeImage, "node-image", "", "image of the nodes (default: the one that kind was made for)")
	f.StringVar(&c.cluster, "name", "load-bench", "name of the cluster, which is made and removed")
	f.BoolVar(&c.keep, "keep", false, "leave the cluster, and take the one that is there")
	f.StringVar(&c.only, "only", "", "only these cases, comma-separated: cold, changed, present, retag, ten")
	f.Func("nodes", "numbers of nodes to load into (default 1,3,5, or 1 if short)", func(s string) error {
		c.sizes = nil
		for word := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 {
				return errors.New("want numbers such as 1,3,5")
			}
			c.sizes = append(c.sizes, n)
		}
		return nil
	})
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if short {
		c.sizes = c.sizes[:1]
	}
	if c.megabytes == 0 {
		c.megabytes = 378
		if short {
			c.megabytes = 24
		}
	}
	table, err := measure(ctx, c)
	fmt.Fprint(stdout, table)
	if out != "" {
		err = errors.Join(err, writeJSON(out, table))
	}
	if err != nil {
		fmt.Fprintln(stderr, "imagebench:", err)
		return 1
	}
	for _, r := range table.Rows {
		if r.Wrong != "" {
			return 1
		}
	}
	return 0
}

func writeJSON(file string, t Table) error {
	raw, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

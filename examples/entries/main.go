// Command entries keeps the registration entries of a SPIRE server equal to files.
//
//	go run ./examples/entries plan -socket /tmp/spire-server/private/api.sock entries.yaml
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
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"

	"github.com/org/spire-vault-99-action/examples/entries/entryfile"
	"github.com/org/spire-vault-99-action/spire"
)

func main() {
	klog.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

const usage = `Keeps the registration entries of a SPIRE server equal to files.

  entries plan  [flags] FILE...   says what would change, and changes nothing
  entries apply [flags] FILE...   changes it

Only entries of -owner are changed or deleted, which are those whose ID begins with
its name and a dot; all others stay as they are. What is in no file is deleted, last.
apply can be stopped anywhere and run again.

A FILE is YAML or JSON, a folder with such files, or - for standard input:

  entries:
    - spiffeID: spiffe://demo.local/ns/shop/sa/cart
      parentID: spiffe://demo.local/node/c1
      selectors: [k8s:ns:shop, k8s:sa:cart]
      x509TTL: 1h                  # optional, as are the rest:
      jwtTTL: 5m                   # dnsNames, federatesWith, hint, admin,
      expiresAt: 2030-01-01T00:00:00Z   # downstream, storeSVID

or what "spire-server entry create -data" takes, or ClusterStaticEntry manifests of
spire-controller-manager.

The server, one of:

  -socket /tmp/spire-server/private/api.sock     its own socket, on its machine
  -server spire.example:8081                     its address, as an admin, with the SVID
                                                 of the Workload API at -workload-api
  -cluster                                       in a cluster, by its kubeconfig, as
                                                 spire/deploy installs it

Examples:

  entries plan -socket /tmp/spire-server/private/api.sock entries.yaml
  entries apply -socket /tmp/spire-server/private/api.sock -max-deletes 10 entries/
  entries plan -server spire.example:8081 -workload-api unix:///run/spire/agent.sock e.json
  go run ./examples/derive -intent zerotrust.yaml entries | entries apply -cluster -

The plan goes to standard output, progress and errors to standard error.
Exit code: plan: 0 if nothing is to do, 2 if something is. apply: 0 if all is as wanted.
Both: 1 for an error, which an entry is that somebody else's stands in the way of. Flags:
`

// The exit codes, those of "terraform plan -detailed-exitcode".
const (
	exitDone    = 0
	exitError   = 1
	exitChanges = 2
)

type options struct {
	socket, server, serverID, workloadAPI  string
	cluster                                bool
	kubeconfig, context, namespace, domain string
	owner                                  string
	maxDeletes, batchSize, inARow          int
	timeout                                time.Duration
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var o options
	f := flag.NewFlagSet("entries", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Usage = func() {
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
	}
	f.StringVar(&o.socket, "socket", "", "path of the server's own unix socket")
	f.StringVar(&o.server, "server", "", "host:port of the server's API")
	f.StringVar(&o.serverID, "server-id", "", "SPIFFE ID that the server must show (default: /spire/server of our SVID's trust domain)")
	f.StringVar(&o.workloadAPI, "workload-api", os.Getenv("SPIFFE_ENDPOINT_SOCKET"), "address of the Workload API, for -server")
	f.BoolVar(&o.cluster, "cluster", false, "find the server in a cluster")
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig, for -cluster (default: kubectl's)")
	f.StringVar(&o.context, "context", "", "context of the kubeconfig (default: its current one)")
	f.StringVar(&o.namespace, "namespace", "spire-system", "namespace of the server, for -cluster")
	f.StringVar(&o.domain, "trust-domain", "demo.local", "trust domain of the server, for -cluster")
	f.StringVar(&o.owner, "owner", spire.DefaultOwner, "in whose name entries are created, changed and deleted")
	f.IntVar(&o.maxDeletes, "max-deletes", 0, "change nothing if more entries would be deleted (0: no limit)")
	f.IntVar(&o.batchSize, "batch", 0, "entries per call (0: as measured to be best)")
	f.IntVar(&o.inARow, "parallel", 0, "calls at a time (0: as measured to be best)")
	f.DurationVar(&o.timeout, "timeout", 0, "give up after this long (0: never)")

	say := func(format string, args ...any) int {
		fmt.Fprintf(stderr, "entries: "+format+"\n", args...)
		return exitError
	}
	if len(args) == 0 || !slices.Contains([]string{"plan", "apply"}, args[0]) {
		if len(args) > 0 && slices.Contains([]string{"-h", "-help", "--help", "help"}, args[0]) {
			f.Usage()
			return exitDone
		}
		return say("want plan or apply first: see --help")
	}
	switch err := f.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return exitDone
	case err != nil:
		return exitError
	case f.NArg() == 0:
		return say("no FILE is given: see --help")
	}
	want, err := read(f.Args(), stdin)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return say("nothing changed, as the files have faults")
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	conn, done, err := connect(ctx, o)
	if err != nil {
		return say("%v", err)
	}
	defer done()
	r, err := spire.Sync(ctx, conn, want, spire.SyncConfig{
		Owner: o.owner, DryRun: args[0] == "plan", MaxDeletes: o.maxDeletes,
		BatchSize: o.batchSize, Parallel: o.inARow, OnEvent: progress(stderr),
	})
	if args[0] == "plan" {
		fmt.Fprint(stdout, r.Plan)
	} else {
		fmt.Fprintln(stdout, r)
	}
	switch {
	case err != nil:
		return say("%v", err)
	case r.DryRun && len(r.Plan.Conflicts) > 0:
		return say("%d entries cannot be had: see ! above", len(r.Plan.Conflicts))
	case r.DryRun && !r.Plan.Empty():
		return exitChanges
	}
	return exitDone
}

// progress prints events, of those that come often one in a second.
func progress(w io.Writer) func(spire.Event) {
	var (
		mu   sync.Mutex
		last time.Time
	)
	return func(e spire.Event) {
		mu.Lock()
		defer mu.Unlock()
		counts := e.Kind != spire.EventFailed && e.Kind != spire.EventWaiting && e.Kind != spire.EventPlanned
		if counts && e.Done != e.Total && time.Since(last) < time.Second {
			return
		}
		if counts {
			last = time.Now()
		}
		fmt.Fprintln(w, e)
	}
}

// read takes the entries out of files, and of the files of folders.
func read(paths []string, stdin io.Reader) ([]spire.Entry, error) {
	var (
		lists [][]entryfile.Entry
		errs  []error
	)
	add := func(name string, data []byte, err error) {
		if err == nil {
			var list []entryfile.Entry
			list, err = entryfile.Read(name, data)
			lists = append(lists, list)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, path := range paths {
		if path == "-" {
			data, err := io.ReadAll(stdin)
			add("standard input", data, err)
			continue
		}
		files, err := filesOf(path)
		if err != nil {
			errs = append(errs, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			add(file, data, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return entryfile.Join(lists...)
}

// filesOf is path itself, or what a folder holds of YAML and JSON, by name. A folder that
// holds none is an error: it would delete everything.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	in, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, f := range in {
		switch strings.ToLower(filepath.Ext(f.Name())) {
		case ".yaml", ".yml", ".json":
			files = append(files, filepath.Join(path, f.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no .yaml, .yml or .json file is in this folder", path)
	}
	return files, nil
}

// Command load brings images into the nodes of a kind cluster, with the arguments of
// kind load and in less time: each node is sent the layers that it lacks.
//
//	go run ./examples/load docker-image my/app:v1 --name my-cluster
//	go run ./examples/load image-archive app.tar --nodes my-cluster-worker
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/kindx"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

const usage = `Loads images into the nodes of a kind cluster, as kind load does, in less time: a node is
sent the layers that it lacks, and an image that it has is not touched.

  go run ./examples/load docker-image  IMAGE...  [flags]   images of the container engine
  go run ./examples/load image-archive FILE...   [flags]   what docker save, podman save, buildx, ko or crane write
  go run ./examples/load oci-layout    DIR...    [flags]   OCI image layouts

Examples:
  load docker-image my/app:v1 my/db:v1
  load docker-image my/app:v1 --name other-cluster --nodes other-cluster-worker,other-cluster-worker2
  load image-archive app.tar.gz --name other-cluster
  load oci-layout ./out --ref example.org/my/app:v1

Flags, before or after the arguments:
  -n, --name NAME    the cluster (default "kind", or $KIND_CLUSTER_NAME)
      --nodes A,B    only these of its nodes
      --provider P   docker, podman or nerdctl (default "docker", or $KIND_EXPERIMENTAL_PROVIDER)
      --ref REF      name the image so, whatever it is called: for one image
  -q, --quiet        no progress on stderr
  -h, --help

Exit codes: 0 every image is on every node; 1 a node could not be given all; 2 the arguments
make no sense; 3 there is no such image, file or folder, or it cannot be read; 4 there is no
such cluster or node.
`

// The exit codes.
const (
	loaded = iota
	notLoaded
	badArguments
	noSource
	noCluster
)

// options are the arguments, understood.
type options struct {
	what     string // docker-image, image-archive or oci-layout
	sources  []string
	cluster  string
	nodes    []string
	provider kindx.Provider
	ref      string
	quiet    bool
}

// failure is an error with its exit code.
type failure struct {
	code int
	error
}

func (f failure) Unwrap() error { return f.error }

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o, err := parse(args, getenv)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return loaded
	}
	if err == nil {
		err = load(ctx, o, stderr)
	}
	if err == nil {
		return loaded
	}
	fmt.Fprintln(stderr, "load:", err)
	if f, ok := errors.AsType[failure](err); ok {
		return f.code
	}
	return notLoaded
}

// parse understands flags anywhere among the arguments, as kind does.
func parse(args []string, getenv func(string) string) (options, error) {
	o := options{cluster: "kind", provider: kindx.Docker}
	if name := getenv("KIND_CLUSTER_NAME"); name != "" {
		o.cluster = name
	}
	if p := getenv("KIND_EXPERIMENTAL_PROVIDER"); p != "" {
		o.provider = kindx.Provider(p)
	}
	f := flag.NewFlagSet("load", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Usage = func() {}
	for _, name := range []string{"name", "n"} {
		f.StringVar(&o.cluster, name, o.cluster, "")
	}
	for _, name := range []string{"quiet", "q"} {
		f.BoolVar(&o.quiet, name, false, "")
	}
	f.StringVar((*string)(&o.provider), "provider", string(o.provider), "")
	f.StringVar(&o.ref, "ref", "", "")
	f.Func("nodes", "", func(s string) error {
		for node := range strings.SplitSeq(s, ",") {
			if node = strings.TrimSpace(node); node != "" && !slices.Contains(o.nodes, node) {
				o.nodes = append(o.nodes, node)
			}
		}
		return nil
	})
	bad := func(format string, a ...any) (options, error) {
		return o, failure{badArguments, fmt.Errorf(format+`; "load --help" shows examples`, a...)}
	}
	var words []string
	for rest := args; ; {
		if err := f.Parse(rest); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return o, err
			}
			return bad("%w", err)
		}
		if f.NArg() == 0 {
			break
		}
		// All after "--" are words, which Parse has swallowed.
		if at := len(rest) - f.NArg() - 1; at >= 0 && rest[at] == "--" {
			words = append(words, f.Args()...)
			break
		}
		words, rest = append(words, f.Arg(0)), f.Args()[1:]
	}
	if len(words) == 0 {
		return bad("what is to be loaded is missing: docker-image, image-archive or oci-layout")
	}
	o.what = words[0]
	for _, source := range words[1:] {
		if !slices.Contains(o.sources, source) {
			o.sources = append(o.sources, source)
		}
	}
	if !slices.Contains([]string{"docker-image", "image-archive", "oci-layout"}, o.what) {
		return bad("%q cannot be loaded: say docker-image, image-archive or oci-layout", o.what)
	}
	if len(o.sources) == 0 {
		return bad("%s: name at least one", o.what)
	}
	if o.ref != "" && len(o.sources) > 1 {
		return bad("--ref %s: %d images cannot all be named so", o.ref, len(o.sources))
	}
	if !slices.Contains([]kindx.Provider{kindx.Docker, kindx.Podman, kindx.Nerdctl}, o.provider) {
		return bad("provider %q: say docker, podman or nerdctl", o.provider)
	}
	return o, nil
}

func load(ctx context.Context, o options, stderr io.Writer) (err error) {
	on := func(e images.Event) { fmt.Fprintln(stderr, e) }
	if o.quiet {
		on = nil
	}
	// The engine is asked for both at once.
	type found struct {
		nodes []images.Node
		err   error
	}
	nodes := make(chan found, 1)
	go func() {
		n, err := pickNodes(ctx, o)
		nodes <- found{n, err}
	}()
	all, closer, sourceErr := open(ctx, o, on)
	defer func() { err = errors.Join(err, closer()) }()
	at := <-nodes
	if sourceErr != nil {
		return failure{noSource, sourceErr}
	}
	if at.err != nil {
		return failure{noCluster, at.err}
	}
	_, err = images.Load(ctx, at.nodes, all, images.LoadConfig{Latest: true, OnEvent: on})
	return err
}

// open reads what is to be loaded. The func closes it, also beside an error.
func open(ctx context.Context, o options, on func(images.Event)) (all []images.NamedImage, closer func() error, err error) {
	cfg := images.SourceConfig{Ref: o.ref, OnEvent: on}
	var archives []*images.Archive
	closer = func() error {
		var errs []error
		for _, a := range archives {
			errs = append(errs, a.Close())
		}
		return errors.Join(errs...)
	}
	switch o.what {
	case "docker-image":
		engine, err := images.OpenEngine(ctx, string(o.provider), o.sources, cfg)
		if err != nil {
			return nil, closer, err
		}
		return engine.Images, engine.Close, nil
	case "image-archive":
		for _, file := range o.sources {
			a, err := images.OpenArchive(ctx, file, cfg)
			if err != nil {
				return nil, closer, hint(err)
			}
			archives = append(archives, a)
			all = append(all, a.Images...)
		}
	case "oci-layout":
		for _, dir := range o.sources {
			some, err := images.OpenLayout(dir, cfg)
			if err != nil {
				return nil, closer, hint(err)
			}
			all = append(all, some...)
		}
	}
	return all, closer, nil
}

// hint says it in the words of the command line.
func hint(err error) error {
	if strings.Contains(err.Error(), "SourceConfig.Ref") {
		return fmt.Errorf("%w: here by --ref", err)
	}
	return err
}

// pickNodes are the nodes that were asked for, or all of the cluster.
func pickNodes(ctx context.Context, o options) ([]images.Node, error) {
	cfg := kindx.Config{Provider: o.provider}
	nodes, err := kindx.NodesOf(ctx, o.cluster, cfg)
	if errors.Is(err, kindx.ErrNotFound) {
		return nil, noSuchCluster(ctx, o, err)
	}
	if err != nil {
		return nil, err
	}
	byName := map[string]images.Node{}
	var all []images.Node
	var names []string
	for _, n := range nodes {
		byName[n.Name()] = n
		all, names = append(all, n), append(names, n.Name())
	}
	if len(o.nodes) == 0 {
		return all, nil
	}
	var picked []images.Node
	for _, name := range o.nodes {
		n, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("cluster %q has no node %q: it has %s", o.cluster, name, strings.Join(names, ", "))
		}
		picked = append(picked, n)
	}
	return picked, nil
}

func noSuchCluster(ctx context.Context, o options, err error) error {
	clusters, listErr := kindx.Clusters(ctx, kindx.Config{Provider: o.provider})
	switch {
	case listErr != nil:
		return errors.Join(err, listErr)
	case len(clusters) == 0:
		return fmt.Errorf("%w: %s has no cluster of kind's at all; make one with kind create cluster --name %s", err, o.provider, o.cluster)
	}
	return fmt.Errorf("%w: there is %s; name one with --name", err, strings.Join(clusters, ", "))
}

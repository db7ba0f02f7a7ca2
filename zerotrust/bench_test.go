//go:build e2e

package zerotrust

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"sigs.k8s.io/kind/cmd/kind/app"
	"sigs.k8s.io/kind/pkg/cmd"
	"sigs.k8s.io/kind/pkg/log"

	"github.com/org/spire-vault-99-action/images"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
)

// BenchmarkStack measures what a user waits for, on a cluster of its own: from
// nothing to proven, again with nothing to do, and an image with one changed layer
// into the nodes, beside kind's own way in the same run.
func BenchmarkStack(b *testing.B) {
	cfg := labConfig(b)
	cfg.Intent.Name = "precinct-99-bench"
	remove := func() {
		if err := Down(context.Background(), cfg); err != nil {
			b.Error(err)
		}
	}
	b.Cleanup(remove)
	ctx := b.Context()
	benchRun(b, ctx, cfg, phase.Options{Only: []string{"images"}}) // builds; not measured
	for b.Loop() {
		b.StopTimer()
		remove()
		b.StartTimer()
		first := benchRun(b, ctx, cfg, phase.Options{})
		b.StopTimer()
		second := benchRun(b, ctx, cfg, phase.Options{})
		for i, p := range first.Phases {
			fmt.Printf("%-22s %7.1f s   again %6.1f s\n", p.Name, p.Duration.Seconds(), second.Phases[i].Duration.Seconds())
		}
		fmt.Printf("%-22s %7.1f s   again %6.1f s\n", "all", took(first).Seconds(), took(second).Seconds())
		b.ReportMetric(took(first).Seconds(), "s/first")
		b.ReportMetric(took(second).Seconds(), "s/again")
		benchLoad(b, ctx, cfg)
		b.StartTimer()
	}
}

func benchRun(b *testing.B, ctx context.Context, cfg Config, o phase.Options) phase.Report {
	b.Helper()
	s, err := New(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r, err := phase.RunWith(ctx, s.Phases(), o, nil)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// benchLoad changes one layer of 5 MB on top of the Cilium image and brings it to
// the nodes, by images.Load and by kind load docker-image.
func benchLoad(b *testing.B, ctx context.Context, cfg Config) {
	b.Helper()
	s, err := New(ctx, cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	base, err := s.cached(AgentImage)
	if err != nil || base == nil {
		b.Fatalf("image %s: %v", AgentImage, err)
	}
	nodes, err := s.nodes(ctx)
	if err != nil {
		b.Fatal(err)
	}
	timed := func(f func() error) float64 {
		b.Helper()
		start := time.Now()
		if err := f(); err != nil {
			b.Fatal(err)
		}
		return time.Since(start).Seconds()
	}
	ours := func(n images.NamedImage) func() error {
		return func() error {
			_, err := images.Load(ctx, nodes, []images.NamedImage{n}, images.LoadConfig{})
			return err
		}
	}
	kinds := func(n images.NamedImage) func() error {
		return func() error {
			streams := cmd.IOStreams{In: &bytes.Buffer{}, Out: &bytes.Buffer{}, ErrOut: &bytes.Buffer{}}
			return app.Run(log.NoopLogger{}, streams, []string{"load", "docker-image", n.Ref, "--name", cfg.Intent.Name})
		}
	}
	// Both start with an earlier version on the nodes, and kind with the image in
	// the engine, where a user of kind load has it.
	old, changedOurs, changedKind := benchImage(b, base, "1"), benchImage(b, base, "2"), benchImage(b, base, "3")
	for _, n := range []images.NamedImage{old, changedKind} {
		if err := images.LoadEngine(ctx, n, images.LoadConfig{}); err != nil {
			b.Fatal(err)
		}
	}
	timed(kinds(old))
	timed(ours(old))
	kindChanged, oursChanged := timed(kinds(changedKind)), timed(ours(changedOurs))
	kindThere, oursThere := timed(kinds(changedKind)), timed(ours(changedOurs))
	fmt.Printf("one 5 MB layer changed, %d nodes: kind load docker-image %.1f s, images.Load %.1f s: %.1f times faster\n", len(nodes), kindChanged, oursChanged, kindChanged/oursChanged)
	fmt.Printf("already there: kind load docker-image %.2f s, images.Load %.2f s\n", kindThere, oursThere)
	b.ReportMetric(kindChanged/oursChanged, "times-kind-load")
}

func benchImage(b *testing.B, base v1.Image, version string) images.NamedImage {
	b.Helper()
	content := make([]byte, 5<<20)
	if _, err := rand.Read(content); err != nil {
		b.Fatal(err)
	}
	layer, err := images.Layer([]images.File{images.FileFromBytes("/opt/changed", 0o644, content)}, images.Zstd)
	if err != nil {
		b.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		b.Fatal(err)
	}
	return images.NamedImage{Ref: "zerotrust.local/bench/image:v" + version, Image: img}
}

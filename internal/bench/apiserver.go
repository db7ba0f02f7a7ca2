package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/spire/spiretest"
)

var staticEntries = schema.GroupVersionResource{Group: "spire.spiffe.io", Version: "v1alpha1", Resource: "clusterstaticentries"}

// createdFromCluster has spire-controller-manager create them out of the objects of a real API
// server. Sizes must rise.
func (b entriesBench) createdFromCluster(ctx context.Context, d database, sizes []int) (rows []Row, err error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	_, remove, err := newCluster(ctx, b.config, "bench-entries", 0, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS = -1 // no limit of our own
	cluster, err := kube.New(cfg)
	if err != nil {
		return nil, err
	}
	definitions, err := filepath.Glob(filepath.Join(b.controllerSource, "config", "crd", "bases", "*.yaml"))
	if err != nil || len(definitions) == 0 {
		return nil, fmt.Errorf("no definitions of spire-controller-manager's kinds below %s: %w", b.controllerSource, err)
	}
	for _, file := range definitions {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if err := cluster.Apply(ctx, owner, text); err != nil {
			return nil, err
		}
	}
	put := 0
	for _, n := range sizes {
		want := wanted(n)
		if err := putStaticEntries(ctx, cluster, want, put); err != nil {
			return nil, err
		}
		put = n
		row := Row{What: "create", Size: n, Way: "spire-controller-manager, API server"}
		for range b.repeat {
			err := b.server(ctx, d, func(t testing.TB, real *spiretest.Real) error {
				return b.measure(&row, func() (time.Duration, string, error) {
					r, err := b.reconcile(ctx, t, real, n, nil, "KUBECONFIG="+kubeconfig, "ENABLE_WEBHOOKS=false")
					if err != nil {
						return 0, "", err
					}
					return r.write, missing(ctx, real.Conn, want), nil
				})
			})
			if err != nil {
				return nil, err
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// putStaticEntries puts want from its index on into the cluster.
func putStaticEntries(ctx context.Context, cluster *kube.Client, want []spire.Entry, from int) error {
	objects := cluster.Dynamic().Resource(staticEntries)
	// Its kind may be established some moments after its definition.
	if err := kube.Wait(ctx, "the API server to know ClusterStaticEntry", 100*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		_, err := objects.List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil, fmt.Sprint(err), nil
	}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i := from; i < len(want); i++ {
		g.Go(func() error {
			_, err := objects.Create(ctx, &unstructured.Unstructured{Object: manifest(i, want[i])}, metav1.CreateOptions{})
			return err
		})
	}
	return g.Wait()
}

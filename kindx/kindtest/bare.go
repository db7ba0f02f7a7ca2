package kindtest

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/kindx"
)

// Bare is one of kind's clusters that was made without a network, with a control plane and one
// worker, and given no image. It goes when the test ends.
type Bare struct {
	// REST connects to it, as its administrator.
	REST *rest.Config
	// Nodes are the names of its nodes, the worker last.
	Nodes []string

	client *kube.Client
}

// NewBare makes the cluster that cfg names; of cfg, Name, Image, Kubeconfig and StateDir count.
func NewBare(tb testing.TB, cfg kindx.Config) *Bare {
	tb.Helper()
	cfg.Workers, cfg.DisableDefaultCNI, cfg.KubeProxyMode = 1, true, "none"
	remove := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 2*time.Minute)
		defer cancel()
		if err := kindx.Delete(ctx, cfg.Name, cfg); err != nil {
			tb.Error(err)
		}
	}
	remove() // what an earlier test left
	tb.Cleanup(remove)
	if _, err := kindx.Ensure(tb.Context(), cfg); err != nil {
		tb.Fatal(err)
	}
	b := &Bare{Nodes: []string{cfg.Name + "-control-plane", cfg.Name + "-worker"}}
	var err error
	if b.REST, err = kindx.REST(tb.Context(), cfg.Name); err == nil {
		b.client, err = kube.New(b.REST)
	}
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// What a cluster has that is used in earnest: storage that outlives a pod, by default.
const (
	class = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: provided, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
`
	volume = `---
apiVersion: v1
kind: PersistentVolume
metadata: {name: NAME}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: provided
  local: {path: /var/lib/provided/NAME}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [NODE]}]}]}}
`
)

// ProvideStorage gives it a default storage class, with room for three claims on the worker, in
// place of kind's own, whose folders are root's.
func (b *Bare) ProvideStorage(tb testing.TB) {
	tb.Helper()
	if err := b.client.Clientset().StorageV1().StorageClasses().Delete(tb.Context(), "standard", metav1.DeleteOptions{}); err != nil {
		tb.Fatal(err)
	}
	worker := b.Nodes[len(b.Nodes)-1]
	nodes, err := kindx.Nodes(tb.Context(), strings.TrimSuffix(worker, "-worker"))
	if err != nil {
		tb.Fatal(err)
	}
	node := nodes[slices.IndexFunc(nodes, func(n *kindx.Node) bool { return n.Name() == worker })]
	docs := class
	for _, name := range []string{"one", "two", "three"} {
		docs += strings.NewReplacer("NAME", name, "NODE", worker).Replace(volume)
		if err := node.Exec(tb.Context(), nil, nil, "install", "--directory", "--mode=0777", "/var/lib/provided/"+name); err != nil {
			tb.Fatal(err)
		}
	}
	if err := b.client.Apply(tb.Context(), "provider", []byte(docs)); err != nil {
		tb.Fatal(err)
	}
}

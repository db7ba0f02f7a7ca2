package zerotrust

import (
	"context"
	"fmt"
	"path"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/kindx"
)

// localClass is the storage class of volumes that are folders of a node: a kind
// cluster has no other storage that outlives a pod.
const localClass = "zerotrust-local"

// volume is the one that a server's StatefulSet claims.
type volume struct {
	workload Workload
	uid, gid int // of its container
	node     string
}

// claim is the name that a StatefulSet gives to the claim of its first pod.
func (v volume) claim() string { return "data-" + v.workload.Name + "-0" }

func (v volume) name() string {
	return "zerotrust-" + v.workload.Namespace + "-" + v.workload.Name
}

func (v volume) folder() string {
	return path.Join("/var/lib/zerotrust", v.workload.Namespace, v.workload.Name)
}

// volumes gives each server of the intent a folder of a worker, in turn.
func volumes(in Intent, workers []string) []volume {
	owners := map[Server][2]int{Vault: {100, 1000}, Postgres: {999, 999}}
	var all []volume
	for _, w := range in.Workloads {
		if w.Runs != "" {
			o := owners[w.Runs]
			all = append(all, volume{w, o[0], o[1], workers[len(all)%len(workers)]})
		}
	}
	return all
}

// volumeManifests are the storage class and the volumes, each bound to its claim beforehand.
func volumeManifests(all []volume) ([]byte, error) {
	objects := []object{{
		"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
		"metadata":    object{"name": localClass, "labels": managed()},
		"provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer",
	}}
	for _, v := range all {
		objects = append(objects, object{
			"apiVersion": "v1", "kind": "PersistentVolume",
			"metadata": object{"name": v.name(), "labels": managed()},
			"spec": object{
				"capacity": object{"storage": "1Gi"}, "accessModes": []any{"ReadWriteOnce"}, "storageClassName": localClass,
				"persistentVolumeReclaimPolicy": "Retain",
				"claimRef":                      object{"namespace": v.workload.Namespace, "name": v.claim()},
				"local":                         object{"path": v.folder()},
				"nodeAffinity": object{"required": object{"nodeSelectorTerms": []any{object{"matchExpressions": []any{
					object{"key": "kubernetes.io/hostname", "operator": "In", "values": []any{v.node}},
				}}}}},
			},
		})
	}
	return stream(objects)
}

// storageClass is that of the servers' volumes; "" is the cluster's default.
func (s *Stack) storageClass() string {
	if s.installs() {
		return ""
	}
	return localClass
}

// applyStorage makes the servers' folders, which stay as they are where they exist, and
// the volumes of them.
func (s *Stack) applyStorage(ctx context.Context, client *kube.Client) error {
	if s.installs() {
		return nil
	}
	nodes, err := kindx.Nodes(ctx, s.cfg.Intent.Name)
	if err != nil {
		return err
	}
	byName := map[string]*kindx.Node{}
	var workers []string
	for _, n := range nodes {
		byName[n.Name()] = n
		if n.Role() == "worker" {
			workers = append(workers, n.Name())
		}
	}
	if len(workers) == 0 {
		return fmt.Errorf("the cluster %s has no worker node to keep the servers' data", s.cfg.Intent.Name)
	}
	all := volumes(s.cfg.Intent, workers)
	for _, v := range all {
		err := byName[v.node].Exec(ctx, nil, nil, "install", "--directory", "--mode=0770",
			fmt.Sprintf("--owner=%d", v.uid), fmt.Sprintf("--group=%d", v.gid), v.folder())
		if err != nil {
			return err
		}
	}
	docs, err := volumeManifests(all)
	if err != nil {
		return err
	}
	return client.Apply(ctx, Owner, docs)
}
